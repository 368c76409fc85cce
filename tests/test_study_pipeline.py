"""Study: a study's arms as one graph, in which what two arms need is made once, and no arm gets what is another's."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp.compiler import Compiler
from kfp.pipeline_spec import pipeline_spec_pb2
from packages import Package, dags, is_group, read

from croco.study import read_plan
from pipelines import outlay, studies, study
from pipelines.__main__ import main
from pipelines.arms import Study
from pipelines.package import check_lengths
from pipelines.placement import Cluster
from pipelines.profiles import PROFILES
from pipelines.reckoning import GPU
from pipelines.workload import Settings

CONFIGS = Path(__file__).parents[1] / "pipelines" / "configs"
DEFAULTS = studies.defaults()
ARMS: list[dict[str, Any]] = [
    {"name": "paired", "seeds": [0, 1]},
    {"name": "worst", "rejected_target": "min"},
    {"name": "best", "method": "sft", "learning_rate": 0.002},
    {"name": "references", "method": "sft", "completion": "reference"},
    {"name": "off", "sampler": "third", "off_policy": True},
    {"name": "online", "method": "online", "n": 16},
    {"name": "mapo", "scorer": "mapo"},
    {"name": "icr", "scorer": "icr", "from": "paired", "nll": 1.0, "n": 10},
    {"name": "again", "from": "paired", "seeds": [0, 1]},
]
CONTENT = {
    "name": "small",
    "policies": {"first": {}},
    "samplers": {"third": {"policy": "a/third", "temperature": 0.5, "top_p": 1.0, "top_k": 0, "max_tokens": 9}},
    "aligner": {"value": {"model": "some/translator"}, "source": "assumed"},
    "held_out": {"value": ["sv"], "source": "paper"},
    "arms": [{"source": "ours", "says": arm["name"], **arm} for arm in ARMS],
}


def described(folder: Path, content: Any = CONTENT) -> Study:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return studies.read(path, DEFAULTS)


def compiled(found: Study, out: Path, **cluster: Any) -> Package:
    Compiler().compile(study.study(found, Cluster(**cluster)), str(out))
    return read(out.read_text(encoding="ascii"))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("study")
    return compiled(described(folder), folder / "package.yaml")


def of_kind(package: Package) -> dict[str, dict[str, dict[str, Any]]]:
    """Kind of component -> its tasks, in whatever graph, by title."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for tasks in dags(package[0]).values():
        for name, task in tasks.items():
            title = task["taskInfo"]["name"]
            same = found.setdefault(re.sub(r"(-\d+)+$", "", name), {})
            assert title not in same or is_group(name) or title.startswith(("Plan", "Tally")), title
            same[f"{title} {len(same)}" if title in same else title] = task
    return found


def constant(task: dict[str, Any], name: str) -> Any:
    return task["inputs"]["parameters"][name]["runtimeValue"]["constant"]


def producers(task: dict[str, Any], name: str) -> str:
    """Task whose output an artifact is."""
    return str(task["inputs"]["artifacts"][name]["taskOutputArtifact"]["producerTask"])


def run_of(package: Package, arm: str, seed: int = 0) -> dict[str, Any]:
    """The task that stands for the graph of a run."""
    return dags(package[0])["root"][f"run-first-{arm}-{seed}"]


def test_what_arms_share_is_made_once_and_each_run_is_tuned_and_evaluated_once(package: Package) -> None:
    number = {kind: len(tasks) for kind, tasks in of_kind(package).items() if not is_group(f"{kind}-")}
    runs = len(ARMS) + 2  # two have two seeds
    own = 1 + 2 + 1 + 1  # made for one run alone: of another model, of tuned models, by two scorers
    assert number == {
        "preflight": 2, "resolve": 2, "prepare": 1, "translate": 1, "gather": 1,
        "sample": 5, "score": 5,  # of the policy, the third model, tuned ones, of which one gives 10 answers
        "plan": 1 + 5, "align": 1, "implicit": 1, "select": 2,
        "pair": 2 + 1 + 1 + 1 + 2,  # two rules; another sampler; two scorers; answers of two tuned models
        "train": runs, "benchmark": runs + 1, "answer": runs + 1, "rate": runs + 1, "arena": runs,
        "tally": runs + 2 + own + 1 + runs, "study": 1,
    }  # fmt: skip


