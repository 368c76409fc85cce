"""The whole flow as a newcomer runs it, cut off from the network and without a CUDA compiler; then run again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

from croco import dataset, pair, promote, publish, sample, score, translate

pytestmark = pytest.mark.engine

TITLES = {
    "Preflight", "Resolve revisions", "Recall the promoted model", "Plan translation", "Prepare prompts",
    "Translate prompts", "Gather prompts", "Plan sampling", "Sample answers", "Score answers",
    "Pair chosen and rejected", "Train the adapter", "Benchmark base", "Benchmark tuned", "Answer arena, base",
    "Answer arena, tuned", "Judge arena", "Decide on promotion", "Report",
}  # fmt: skip
PUBLISH = "Publish the model"
"""The task that runs only where the decision is to promote; what a toy model is worth differs between CPUs."""
STAGES = {
    "prepare", "translate", "sample", "score", "pair", "train", "benchmark", "answer", "arena", "promote", "report",
}  # fmt: skip
LANGUAGES = {"en", "de", "fr", "es"}
SMALL = [f"--set={setting}" for setting in ("count=24", "n=16", "workers=2", "benchmark_iterations=2")]


class Flow(NamedTuple):
    """A finished run."""

    out: Path
    tasks: Path
    states: dict[str, list[str]]
    """Title -> what its lines on the screen say: seconds, or that it was cached; then the languages of its share."""

    def manifests(self) -> dict[str, dataset.Manifest]:
        """Output of a task, by its path below `tasks` -> its manifest."""
        found = [path.parent for path in sorted(self.tasks.rglob(dataset.MANIFEST))]
        return {str(path.relative_to(self.tasks)): dataset.load_manifest(path) for path in found}

    def decision(self) -> dict[str, Any]:
        """What `promote` found."""
        return dict(json.loads((self.tasks / "promote" / "decision" / "decision.json").read_text(encoding="utf-8")))


def without_cuda_compiler() -> str:
    """PATH less the folders that hold nvcc, plus this interpreter's."""
    folders = [Path(sys.executable).parent, *map(Path, os.environ["PATH"].split(os.pathsep))]
    path = os.pathsep.join(str(folder) for folder in folders if not (folder / "nvcc").exists())
    assert shutil.which("nvcc", path=path) is None
    return path


def offline(command: list[str]) -> list[str]:
    """`command` in a network namespace of its own that has nothing but loopback."""
    return ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]


