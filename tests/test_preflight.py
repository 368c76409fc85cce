"""Preflight: what it finds in the run, in the cluster and from a laptop, and how each fault reads."""

import base64
import dataclasses
import inspect
import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import objectstore
import pytest
import yaml
from kfpserver import Kubeflow, serving
from packages import read, tasks_of, text_for

from components.preflight import preflight as component
from croco import memory, plan, preflight, sample
from croco.cluster import Kubernetes, Wanted, check_nodes, check_quotas, from_config, in_pod
from croco.memory import GIB, Model
from croco.preflight import Checks, PreflightConfig, Unknown, attempt, probe
from croco.store import open_store
from pipelines import __main__ as command
from pipelines.placement import Cluster

CONFIG = {
    "num_hidden_layers": 10, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "hidden_size": 512,
    "vocab_size": 1000, "max_position_embeddings": 1024,
}  # fmt: skip
QUESTION = {"question_id": "1", "category": "c", "subcategory": "s", "prompt": "Why?", "language": "en"}
NAMESPACE = "namespaces/kubeflow"
EUROEVAL = "languages, EuroEval"


def model_folder(folder: Path, tensors: dict[str, tuple[str, list[int]]], config: dict[str, Any] = CONFIG) -> Path:
    """A model folder with the heads of these tensors, and no numbers behind them."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    about = {name: {"dtype": kind, "shape": shape, "data_offsets": [0, 0]} for name, (kind, shape) in tensors.items()}
    head = json.dumps({"__metadata__": {"format": "pt"}, **about}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head)
    return folder


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    """Parameters of a run whose models and data are there."""
    names = ("translator", "policy", "reward", "judge")
    models = {name: str(model_folder(tmp_path / name, {"w": ("F32", [1000])})) for name in names}
    (tmp_path / "source.jsonl").write_text("{}\n")
    questions = [QUESTION, {**QUESTION, "language": "da"}]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    return {
        **models,
        "source": str(tmp_path / "source.jsonl"),
        "questions": str(tmp_path / "questions.jsonl"),
        "languages": ["en", "da"],
        "questions_languages": ["en", "da"],
        "store": str(tmp_path / "store"),
        **{"temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_tokens": 80},
    }


def config(world: dict[str, Any], profile: str = "toy", **changes: Any) -> PreflightConfig:
    return PreflightConfig(**{"cluster": Cluster(profile).wanted(), **world, **changes})


def states(checks: Checks) -> dict[str, str]:
    return {finding.what: finding.state for finding in checks.findings()}


def text_of(checks: Checks, what: str) -> str:
    return next(f"{finding.state}: {finding.text}" for finding in checks.findings() if finding.what == what)


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubeflow]:
    """A Kubeflow and a Kubernetes at one address, which kubectl's configuration names."""
    with serving() as state:
        cluster = {"name": "c", "cluster": {"server": state.host}}
        context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
        about = {"clusters": [cluster], "contexts": [context], "users": [{"name": "u", "user": {}}]}
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump({**about, "current-context": "x"}))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
        state.kubernetes.update({"nodes": nodes(), f"{NAMESPACE}/resourcequotas": {"items": []}})
        yield state


def nodes(*gpus: int, labels: dict[str, str] | None = None, disk: str = "500Gi", **spec: Any) -> dict[str, Any]:
    """Nodes with so many GPUs."""
    return {
        "items": [
            {
                "metadata": {"name": f"n{place}", "labels": labels},
                "spec": spec,
                "status": {"allocatable": {"nvidia.com/gpu": str(number), "ephemeral-storage": disk}},
            }
            for place, number in enumerate(gpus)
        ]
    }


def quota(**hard: str) -> dict[str, Any]:
    return {"items": [{"metadata": {"name": "croco"}, "spec": {"hard": hard}}]}


def secret(**values: str) -> dict[str, Any]:
    return {"data": {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}}


def look(kubernetes: Kubeflow) -> Kubernetes:
    found = from_config(None, "kubeflow")
    assert found
    return found