def test_two_seeds_train_on_one_dataset(package: Package) -> None:
    assert producers(run_of(package, "paired", 0), "data") == producers(run_of(package, "paired", 1), "data")
    trained = of_kind(package)["train"]
    assert [constant(trained[f"Train the adapter: paired {seed}"], "seed") for seed in (0, 1)] == [0, 1]


def test_each_arm_trains_as_it_says(package: Package) -> None:
    trained = of_kind(package)["train"]

    def of(arm: str, name: str) -> Any:
        return constant(trained[f"Train the adapter: {arm} 0"], name)

    assert [of(arm, "method") for arm in ("paired", "best", "online")] == ["dpo", "sft", "online"]
    assert (of("best", "learning_rate"), of("icr", "nll"), of("paired", "nll")) == (0.002, 1.0, 0.0)
    assert (of("off", "off_policy"), of("paired", "off_policy")) == (True, False)
    assert of("online", "online_answers") == 16


def test_an_arm_that_starts_from_another_starts_from_its_model_of_the_same_seed(package: Package) -> None:
    for arm, seed in [("again", 0), ("icr", 0), ("again", 1)]:
        assert producers(run_of(package, arm, seed), "start") == f"run-first-paired-{seed}"
    assert "start" not in run_of(package, "paired")["inputs"]["artifacts"]


def test_every_model_is_asked_alike_and_judged_against_the_base(package: Package) -> None:
    kinds = of_kind(package)
    asked = {(constant(task, "max_tokens"), tuple(constant(task, "languages"))) for task in kinds["answer"].values()}
    assert len(asked) == 1
    references = {producers(task, "reference") for task in kinds["run-first-paired"].values()}
    assert len(references) == 1 and references == {producers(run_of(package, "icr"), "reference")}
    assert {tuple(constant(task, "languages")) for task in kinds["benchmark"].values()} == {
        (*DEFAULTS["languages"], "sv")
    }


def test_the_tally_is_one_chain_that_ends_in_the_report(package: Package) -> None:
    spec = package[0]
    chain = dags(spec)["comp-together-first"]
    before = {
        name: producers(task, "previous")
        for name, task in chain.items()
        if "taskOutputArtifact" in task["inputs"]["artifacts"]["previous"]
    }
    order = [next(name for name in chain if name not in before.values())]
    while order[-1] in before:
        order.append(before[order[-1]])
    assert [constant(chain[name], "arm") for name in reversed(order)] == [
        "base", "paired", "paired", "worst", "best", "references", "off", "online", "mapo", "icr", "again", "again",
    ]  # fmt: skip
    root = dags(spec)["root"]
    assert producers(root["study"], "outcomes") == "together-first"


@pytest.mark.parametrize("name", ["eurollm", "tiny-aya", "languages"])
def test_the_report_can_read_what_a_study_that_is_shipped_means(name: str) -> None:
    found = studies.read(CONFIGS / f"{name}.yaml", DEFAULTS)
    for policy in found.policies:
        assert len(read_plan(found.plan(policy))["arms"]) == len(found.arms)


def test_a_study_by_language_compiles_for_nodes_that_are_taken_back(tmp_path: Path) -> None:
    found = studies.read(CONFIGS / "languages.yaml", DEFAULTS)
    spec, _ = compiled(found, tmp_path / "package.yaml", profile="spot")
    assert spec["pipelineInfo"]["name"] == "croco-study-languages"