def run(toy: Path, out: Path, *flags: str) -> Flow:
    """What `make run`'s command leaves, run a little smaller."""
    command = [sys.executable, "-m", "pipelines", "run", "--toy", str(toy), "--out", str(out), *SMALL, *flags]
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        offline(command),
        env=environment | {"PATH": without_cuda_compiler()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    *lines, last = done.stdout.splitlines()
    assert last == str(out / "report.html")
    states: dict[str, list[str]] = {}
    for title, _, state in (line.partition("  ") for line in lines):
        if title in TITLES | {PUBLISH}:
            states.setdefault(title, []).append(state.strip())
    return Flow(out, next((out / "tasks").iterdir()), states)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags for a store and a cache that outlive a run."""
    folder = tmp_path_factory.mktemp("kept")
    return ["--store", str(folder / "store"), "--cache", str(folder / "cache")]


@pytest.fixture(scope="module")
def flow(toy: Path, kept: list[str], tmp_path_factory: pytest.TempPathFactory) -> Flow:
    return run(toy, tmp_path_factory.mktemp("flow") / "run", *kept)


def test_the_namespace_has_no_network() -> None:
    """What cuts the flow off does cut off: a route to anywhere else does not exist in it."""
    routes = subprocess.run(offline(["ip", "route"]), capture_output=True, text=True, check=True)
    assert routes.stdout == ""


def test_every_task_of_the_pipeline_ran_once_a_share(flow: Flow) -> None:
    assert set(flow.states) - {PUBLISH} == TITLES
    assert (PUBLISH in flow.states) == flow.decision()["promote"]
    shares = {title: [state.split("  ")[-1] for state in states] for title, states in flow.states.items()}
    assert shares["Translate prompts"] == ["de,es", "fr"]
    assert shares["Sample answers"] == shares["Score answers"] == ["en,fr", "de,es"]
    assert {title for title, states in shares.items() if len(states) > 1} == {
        "Translate prompts", "Sample answers", "Score answers",
    }  # fmt: skip


def test_every_output_is_whole_and_keeps_the_conservation_law(flow: Flow) -> None:
    found = {dataset.verify(flow.tasks / name).stage for name in flow.manifests()}  # raises for a wrong sum
    assert found - {"publish"} == STAGES | {"recall"}


def test_rows_pass_from_stage_to_stage(flow: Flow) -> None:
    def load(name: str) -> dataset.Manifest:
        return dataset.load_manifest(flow.tasks / name)

    def all_of(stage: str) -> list[dataset.Manifest]:
        """The outputs of a stage that several tasks shared."""
        return [m for name, m in flow.manifests().items() if "for-loop" in name and m.stage == stage]

    def taken(manifests: list[dataset.Manifest], unit: str) -> int:
        return sum(count.rows_in for m in manifests for count in m.counts if count.unit.endswith(unit))

    english, samples, pairs = load("prepare/prompts"), all_of("sample"), load("pair/pairs")
    prompts = english.rows + sum(manifest.rows for manifest in all_of("translate"))
    assert english.rows == 24
    assert taken(samples, "samples") == 16 * prompts
    assert {count.language for manifest in samples for count in manifest.counts} == LANGUAGES
    assert taken(all_of("score"), "scores") == sum(manifest.rows for manifest in samples)
    assert taken([pairs], "pairs") == prompts
    assert taken([load("train/trained")], "pairs") == pairs.rows
    base, tuned = load("answer/answers"), load("answer-2/answers")
    assert base.rows == tuned.rows > 0
    assert base.digest != tuned.digest


def test_the_report_says_what_the_datasets_say(flow: Flow) -> None:
    verdicts = dataset.load_manifest(flow.tasks / "arena/verdicts")
    found = {row["language"]: row["win_rate"] for row in verdicts.metrics["win_rates"]}
    assert set(found) == LANGUAGES | {"all"}
    report = json.loads((flow.out / "report.json").read_text(encoding="utf-8"))
    said = {row["language"]: row["win_rate"] for row in report["win_rates"]["languages"]}
    assert said == {code: rate for code, rate in found.items() if code in said} and set(said) >= LANGUAGES
    page = (flow.out / "report.html").read_text(encoding="utf-8")
    assert "EuroEval" in page and "<script" not in page


def rows(contract: str, *directories: Path) -> pa.Table:
    """All rows in the order of their keys."""
    keys = {"prompts": ["language", "prompt_id"], "pairs": ["pair_id"]}
    order = keys.get(contract, ["language", "prompt_id", "sample_index"])
    return dataset.read(directories, contract).sort_by([(key, "ascending") for key in order])


def test_tasks_that_share_the_work_make_what_one_task_makes(flow: Flow, toy: Path, tmp_path: Path) -> None:
    def shared(stage: str, output: str) -> list[Path]:
        return sorted(flow.tasks.glob(f"for-loop-*/{stage}/{output}"))

    english, one = flow.tasks / "prepare/prompts", {name: tmp_path / name for name in ("prompts", "samples", "scores")}
    into = translate.TranslateConfig(languages=("de", "fr", "es"), max_model_len=512, references=False)
    translate.run(prompts=english, model=str(toy / "translator"), out=one["prompts"], config=into)
    assert rows("prompts", one["prompts"]).equals(rows("prompts", *shared("translate", "prompts")))
    prompts = [english, one["prompts"]]
    decoding = sample.SampleConfig(n=16, temperature=0.7, top_p=1.0, top_k=0, max_tokens=80)
    sample.run(prompts=prompts, model=str(toy / "policy"), out=one["samples"], config=decoding)
    assert rows("samples", one["samples"]).equals(rows("samples", *shared("sample", "samples")))
    score.run(prompts=prompts, samples=[one["samples"]], model=str(toy / "reward"), out=one["scores"])
    assert rows("scores", one["scores"]).equals(rows("scores", *shared("score", "scores")))
    pair.run(prompts=prompts, samples=[one["samples"]], scores=[one["scores"]], out=tmp_path / "pairs")
    assert rows("pairs", tmp_path / "pairs").equals(rows("pairs", flow.tasks / "pair/pairs"))


def test_a_second_run_takes_every_result_from_the_store(flow: Flow, kept: list[str], toy: Path, tmp_path: Path) -> None:
    again = run(toy, tmp_path / "run", *kept[:2])
    first, second = flow.manifests(), again.manifests()
    assert set(second) == set(first)
    for name in first:
        assert sum(spent.shards_computed for spent in second[name].ledger) == 0, name
        if name not in {"recall/found", "publish/release"}:  # they look at the store itself
            seconds = [[line.seconds for line in made[name].ledger] for made in (first, second)]
            assert seconds[0] == seconds[1], name
        assert second[name].digest == first[name].digest, name
    for page in ("report.html", "report.md", "report.json"):
        assert (again.out / page).read_bytes() == (flow.out / page).read_bytes()


def test_another_pairing_rule_runs_only_what_follows_from_it(
    flow: Flow, kept: list[str], toy: Path, tmp_path: Path
) -> None:
    changed = run(toy, tmp_path / "run", *kept, "--set=rejected_target=min")
    states = {title: {state.split("  ")[0] == "cached" for state in states} for title, states in changed.states.items()}
    assert set(states) - {PUBLISH} == TITLES
    assert {title for title, cached in states.items() if cached != {True}} - {PUBLISH} == {
        "Preflight", "Resolve revisions", "Pair chosen and rejected", "Train the adapter", "Benchmark tuned",
        "Answer arena, tuned", "Judge arena", "Decide on promotion", "Report",
    }  # fmt: skip
    assert (changed.out / "report.html").read_bytes() != (flow.out / "report.html").read_bytes()


def test_a_promoted_model_is_published_where_servers_find_it_and_the_next_run_starts_from_it(
    flow: Flow, kept: list[str], toy: Path, tmp_path: Path
) -> None:
    """Decided by the languages that passed each by itself, for what a toy model is worth differs between CPUs."""
    store = Path(kept[1])
    checks = flow.decision()["checks"]
    refused = {check["language"] for check in checks if check["verdict"] != "pass"}
    passed = tuple(sorted(LANGUAGES - refused))
    assert passed, f"no language passed: {checks}"
    found = {
        "benchmarks_base": "benchmark/scores", "benchmarks_tuned": "benchmark-2/scores",
        "answers_base": "answer/answers", "answers_tuned": "answer-2/answers", "verdicts": "arena/verdicts",
    }  # fmt: skip
    inputs = {name: flow.tasks / path for name, path in found.items()}
    config = promote.PromoteConfig(languages=passed, questions_languages=passed, min_questions=10)
    decided = promote.run(**inputs, training=flow.tasks / "train/training", out=tmp_path / "decision", config=config)
    assert decided.metrics["reasons"] == []
    published = publish.run(
        decision=tmp_path / "decision",
        trained=flow.tasks / "train/trained",
        benchmarks=inputs["benchmarks_tuned"],
        answers=inputs["answers_tuned"],
        verdicts=inputs["verdicts"],
        base=str(toy / "policy"),
        data="toy",
        name="croco-flow",
        store=str(store),
        out=tmp_path / "published",
    )
    location = Path(published.metrics["location"])
    assert location.parent == store / "models/croco-flow"
    for file in (flow.tasks / "train/trained/merged").iterdir():
        assert (location / file.name).read_bytes() == file.read_bytes()
    assert "What was checked before it was promoted" in (location / "README.md").read_text(encoding="utf-8")

    settings = ["--set=start=last", "--set=promote_as=croco-flow", "--set=sampled_reference=true"]
    went_on = run(toy, tmp_path / "run", *kept[:2], *settings)
    merged, made = flow.manifests()["train/trained"].metrics["merged_sha256"], went_on.manifests()
    [sampled] = {made[name].models["policy"]["sha256"] for name in made if name.endswith("sample/samples")}
    assert sampled == made["train/trained"].models["base"]["sha256"] == merged
    trained = sum(count.rows_out for count in made["train/trained"].counts if count.unit == "train pairs")
    assert made["train/trained"].metrics["sampled_reference"]["train"] == trained
    assert made["benchmark/scores"].digest == flow.manifests()["benchmark/scores"].digest
    decision = went_on.decision()
    assert (decision["last"], decision["start"]) == (location.name, location.name)
    assert not any("weights" in reason for reason in decision["reasons"])


def test_a_mistake_stops_the_run_with_its_stage_and_reason(toy: Path, tmp_path: Path) -> None:
    wrong = ["--set", "languages=en,xx", "--set", "count=8", "--store", ""]
    command = [sys.executable, "-m", "pipelines", "run", "--toy", str(toy), "--out", str(tmp_path / "run"), *wrong]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "found 'xx'; expected one of" in run.stdout + run.stderr