def test_a_run_that_finds_everything_passes(world: dict[str, Any], tmp_path: Path) -> None:
    found = states(Checks(config(world), here=True))
    assert found.pop("quotas") == "unknown"  # there is no cluster
    assert set(found.values()) == {"passed"} and len(found) == 12
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_everything_that_is_wrong_is_named_in_one_go(world: dict[str, Any], tmp_path: Path) -> None:
    wrong = {"policy": str(tmp_path / "none"), "source": "none.jsonl", "languages": ["da", "ga"], "store": "gs://b"}
    with pytest.raises(ValueError, match="4 of 13 checks failed: languages, translation: found ga; ") as caught:
        preflight.run(config(world, **wrong), tmp_path / "page.md")
    for said in (
        "leave them out, or set translator_allow_unsupported",
        f"policy: {tmp_path / 'none'}: found no config.json; expected a model folder or a hub id",
        "source: none.jsonl: found neither file nor folder",
        "store: gs://b: found a store of kind gs://",
    ):
        assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    page = (tmp_path / "page.md").read_text()
    assert page.count("| failed |") == 4 and page.count("| passed |") == 8


MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"count": 0}, "count", "found count 0, max_chars 8000; expected 1 or more of each"),
    ({"translator_format": "gogle"}, "translator_format", "found 'gogle'; expected one of google, infomaniak"),
    ({"translator_max_model_len": 0}, "translator_max_model_len", "found 0; expected 1 or more"),
    ({"start": "lsat"}, "start", "found 'lsat'; expected policy, last, or a version of 12 hexadecimal digits"),
    ({"start": "last"}, "start", "found last, with promote_as empty and store "),
    ({"n": 0}, "n", "found 0; expected 1 or more"),
    ({"n": 64, "temperature": 0.0}, "temperature", "found 0.0 with n = 64; expected a finite number above 0"),
    ({"n": 64, "temperature": None}, "decoding", "found no decoding values for '"),
    ({"top_p": 1.5}, "top_p", "found 1.5; expected above 0, at most 1"),
    ({"top_k": -1}, "top_k", "found -1; expected 0 (off) or more"),
    ({"max_tokens": 0}, "max_tokens", "found 0; expected 1 or more"),
    ({"pool": "prompt"}, "pool", "found 'prompt'; expected one of language, all"),
    ({"rejected_target": "foo"}, "rejected_target", "found 'foo'; expected one of mean-2std, q1, min"),
    ({"k": 0.0}, "k", "found 0.0; expected a positive number of standard deviations"),
    ({"prompt_source": "best"}, "prompt_source", "found 'best'; expected one of chosen, rejected, random"),
    ({"language_guard": "no"}, "language_guard", "found 'no'; expected one of count, exclude"),
    ({"learning_rate": 0.0}, "learning_rate", "found 0.0; expected a number above 0 and finite"),
    ({"beta": -1.0}, "beta", "found -1.0; expected a number above 0 and finite"),
    ({"epochs": 0}, "epochs", "found 0; expected 1 or more"),
    ({"global_batch": 0}, "global_batch", "found 0; expected 1 or more"),
    ({"micro_batch": 0}, "micro_batch", "found 0; expected 1 or more"),
    ({"max_length": 0}, "max_length", "found 0; expected 1 or more"),
    ({"benchmark_suite": "papr"}, "benchmark_suite", "found 'papr'; expected one of paper, official-"),
    ({"benchmark_iterations": 1}, "benchmark_iterations", "found 1; expected 2 or more, an interval needs two"),
    ({"questions_limit": 0}, "questions_limit", "found 0; expected 1 or more"),
    ({"answer_max_tokens": 0}, "answer_max_tokens", "found 0; expected 1 or more"),
    ({"judge_format": "gpt"}, "judge_format", "found 'gpt'; expected one of qwen3.6, plain, toy"),
    ({"judge_endpoint": "host:8000/v1"}, "judge_endpoint", "found an address of another form; expected http://HOST:P"),
    (
        {"judge_endpoint": "http://host:8000/v1", "judge_revision": "main"},
        "judge_revision",
        "found main with an endpoint; expected none; the server decides",
    ),
    ({"promote_as": "croco_da"}, "promote_as", "found 'croco_da'; expected 2 to 63 lower-case letters, digits and das"),
    ({"promote_as": "croco-da", "store": ""}, "promote_as", "found croco-da and no store; expected one, where promo"),
    ({"promote_as": "croco-da", "store": "", "start": "last"}, "promote_as", "found croco-da and no store; expected"),
    ({"promote_min_questions": 5}, "promote_min_questions", "found 5; expected 10 or more"),
    ({"promote_hub": "hf.co/me/croco"}, "promote_hub", "found 'hf.co/me/croco'; expected a repository of the hub, as"),
    ({"promote_registry": "registry:8080"}, "promote_registry", "found 'registry:8080'; expected http://HOST:PORT or "),
    ({"workers": 0}, "workers", "found 0; expected 1 or more"),
]
"""Parameters, the one that is wrong, and how its line begins."""