def test_arms_that_train_in_their_pod_are_not_compiled_for_several_nodes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one that trains in a pod with GPUs, for online, icr, again"):
        study.study(described(tmp_path), Cluster("nodes-2x8x80gb"))


def test_a_graph_that_kubeflow_could_not_start_is_refused() -> None:
    spec = pipeline_spec_pb2.PipelineSpec()
    spec.components["comp-fine"].executor_label = "x" * 130_000
    check_lengths(spec)
    spec.components["comp-long"].executor_label = "x" * 131_072
    with pytest.raises(ValueError, match=r"found a graph of 131,09. bytes; expected at most 131,071"):
        check_lengths(spec)


def test_what_it_would_take_is_printed_when_it_is_compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described(tmp_path, {**CONTENT, "arms": CONTENT["arms"][:1]})
    command = ["--pipeline", "study", "--config", str(tmp_path / "study.yaml"), "--allow-tags"]
    assert main(["compile", "--out", str(tmp_path / "package.yaml"), *command]) == 0
    said = capsys.readouterr().out
    assert "- 2 models tuned and evaluated, by 1 arms on 1 policies" in said and "GPU hours" in said
    cells = [[cell.strip() for cell in line.split("|")] for line in said.splitlines() if line.startswith("| first")]
    taken = {row[2]: float(row[-2].replace(",", "")) for row in cells}
    assert min(taken["shared"], taken["base"], taken["paired"]) > 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--pipeline", "study"], "--config: found --pipeline study without it; expected the YAML of a study"),
        (["--pipeline", "preference", "--config", "study.yaml"], "found --pipeline preference with it"),
        (["--config", "none.yaml"], "none.yaml: found no file; expected the YAML of a study"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    flags: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", "--out", str(tmp_path / "package.yaml"), "--allow-tags", *flags]) == 1
    assert expected in capsys.readouterr().err


def test_a_policy_whose_answers_an_arm_takes_is_sampled_once(tmp_path: Path) -> None:
    two = {**CONTENT, "policies": {"first": {}, "second": {"policy": "CohereLabs/tiny-aya-global"}}, "samplers": {}}
    two["arms"] = [CONTENT["arms"][0], {**CONTENT["arms"][4], "sampler": "second"}]  # type: ignore[index]
    kinds = of_kind(compiled(described(tmp_path, two), tmp_path / "package.yaml"))
    assert {kind: len(kinds[kind]) for kind in ("sample", "prepare", "train", "study")} == {
        "sample": 2, "prepare": 1, "train": 2 + 1 + 2, "study": 2,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["eurollm", "tiny-aya", "languages"])
def test_every_part_of_a_shipped_study_has_its_hours(name: str) -> None:
    found = studies.read(CONFIGS / f"{name}.yaml", DEFAULTS)
    lines = outlay.lines(found, outlay.rates_of(found, PROFILES["gpu-80gb"], GPU))
    assert {line.name for line in lines} >= {arm.name for arm in found.arms}
    assert all(0 < line.gpu_hours < 1_000 for line in lines)


def test_the_plan_counts_what_is_shared_once(tmp_path: Path) -> None:
    found = described(tmp_path)
    parts = {(part.policy, part.name): part for part in outlay.parts(found)}
    often: Counter[str] = Counter()
    for part in parts.values():
        for _, stages in part.work:
            often.update(stages)
    assert often == {
        "prepare": 1, "translate": 1, "sample": 1 + 1 + 3 + 1, "score": 1 + 1 + 3 + 1 + 2, "pair": 7,
        "train": 11, "benchmark-base": 1, "answer-base": 1, "benchmark-tuned": 11, "answer-tuned": 11, "arena": 11,
    }  # fmt: skip
    settings = {name: [one for one, stages in part.work if stages] for (_, name), part in parts.items()}
    assert next(one.n for one in settings["online"]) == 16
    assert settings["base"] == [Settings(languages=(*Settings().languages, "sv")), Settings()]
