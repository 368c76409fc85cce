"""The whole flow as a newcomer runs it, cut off from the network and without a CUDA compiler."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from croco import dataset

pytestmark = pytest.mark.engine

TASKS = {
    "prepare", "translate", "sample", "score", "pair", "train", "benchmark", "benchmark-2", "answer", "answer-2",
    "arena", "report",
}  # fmt: skip
LANGUAGES = {"en", "de", "fr", "es"}


def without_cuda_compiler() -> str:
    """PATH less the folders that hold nvcc, plus this interpreter's."""
    folders = [Path(sys.executable).parent, *map(Path, os.environ["PATH"].split(os.pathsep))]
    path = os.pathsep.join(str(folder) for folder in folders if not (folder / "nvcc").exists())
    assert shutil.which("nvcc", path=path) is None
    return path


def offline(command: list[str]) -> list[str]:
    """`command` in a network namespace of its own that has nothing but loopback."""
    return ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]


@pytest.fixture(scope="module")
def flow(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of `make run`'s command, a little smaller."""
    out = tmp_path_factory.mktemp("flow") / "run"
    command = [sys.executable, "-m", "pipelines", "run", "--toy", str(toy), "--out", str(out), "--set", "count=24"]
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    run = subprocess.run(
        offline(command),
        env=environment | {"PATH": without_cuda_compiler()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert run.stdout.splitlines()[-1] == str(out / "report.html")
    return out


@pytest.fixture
def tasks(flow: Path) -> Path:
    return next((flow / "tasks").iterdir())


def test_the_namespace_has_no_network() -> None:
    """What cuts the flow off does cut off: a route to anywhere else does not exist in it."""
    routes = subprocess.run(offline(["ip", "route"]), capture_output=True, text=True, check=True)
    assert routes.stdout == ""


def test_every_task_of_the_pipeline_ran(tasks: Path) -> None:
    assert {path.name for path in tasks.iterdir()} == TASKS


def test_every_output_is_whole_and_keeps_the_conservation_law(tasks: Path) -> None:
    manifests = [path.parent for path in tasks.rglob(dataset.MANIFEST) if path.parent.name != "training"]
    found = {dataset.verify(path).stage for path in manifests}  # raises where a checksum or a count is wrong
    assert found == {task.removesuffix("-2") for task in TASKS}


def test_rows_pass_from_stage_to_stage(tasks: Path) -> None:
    def load(name: str) -> dataset.Manifest:
        return dataset.load_manifest(tasks / name)

    def taken(manifest: dataset.Manifest, unit: str) -> int:
        return sum(count.rows_in for count in manifest.counts if count.unit.endswith(unit))

    english, samples, pairs = load("prepare/prompts"), load("sample/samples"), load("pair/pairs")
    prompts = english.rows + load("translate/prompts/translated").rows
    assert english.rows == 24
    assert taken(samples, "samples") == 64 * prompts
    assert {count.language for count in samples.counts} == LANGUAGES
    assert taken(load("score/scores"), "scores") == samples.rows
    assert taken(pairs, "pairs") == prompts
    assert taken(load("train/trained"), "pairs") == pairs.rows
    base, tuned = load("answer/answers"), load("answer-2/answers")
    assert base.rows == tuned.rows > 0
    assert base.digest != tuned.digest


def test_the_report_says_what_the_datasets_say(flow: Path, tasks: Path) -> None:
    verdicts = dataset.load_manifest(tasks / "arena/verdicts")
    found = {row["language"]: row["win_rate"] for row in verdicts.metrics["win_rates"]}
    assert set(found) == LANGUAGES | {"all"}
    report = json.loads((flow / "report.json").read_text(encoding="utf-8"))
    said = {row["language"]: row["win_rate"] for row in report["win_rates"]["languages"]}
    assert said == {code: rate for code, rate in found.items() if code in said} and set(said) >= LANGUAGES
    page = (flow / "report.html").read_text(encoding="utf-8")
    assert "EuroEval" in page and "<script" not in page


def test_a_mistake_stops_the_run_with_its_stage_and_reason(toy: Path, tmp_path: Path) -> None:
    wrong = ["--set", "languages=en,xx", "--set", "count=8"]
    command = [sys.executable, "-m", "pipelines", "run", "--toy", str(toy), "--out", str(tmp_path / "run"), *wrong]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "found 'xx'; expected one of" in run.stdout + run.stderr