@pytest.mark.parametrize(("wrong", "name", "said"), MISTAKES, ids=[f"{name} {wrong}" for wrong, name, _ in MISTAKES])
def test_a_setting_that_a_later_stage_would_refuse_is_one_line(
    wrong: dict[str, Any], name: str, said: str, world: dict[str, Any]
) -> None:
    findings = list(Checks(config(world, **wrong), here=True).findings())
    (failed,) = [finding for finding in findings if finding.state == "failed"]
    assert failed.what == name and failed.text.startswith(said)
    assert "settings" not in [finding.what for finding in findings]


def test_settings_that_are_wrong_together_are_a_line_each(world: dict[str, Any]) -> None:
    wrong = {"pool": "prompt", "rejected_target": "foo", "top_p": 2.0, "top_k": -1, "start": "lsat", "promote_as": "X"}
    found = states(Checks(config(world, **wrong), here=True))
    assert {what for what, state in found.items() if state == "failed"} == set(wrong)


def test_several_nodes_cannot_start_from_what_was_promoted(world: dict[str, Any]) -> None:
    last = {"start": "last", "promote_as": "croco-da", "store": "s3://bucket/croco"}
    checks = Checks(config(world, "nodes-2x8x80gb", **last), here=False)
    (failed,) = [finding for finding in checks.findings() if finding.state == "failed"]
    assert str(failed) == ("failed  start: found last, and 2 nodes that train; expected policy, or a profile with one")
    assert states(Checks(config(world, "node-8x80gb", **last), here=False))["settings"] == "passed"


def test_a_greedy_answer_alone_and_a_studys_silence_on_sampling_are_no_mistakes(world: dict[str, Any]) -> None:
    assert states(Checks(config(world, n=1, temperature=0.0), here=True))["settings"] == "passed"
    silent = {name: value for name, value in world.items() if name not in ("temperature", "top_p", "top_k")}
    assert states(Checks(config(silent), here=True))["settings"] == "passed"


def test_data_sets_are_those_of_the_suite_asked_for(world: dict[str, Any]) -> None:
    said = text_of(Checks(config(world, languages=["da"], benchmark_suite="official-16.11"), here=True), EUROEVAL)
    assert said == "passed: 9 data sets for da"
    unknown = Checks(config(world, languages=["da"], benchmark_suite="papr"), here=True)
    assert text_of(unknown, EUROEVAL) == "unknown: no data sets are known of suite papr"


def test_the_first_task_of_a_run_is_handed_every_setting_by_its_name() -> None:
    spec, _ = read(text_for("gpu-80gb"))
    given = tasks_of(spec)["preflight"]["inputs"]["parameters"]
    assert set(given) == {field.name for field in dataclasses.fields(PreflightConfig)}
    assert "runtimeValue" in given.pop("cluster")
    assert {name: source["componentInputParameter"] for name, source in given.items()} == {name: name for name in given}


def test_a_judge_behind_an_endpoint_is_neither_pinned_nor_measured(world: dict[str, Any]) -> None:
    away = {"judge": "judge-of-the-server", "judge_endpoint": "http://host:8000/v1"}
    found = states(Checks(config(world, "gpu-80gb", **away), here=True, read=lambda place, revision: Model(1, CONFIG)))
    assert found["judge"] == "passed" and "memory, arena" not in found and "memory, score" in found
    roles = ("source", "translator", "policy", "reward", "questions")
    decoding = {name: world[name] for name in sample.DECODED}
    settled = plan.settle(**{name: world[name] for name in roles}, **away, revisions={}, decoding=decoding)
    assert settled.judge == ""


