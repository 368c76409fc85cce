"""Fetch: EuroEval's data sets from a hub, an evaluation of them without one, and what known failures say."""

import importlib.metadata
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import hub
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from croco import benchmark, benchmark_child, benchmark_failures, dataset, fetch
from croco.benchmark_cache import Cache, lay_out, read_cache
from croco.benchmark_worker import Job
from croco.fetch_worker import Notes
from croco.writer import Writer

SCALA, UK, SQUAD = "datasets/EuroEval/scala-en", "datasets/EuroEval/life-in-the-uk", "datasets/EuroEval/squad-mini"
SPLITS = ("train", "val", "test")
METRIC = """
import datasets
import evaluate
from sklearn.metrics import {function}

NUMBER = datasets.Value("int32")


class Metric(evaluate.Metric):
    def _info(self):
        features = datasets.Features(dict(predictions=NUMBER, references=NUMBER))
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references, **arguments):
        return {{"{name}": float({function}(references, predictions, **arguments))}}
"""


def repository(rows: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """A data set as EuroEval's own lie on the hub."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), file)
    files = "".join(f"  - split: {split}\n    path: data/{split}-*\n" for split in SPLITS)
    card = f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n"
    return {"README.md": card.encode()} | {f"data/{split}-00000-of-00001.parquet": file.getvalue() for split in SPLITS}


def repositories() -> dict[str, dict[str, bytes]]:
    texts = [{"text": "The sun shines.", "label": "correct"}, {"text": "Sun the shines.", "label": "incorrect"}]
    facts = [{"text": "Where?\nChoices:\na. Rome\nb. Oslo\nc. Bonn\nd. Bern", "label": label} for label in "abcd"]
    asked = {"context": "Sun in Rome.", "question": "Where?", "answers": {"answer_start": [7], "text": ["Rome"]}}
    metrics = {"matthews_correlation": "matthews_corrcoef", "f1": "f1_score", "accuracy": "accuracy_score"}
    metrics |= {"squad_v2": "f1_score"}  # it is loaded, and not used
    return {
        SCALA: repository(texts * 8),
        UK: repository(facts * 4),
        SQUAD: repository([{"id": "1", **asked}]),
        **{
            f"spaces/evaluate-metric/{name}": {f"{name}.py": METRIC.format(name=name, function=function).encode()}
            for name, function in metrics.items()
        },
    }


def cache_of(folder: Path, **metrics: Any) -> Path:
    """A finished cache with this in its manifest."""
    writer = Writer(folder, None, stage="fetch", version=1, config={})
    (folder / "euroeval" / "deep").mkdir(parents=True)
    (folder / "euroeval" / "deep" / "rows").write_text("rows")
    writer.attach(folder / "euroeval")
    found = {"euroeval": "16.11.0", "data_sets": {}, "failed": {}, "unknown": [], **metrics}
    writer.finish([], metrics=found)
    return folder


# what was fetched


def test_every_data_set_asked_for_is_fetched_or_counted_under_a_reason() -> None:
    notes = Notes(
        fetched={"scala-en": {}},
        failed={"squad": "DatasetNotFoundError: 'EuroEval/squad-mini' is a gated dataset on the Hub.", "wic": "odd"},
        unknown=["mmlu-pro"],
    )
    chosen = dict.fromkeys(["scala-en", "squad", "wic", "mmlu-pro"], "en")
    assert fetch.account(chosen, {"gl": "no_euroeval_data_set"}, notes) == [
        dataset.Count("data sets", "en", 4, 1, {"failed": 1, "gated": 1, "not_in_this_euroeval": 1}),
        dataset.Count("data sets", "gl", 1, 0, {"no_euroeval_data_set": 1}),
    ]


def test_what_an_evaluation_refuses_is_not_fetched() -> None:
    with pytest.raises(ValueError, match="suite: found 'official'"):
        fetch.FetchConfig(suite="official")
    with pytest.raises(ValueError, match="found 'xx'"):
        fetch.FetchConfig(languages=("xx",))


def test_what_an_evaluation_does_not_read_is_removed(tmp_path: Path) -> None:
    removed = ["hub/hub/datasets--a/blobs/1", "hub/xet/1", "euroeval/a.lock", "euroeval/a.incomplete/rows"]
    removed.append("hub/modules/__pycache__/a.pyc")
    kept = ["hub/hub/models--a/snapshots/1", "hub/modules/a.py", "euroeval/a/rows", "nltk/words"]
    for name in removed + kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    fetch.tidy(tmp_path)
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()) == sorted(kept)


# a cache, read


def test_a_cache_says_what_it_has_and_why_it_lacks_the_rest(tmp_path: Path) -> None:
    data = {name: {"source": "EuroEval/x", "revision": f"{name}0", "bytes": 1} for name in ("wic", "squad")}
    folder = cache_of(tmp_path, data_sets=data, failed={"dala": "gated"}, unknown=["mmlu-pro"])
    assert read_cache(folder, ["wic", "dala", "mmlu-pro"], "16.11.0") == Cache(
        {"wic": "wic0"}, {"dala": "gated"}, ("mmlu-pro",)
    )
    assert read_cache(None, ["wic"], "16.11.0") == Cache()
    with pytest.raises(ValueError, match=r"found no danwic; expected every data set .* `python -m croco fetch`"):
        read_cache(folder, ["wic", "danwic"], "16.11.0")
    with pytest.raises(ValueError, match=r"found what EuroEval 16\.11\.0 reads; expected 17\.7\.0, installed here"):
        read_cache(folder, ["wic"], "17.7.0")
    (folder / "euroeval" / "deep" / "rows").write_text("cut")
    with pytest.raises(ValueError, match="rows: found 3 bytes"):
        read_cache(folder, ["wic"], "16.11.0")


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found no manifest"):
        read_cache(tmp_path, [], None)
    Writer(tmp_path / "other", None, stage="train", version=1, config={}).finish([])
    with pytest.raises(ValueError, match="found the output of train; expected one of `python -m croco fetch`"):
        read_cache(tmp_path / "other", [], None)


def test_an_evaluation_writes_beside_a_caches_files_and_not_among_them(tmp_path: Path) -> None:
    folder, work = cache_of(tmp_path / "cache"), tmp_path / "work"
    work.mkdir()
    lay_out(folder, work)
    assert (work / "euroeval" / "deep" / "rows").read_text() == "rows"
    (work / "euroeval" / "deep" / "own").touch()
    assert sorted(path.name for path in work.iterdir()) == ["euroeval", "hub", "nltk"]
    assert not (folder / "euroeval" / "deep" / "own").exists()


def test_an_evaluation_says_what_its_cache_lacks_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).touch()
    failed = {"dala": "DatasetNotFoundError: Dataset 'EuroEval/dala' is a gated dataset on the Hub."}
    folder = cache_of(tmp_path / "cache", euroeval=importlib.metadata.version("euroeval"), failed=failed)
    config = benchmark.BenchmarkConfig(languages=("da",), names=("dala",))
    with (
        pytest.warns(UserWarning, match="da: 1 benchmarks not run: gated"),
        pytest.warns(UserWarning, match="dala: failed: not in the cache"),
        pytest.raises(RuntimeError, match=r"not in the cache, .* is a gated dataset on the Hub; .* set HF_TOKEN"),
    ):
        benchmark.run(model=str(tmp_path / "model"), cache=folder, out=tmp_path / "out", config=config)


# known failures


@pytest.fixture(scope="module")
def exceptions() -> ModuleType:
    """EuroEval's exceptions, without an import of EuroEval, which changes the process."""
    place = importlib.util.find_spec("euroeval")
    assert place and place.origin
    spec = importlib.util.spec_from_file_location("exceptions", Path(place.origin).with_name("exceptions.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reason(error: Exception | str) -> str:
    """What the message is counted as, given as `fetch` and the worker write it."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    found = benchmark_failures.find(text)
    assert found and benchmark_failures.explain(text).endswith(found.remedy)
    return found.reason


def test_what_the_hub_refuses_has_a_reason(tmp_path: Path) -> None:
    def refused(name: str, token: str | bool = False, **arguments: Any) -> str:
        with pytest.raises(OSError) as caught:
            huggingface_hub.hf_hub_download(
                name, "README.md", repo_type="dataset", cache_dir=tmp_path, token=token, **arguments
            )
        return reason(caught.value)

    with hub.serving(hub.Hub(repositories(), gated={SQUAD: "hf_good"})) as served:
        assert refused("EuroEval/squad-mini", endpoint=served.host) == "gated"
        assert refused("EuroEval/squad-mini", "hf_bad", endpoint=served.host) == "gated"
        assert refused("EuroEval/none", endpoint=served.host) == "not_on_the_hub"
        assert refused("EuroEval/scala-en", revision="none", endpoint=served.host) == "not_on_the_hub"
    with pytest.raises(httpx.ConnectError) as gone:  # huggingface_hub tries for 20 seconds before it says this
        httpx.get(served.host)
    assert reason(gone.value) == "hub_out_of_reach"
    assert refused("EuroEval/dala", local_files_only=True) == "not_in_cache"


def test_what_euroeval_raises_has_a_reason(exceptions: ModuleType) -> None:
    found = {
        "nvcc": exceptions.NeedsSystemDependency("nvcc", "Please install the CUDA Toolkit"),
        "hub_out_of_reach": exceptions.HuggingFaceHubDown(),
        "data_not_loaded": exceptions.InvalidBenchmark(
            "Failed to load dataset 'EuroEval/squad-mini' after 5 attempts."
        ),
        "adapter": exceptions.InvalidModel(
            "Offline benchmarking of models with adapters is not currently supported. An active internet connection is "
            "required. "
        ),
        "gated": exceptions.InvalidModel("The model 'a/b' is a gated repository. Please ensure that you are logged in"),
    }
    assert {name: reason(error) for name, error in found.items()} == {name: name for name in found}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "out_of_memory"),
        ("ValueError: Free memory on device cuda:0 (1/80 GiB) on startup is less than desired", "out_of_memory"),
        ("ValueError: No available memory for the cache blocks. Try increasing", "out_of_memory"),
        ("RuntimeError: Engine core initialization failed. See root cause above.", "engine"),
        ("RuntimeError: Could not find nvcc and default cuda_home='/usr/local/cuda' doesn't exist", "nvcc"),
        ("ConnectionError: Couldn't reach 'EuroEval/a' on the Hub (OfflineModeIsEnabled)", "not_in_cache"),
        ("ConnectionError: Couldn't reach 'EuroEval/a' on the Hub (LocalEntryNotFoundError)", "hub_out_of_reach"),
        (
            "DatasetNotFoundError: Dataset 'EuroEval/a' doesn't exist on the Hub or cannot be accessed.",
            "not_on_the_hub",
        ),
    ],
)
def test_what_its_libraries_raise_has_a_reason(message: str, expected: str) -> None:
    assert reason(message) == expected


def test_memory_that_is_not_there_has_a_reason() -> None:
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert reason(caught.value) == "out_of_memory"


def test_a_message_is_one_line_and_what_is_not_known_has_no_remedy() -> None:
    assert benchmark_failures.explain("KeyError:\n  'text'\n") == "KeyError: 'text'"
    assert benchmark_failures.explain("x" * 1000) == "x" * 400 + "..."


def test_a_data_set_that_this_version_lacks_is_said_to_be_in_another() -> None:
    assert benchmark_failures.not_in("16.11.0", ["mmlu-pro", "ifeval"]) == (
        "EuroEval 16.11.0 does not have mmlu-pro, ifeval; 17.7 does, which needs Python 3.12 and is in the euroeval "
        "image"
    )
    assert benchmark_failures.not_in("17.7.0", ["mmlu-pro"]) == "EuroEval 17.7.0 does not have mmlu-pro"
    assert benchmark_failures.not_in("16.11.0", ["mmlu-pro", "own"]) == "EuroEval 16.11.0 does not have mmlu-pro, own"


def ending(folder: Path, command: str) -> str:
    """A stand-in for Python that ends so."""
    (folder / "python").write_text(f"#!/bin/sh\n{command}\n")
    (folder / "python").chmod(0o755)
    return str(folder / "python")


def test_euroeval_ends_beside_flash_attn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "executable", ending(tmp_path, "exit 1"))
    with pytest.raises(
        RuntimeError, match=r"exit status 1 \(flash_attn is installed\); expected 0; .* pip uninstall flash_attn"
    ):
        benchmark_child.run(Job(0, "model-1", {}, None, True, 3, True, True, "store"), [])


def test_a_process_that_the_machine_killed_ran_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", ending(tmp_path, "kill -9 $$"))
    with pytest.raises(
        RuntimeError, match=r"found exit status -9 \(its messages are above\); expected 0; give it .* memory"
    ):
        benchmark_child.run(Job(0, "model-1", {}, None, True, 3, True, True, "store"), [])


# EuroEval itself


@pytest.mark.engine
def test_what_was_fetched_is_evaluated_when_the_hub_is_gone(tmp_path: Path) -> None:
    import tiny

    (tmp_path / "home").mkdir()
    asked = ["--languages", "en", "--names", "scala-en", "life-in-the-uk", "squad", "mmlu-pro", "--max-failed", "0.2"]
    held = hub.Hub(repositories(), gated={SQUAD: "hf_good"})
    alone = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home")}

    def croco(stage: str, out: str, *flags: str, **environment: str) -> str:
        command = [sys.executable, "-m", "croco", stage, "--out", str(tmp_path / out), *asked, *flags]
        done = subprocess.run(command, env=alone | environment, capture_output=True, text=True, check=False)
        return done.stderr if done.returncode else ""

    with hub.serving(held):
        refused = croco("fetch", "cache", HF_ENDPOINT=held.host)
        assert "squad: not fetched: DatasetNotFoundError: Dataset 'EuroEval/squad-mini' is a gated dataset" in refused
        assert "found 1 of 4 data sets failed, as said above; expected at most 0.2 of them" in refused
        before = len(held.requests)
        assert croco("fetch", "cache", HF_ENDPOINT=held.host, HF_TOKEN="hf_good") == ""
        again = [path for method, path in held.requests[before:] if method == "GET" and path.endswith(".parquet")]
        assert {path.split("/resolve")[0] for path in again} == {SQUAD}  # the others were there
    found = dataset.verify(tmp_path / "cache")
    assert found.counts == [dataset.Count("data sets", "en", 4, 3, {"not_in_this_euroeval": 1})]
    revisions = {name: about["revision"] for name, about in found.metrics["data_sets"].items()}
    assert revisions == {
        name: held.commit(repo) for name, repo in {"scala-en": SCALA, "life-in-the-uk": UK, "squad": SQUAD}.items()
    }
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_symlink() or path.suffix == ".lock"]

    model = tiny.policy(tmp_path / "model", seed=1)
    own = {"name": "rain-en", "language": "en", "task": "reading-comprehension", "prompt": "{text} {question}"}
    row = {"context": "Rain in Oslo.", "question": "Where?", "answers": ["Oslo"]}
    (tmp_path / "own" / "rain-en").mkdir(parents=True)
    (tmp_path / "own" / "datasets.jsonl").write_text(json.dumps(own))
    for split in SPLITS:
        (tmp_path / "own" / "rain-en" / f"{split}.jsonl").write_text(json.dumps(row))
    asked[:] = ["--languages", "en", "--names", "scala-en", "life-in-the-uk", "rain-en", "mmlu-pro"]
    asked += ["--datasets", str(tmp_path / "own")]
    listed = sorted(os.walk(tmp_path / "cache"))
    assert croco("benchmark", "scores", "--model", str(model), "--cache", str(tmp_path / "cache")) == ""
    scores = dataset.read(tmp_path / "scores", "benchmarks").to_pylist()
    assert [(row["benchmark"], row["task"], row["metric"]) for row in scores] == [
        ("scala-en", "linguistic-acceptability", "mcc"),
        ("scala-en", "linguistic-acceptability", "macro_f1"),
        ("life-in-the-uk", "knowledge", "mcc"),
        ("life-in-the-uk", "knowledge", "accuracy"),
        ("rain-en", "reading-comprehension", "f1"),
        ("rain-en", "reading-comprehension", "em"),
    ]
    manifest = dataset.load_manifest(tmp_path / "scores")
    assert manifest.metrics["data_revisions"] == {name: revisions[name] for name in ("scala-en", "life-in-the-uk")}
    assert manifest.counts[1:] == [dataset.Count("benchmarks", "en", 4, 3, {"not_in_this_euroeval": 1})]
    assert sorted(os.walk(tmp_path / "cache")) == listed
    assert not list((tmp_path / "home").iterdir())