def test_a_language_that_is_not_benchmarked_is_said_and_one_alone_fails(world: dict[str, Any]) -> None:
    some = Checks(config(world, languages=["da", "ga"], translator_allow_unsupported=True), here=True)
    assert text_of(some, "languages, translation") == "passed: da, ga"
    assert text_of(some, "languages, EuroEval") == "passed: 8 data sets for da; none for ga, which the report will say"
    alone = Checks(config(world, languages=["ga"]), here=True)
    assert text_of(alone, "languages, EuroEval").startswith("failed: languages: found no data set for ga; expected")


def test_a_language_without_questions_is_named(world: dict[str, Any]) -> None:
    checks = Checks(config(world, questions_languages=["en", "fr"]), here=True)
    assert text_of(checks, "languages, arena").startswith("failed: found no questions in fr; expected them in every")


def test_a_language_that_nobody_knows_is_named_as_it_was_before(world: dict[str, Any]) -> None:
    checks = Checks(config(world, languages=["en", "xx"]), here=True)
    assert text_of(checks, "languages, translation").startswith("failed: language: found 'xx'; expected one of da, ")


def test_from_elsewhere_paths_are_unknown_and_nothing_is_touched(world: dict[str, Any], tmp_path: Path) -> None:
    found = states(Checks(config(world, "gpu-80gb"), here=False))
    paths = {"policy", "translator", "reward", "judge", "source", "questions", "store", "languages, arena"}
    assert {what for what, state in found.items() if state == "unknown"} >= paths
    assert "failed" not in found.values() and not (tmp_path / "store").exists()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """A model hub: everybody sees org/gated, whose files need a token; org/open is open, and data say languages."""

    def do_GET(self) -> None:
        kind, repository, last = self.path.split("/")[2], "/".join(self.path.split("/")[3:5]), self.path.split("/")[-1]
        refused = last == "auth-check" and repository == "org/gated" and self.headers["authorization"] != "Bearer good"
        if repository not in ("org/open", "org/gated"):
            return self.answer(404, {"error": "Repository not found"}, "RepoNotFound")
        if refused:
            return self.answer(403, {"error": "Access to it is restricted"}, "GatedRepo")
        card = {"configs": [{"config_name": code} for code in ("en", "da")]}
        return self.answer(200, {"id": repository, "sha": COMMIT, "cardData": card if kind == "datasets" else None})

    def answer(self, status: int, content: dict[str, Any], code: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_TOKEN", "bad")
        yield
        server.shutdown()
        thread.join()


def test_what_the_token_may_not_read_is_told_from_what_is_not_there(
    hub: None, world: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = config(world, policy="org/open", reward="org/gated", judge="org/none", source="org/open")
    checks = Checks(given, here=False)
    assert text_of(checks, "policy") == text_of(checks, "source") == f"passed: org/open, commit {COMMIT[:12]}"
    assert text_of(checks, "reward").startswith(
        "failed: org/gated: found no such path, and no way to it on the hub (403"
    )
    assert "a token in HF_TOKEN that may read it" in text_of(checks, "reward")
    assert "(404" in text_of(checks, "judge")
    monkeypatch.setenv("HF_TOKEN", "good")
    assert text_of(checks, "reward") == f"passed: org/gated, commit {COMMIT[:12]}"


def test_the_languages_of_a_hubs_questions_are_those_it_lists(hub: None, world: dict[str, Any]) -> None:
    some = Checks(config(world, questions="org/open", questions_languages=["da", "fr"]), here=False)
    assert text_of(some, "languages, arena").startswith("failed: found no questions in fr; expected")
    assert states(Checks(config(world, questions="org/open"), here=False))["languages, arena"] == "passed"


def test_a_hub_that_is_out_of_reach_is_one_line_a_model(world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    checks = Checks(config(world, reward="no-such-org/no-such-model", reward_revision="0" * 40), here=True)
    said = text_of(checks, "reward")
    assert said.startswith("failed: no-such-org/no-such-model: found no such path, and no way to it on the hub (")
    assert "a token in HF_TOKEN that may read it" in said


def test_a_store_is_written_read_and_cleared(tmp_path: Path) -> None:
    assert probe(open_store(tmp_path / "store")) == f"{tmp_path / 'store'} was written, read and cleared"


def test_a_bucket_that_refuses_is_named(s3_port: int, world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = objectstore.new_bucket(s3_port)
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    passed = Checks(config(world, store=bucket.location), here=True)
    assert text_of(passed, "store").startswith("passed: s3://")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    said = text_of(passed, "store")
    assert said.startswith("failed: ") and "expected valid credentials" in said and "wrong-secret" not in said


def test_weights_are_counted_as_they_are_loaded(tmp_path: Path) -> None:
    tensors = {"a": ("F32", [10, 3]), "b": ("BF16", [4]), "c": ("F8_E4M3", [5]), "d": ("I32", [2]), "e": ("U8", [7])}
    assert memory.read(str(model_folder(tmp_path / "m", tensors))).weights == 2 * 30 + 2 * 4 + 5 + 4 * 2 + 7


def test_the_cache_of_a_sequence_counts_the_layers_that_keep_it() -> None:
    a_token = 2 * 2 * 2 * 64  # keys and values, 16 bits, two heads, 64 wide
    assert Model(0, CONFIG).cache(100) == 10 * 100 * a_token
    kinds = ["full_attention"] * 2 + ["sliding_attention"] * 3 + ["linear_attention"] * 5
    assert Model(0, {**CONFIG, "layer_types": kinds, "sliding_window": 30}).cache(100) == (2 * 100 + 3 * 30) * a_token
    assert Model(0, {"vocab_size": 3}).cache(100) is None


def test_a_model_fits_or_the_numbers_are_said() -> None:
    model = Model(20 * GIB, CONFIG)
    said = "22.0 GiB (weights 20.0 GiB, KV cache of 1024 tokens 0.0 GiB, 2.0 GiB to work in) of 36.0 GiB on 1 x 40 GiB"
    assert memory.serving(model, 1, 40, None) == said
    with pytest.raises(
        ValueError, match=r"found a need of 22.0 GiB .* of 21.6 GiB on 1 x 24 GiB; expected it to fit; "
    ):
        memory.serving(model, 1, 24, None)
    assert "of 43.2 GiB on 2 x 24 GiB" in memory.serving(model, 2, 24, None)
    # logits 3 x 4 x 8192 x 1000 and states 2 x 8192 x 512 x 10 bytes
    assert memory.training(model, 40, 1, 4096).startswith("22.2 GiB (weights 20.0 GiB, 1 pairs of 4096 tokens 0.2 GiB")


def test_each_model_is_held_against_its_own_gpus(world: dict[str, Any]) -> None:
    sizes = {"translator": 51, "policy": 17, "reward": 80, "judge": 66}

    def read(place: str, revision: str | None) -> Model:
        return Model(sizes[Path(place).name] * GIB, CONFIG)

    found = states(Checks(config(world, "gpu-80gb"), here=True, read=read))
    memories = {what: state for what, state in found.items() if what.startswith("memory")}
    assert memories == {
        "memory, translate": "passed",
        "memory, sample": "passed",
        "memory, score": "failed",
        "memory, arena": "passed",  # on two
        "memory, train": "passed",
    }


def wanted(profile: str = "gpu-80gb", **cluster: Any) -> Wanted:
    return Wanted.of(json.loads(json.dumps(Cluster(profile, **cluster).wanted()), parse_int=float))


def test_a_node_with_the_gpus_of_the_largest_task_is_found(kubernetes: Kubeflow) -> None:
    kubernetes.kubernetes["nodes"] = nodes(1, 2, 0)
    said = check_nodes(look(kubernetes), wanted())
    assert said == "1 of 3 nodes have 2 nvidia.com/gpu, the most a task asks for (arena)"


@pytest.mark.parametrize(
    "found",
    [
        nodes(),
        nodes(1, 1),
        nodes(8, unschedulable=True),
        nodes(8, taints=[{"key": "team", "effect": "NoSchedule"}]),
    ],
)
def test_gpus_that_nobody_has_are_one_line(found: dict[str, Any], kubernetes: Kubeflow) -> None:
    kubernetes.kubernetes["nodes"] = found
    finding = attempt("GPUs", lambda: check_nodes(look(kubernetes), wanted()))
    assert finding.state == "failed"
    assert f"found {len(found['items'])} nodes, of which at most" in finding.text
    assert "expected 2 for arena; add such a node, compile with another --profile, --gpu-type" in finding.text
    assert attempt("GPUs", lambda: check_nodes(look(kubernetes), wanted(autoscaled=True))).state == "passed"


def test_gpus_of_another_type_than_asked_for_are_not_counted(kubernetes: Kubeflow) -> None:
    kubernetes.kubernetes["nodes"] = nodes(8, 8)
    finding = attempt("GPUs", lambda: check_nodes(look(kubernetes), wanted(gpu_type="amd.com/gpu")))
    assert finding.state == "failed"
    assert finding.text.startswith("found 2 nodes, of which at most 0 amd.com/gpu")


def test_a_taint_that_gpu_tasks_tolerate_keeps_no_node_from_them(kubernetes: Kubeflow) -> None:
    kubernetes.kubernetes["nodes"] = nodes(8, taints=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}])
    assert check_nodes(look(kubernetes), wanted()).startswith("1 of 1 nodes")


def test_training_on_several_nodes_needs_as_many_with_all_their_gpus(kubernetes: Kubeflow) -> None:
    kubernetes.kubernetes["nodes"] = nodes(8, 8, 1)
    said = check_nodes(look(kubernetes), wanted("nodes-2x8x80gb"))
    assert said == "2 of 3 nodes have 8 nvidia.com/gpu, the most a task asks for (train, of 2)"
    kubernetes.kubernetes["nodes"] = nodes(8, 4, 4)
    with pytest.raises(
        ValueError, match=r"found 3 nodes, of which at most 8 .*; expected 8 on each of 2 for train; add"
    ):
        check_nodes(look(kubernetes), wanted("nodes-2x8x80gb"))


def test_nodes_whose_gpus_are_said_to_be_too_small_are_not_counted(kubernetes: Kubeflow) -> None:
    small, large = ({"nvidia.com/gpu.memory": mebibytes} for mebibytes in ("49140", "81251"))
    kubernetes.kubernetes["nodes"] = nodes(2, labels=small)
    assert check_nodes(look(kubernetes), wanted()).startswith("1 of 1 nodes")
    for labels in (small, {"nvidia.com/gpu.memory": "64G"}, None):
        kubernetes.kubernetes["nodes"] = nodes(2, labels=labels)
        with pytest.raises(ValueError, match="found 1 nodes, of which at most 0 "):
            check_nodes(look(kubernetes), wanted(gpu_memory_label="nvidia.com/gpu.memory"))
    kubernetes.kubernetes["nodes"] = nodes(2, labels=large)
    assert check_nodes(look(kubernetes), wanted(gpu_memory_label="nvidia.com/gpu.memory")).startswith("1 of 1 nodes")


def test_a_disk_that_a_task_may_fill_is_said(kubernetes: Kubeflow) -> None:
    kubernetes.kubernetes["nodes"] = nodes(2, 2, disk="120Gi")
    said = check_nodes(look(kubernetes), wanted())
    assert said.endswith("(arena); 2 of them with less disk than the 150Gi it may take")


def test_what_several_nodes_train_needs_a_store_that_they_share(world: dict[str, Any], tmp_path: Path) -> None:
    for store in ("", str(tmp_path / "store")):
        said = text_of(Checks(config(world, "nodes-2x8x80gb", store=store), here=True), "store")
        assert said.startswith(
            f"failed: found {store or 'none'}; expected s3://bucket/prefix, where the nodes of train"
        )
    elsewhere = Checks(config(world, "nodes-2x8x80gb", store="s3://bucket/croco"), here=False)
    assert text_of(elsewhere, "store").startswith("unknown: s3://bucket/croco: its keys are the cluster's")


def test_a_quota_counts_what_all_nodes_ask_for(kubernetes: Kubeflow) -> None:
    kubernetes.kubernetes[f"{NAMESPACE}/resourcequotas"] = quota(**{"requests.nvidia.com/gpu": "10"})
    assert check_quotas(look(kubernetes), wanted("node-8x80gb")) == "1 quotas, each with room for every task"
    with pytest.raises(ValueError, match="expected 2 x 8 or more, which train asks for"):
        check_quotas(look(kubernetes), wanted("nodes-2x8x80gb"))


def test_a_quota_that_is_too_small_is_one_line_with_all_that_is(kubernetes: Kubeflow) -> None:
    hard = {"requests.nvidia.com/gpu": "1", "requests.memory": "100Gi", "requests.cpu": "16", "pods": "5"}
    kubernetes.kubernetes[f"{NAMESPACE}/resourcequotas"] = quota(**hard)
    finding = attempt("quotas", lambda: check_quotas(look(kubernetes), wanted()))
    assert finding.state == "failed"
    assert "found requests.nvidia.com/gpu 1 in quota croco; expected 2 or more, which arena asks for" in finding.text
    assert "found requests.memory 100Gi in quota croco; expected 192Gi or more" in finding.text
    assert "cpu" not in finding.text


def test_who_may_not_look_is_told_so_and_nothing_is_called_missing(kubernetes: Kubeflow, world: Any) -> None:
    kubernetes.kubernetes.update({"nodes": 403, f"{NAMESPACE}/resourcequotas": 403})
    checks = Checks(config(world, "gpu-80gb"), here=True, look=look(kubernetes))
    assert text_of(checks, "GPUs") == "unknown: nodes: not allowed to look (HTTP 403)"
    assert text_of(checks, "quotas") == "unknown: quotas: not allowed to look (HTTP 403)"


def test_a_pod_looks_at_its_own_cluster_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_pod() is None
    for name, content in {"token": "pods-own", "ca.crt": "x", "namespace": "team\n"}.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr("kubernetes.client.Configuration._default", None)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    found = in_pod(tmp_path / "namespace")
    assert found and found.namespace == "team"
    settings = found.api.api_client.configuration
    assert (settings.host, settings.api_key) == ("https://10.0.0.1:443", {"authorization": "bearer pods-own"})


def laptop(kubernetes: Kubeflow, world: dict[str, Any], tmp_path: Path, *flags: str) -> int:
    (tmp_path / "params.yaml").write_text(json.dumps(world))
    given = ["--host", kubernetes.host, "--params", str(tmp_path / "params.yaml"), *flags]
    return command.main(["preflight", *given])


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Check -> what came of it."""
    lines = capsys.readouterr().out.splitlines()[:-1]
    return {line[8:].split(": ")[0]: line[:7].strip() + ": " + line[8:].split(": ", 1)[1] for line in lines}


def test_a_laptop_sees_kubeflow_its_namespace_and_what_a_run_would_need(
    kubernetes: Kubeflow, world: dict[str, Any], tmp_path: Path, s3_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = objectstore.new_bucket(s3_port)
    keys = bucket.environment
    provider = {"minio": {"default": {"endpoint": f"127.0.0.1:{s3_port}", "region": "us-east-1", "disableSSL": True,
        "credentials": {"secretRef": {"secretName": "keys", "accessKeyKey": "a", "secretKeyKey": "s"}}}}}  # fmt: skip
    root = f"minio://{bucket.bucket}/root"
    kubernetes.kubernetes.update(
        {
            f"{NAMESPACE}/serviceaccounts/croco-runner": {"metadata": {"name": "croco-runner"}},
            f"{NAMESPACE}/configmaps/kfp-launcher": {
                "data": {"defaultPipelineRoot": root, "providers": yaml.safe_dump(provider)}
            },
            f"{NAMESPACE}/secrets/keys": secret(a=keys["AWS_ACCESS_KEY_ID"], s=keys["AWS_SECRET_ACCESS_KEY"]),
            f"{NAMESPACE}/secrets/hf-token": secret(token="x"),
            "nodes": nodes(8),
        }
    )
    assert laptop(kubernetes, world, tmp_path) == 0
    found = said(capsys)
    assert found["Kubeflow"] == f"passed: {kubernetes.host} answers"
    assert found["pipeline root"] == f"passed: {root} was written, read and cleared"
    assert found["ServiceAccount"] == "passed: croco-runner, in namespace kubeflow"
    assert found["Secret hf-token"] == "passed: there, with token"
    assert found["Secret croco-store"].startswith("passed: none in namespace kubeflow: the store is opened as")
    assert found["GPUs"].startswith("passed: 1 of 1 nodes have 2")
    assert found["policy"].startswith("unknown: ")
    assert kubernetes.sent("POST") == []


def test_a_laptop_names_everything_that_is_missing(
    kubernetes: Kubeflow, world: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kubernetes.kubernetes[f"{NAMESPACE}/secrets/hf-token"] = secret(other="x")
    assert laptop(kubernetes, {**world, "languages": ["ga"]}, tmp_path) == 1
    found = said(capsys)
    assert found["pipeline root"].startswith("failed: found no Secret mlpipeline-minio-artifact with its two keys")
    assert "kubectl apply -k" in found["ServiceAccount"] and found["ServiceAccount"].startswith("failed: ")
    assert found["Secret hf-token"].startswith(
        "failed: found no key token in namespace kubeflow; expected one; kubectl"
    )
    assert found["GPUs"].startswith("failed: found 0 nodes")
    assert found["languages, translation"].startswith("failed: found ga")


def test_a_laptop_names_settings_that_a_later_stage_would_refuse(
    kubernetes: Kubeflow, world: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kubernetes.kubernetes[f"{NAMESPACE}/secrets/judge-key"] = secret(key="x")
    wrong = {"rejected_target": "foo", "promote_as": "croco-da", "store": "", "judge_endpoint": "http://host:8000/v1"}
    assert laptop(kubernetes, {**world, **wrong}, tmp_path, "--profile", "toy") == 1
    found = said(capsys)
    assert found["rejected_target"] == "failed: found 'foo'; expected one of mean-2std, q1, min"
    assert found["promote_as"].startswith("failed: found croco-da and no store; expected one")
    assert found["Secret judge-key"].startswith("failed: found no key apikey in namespace kubeflow; expected one; kube")
    assert found["judge"].startswith("passed: ")


def test_a_secret_that_one_may_not_see_is_not_called_missing(
    kubernetes: Kubeflow, world: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in ("secrets/hf-token", "secrets/croco-store", "configmaps/kfp-launcher", "serviceaccounts/croco-runner"):
        kubernetes.kubernetes[f"{NAMESPACE}/{path}"] = 403
    assert laptop(kubernetes, world, tmp_path, "--profile", "toy") == 0
    found = said(capsys)
    assert found["Secret hf-token"] == "unknown: Secret hf-token: not allowed to look (HTTP 403)"
    assert {found[what].split(":")[0] for what in ("pipeline root", "ServiceAccount", "Secret croco-store")} == {
        "unknown"
    }


def test_a_kubeflow_that_does_not_answer_is_one_finding_among_the_others(
    kubernetes: Kubeflow, world: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as gone:
        host = gone.host
    assert laptop(kubernetes, world, tmp_path, "--host", host, "--profile", "toy") == 1
    found = said(capsys)
    assert found["Kubeflow"].startswith(f"failed: {host}: found no answer") and "policy" in found


def test_an_unknown_profile_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["preflight", "--host", "http://x", "--profile", "h100"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pipelines preflight: profile: found 'h100'; expected one of gpu-80gb, ")


def test_the_component_hands_on_every_field_with_its_default() -> None:
    known = inspect.signature(component.python_func).parameters
    given = {name: parameter.default for name, parameter in known.items() if name != "findings"}
    for field in dataclasses.fields(PreflightConfig):
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        assert given.pop(field.name) == (list(default) if isinstance(default, tuple) else default), field.name
        assert f"{field.name}=" in inspect.getsource(component.python_func)
    assert given == {}


def test_what_could_not_be_looked_at_is_neither_passed_nor_failed() -> None:
    assert attempt("a", lambda: Unknown("no way")).state == "unknown"
    assert str(attempt("a", lambda: "fine")) == "passed  a: fine"
