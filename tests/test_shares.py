"""Shares: every arm is dealt to one process, its tasks are the study's own, and none outlives the one that dealt."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from packages import CONFIGS, Package, dags, is_group, read, written

from pipelines import shares, studies, study
from pipelines.__main__ import main
from pipelines.arms import Study
from pipelines.placement import Cluster

WORLD = Path("world")
HOLDS = """
import subprocess, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pipelines import shares

def hold():
    task = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(task.pid, flush=True)
    task.wait()

if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), shares._begin, (1,)) as pool:
        pool.submit(hold).result()
"""


@pytest.fixture(scope="module")
def described() -> Study:
    return studies.read(CONFIGS / "toy.yaml", studies.defaults(), WORLD)


def tasks_of(package: Package) -> dict[str, Any]:
    """Title -> parameters given as constants, of every task but groups, plans and tallies, which are told of others."""
    return {
        task["taskInfo"]["name"]: {
            name: value["runtimeValue"]
            for name, value in task["inputs"].get("parameters", {}).items()
            if "runtimeValue" in value
        }
        for tasks in dags(package[0]).values()
        for name, task in tasks.items()
        if not is_group(name) and not name.startswith(("plan", "tally", "study"))
    }


@pytest.mark.parametrize("processes", [1, 2, 3, 50])
def test_every_arm_is_dealt_once_with_those_that_start_from_it(described: Study, processes: int) -> None:
    dealt = shares.deal(described, processes)
    assert sorted(name for share in dealt for name in share) == sorted(arm.name for arm in described.arms)
    assert len(dealt) == min(processes, sum(not arm.start for arm in described.arms)) and all(dealt)
    for share in dealt:
        assert {described.arm(name).start for name in share} <= {*share, ""}


def test_processes_get_about_as_many_trainings(described: Study) -> None:
    one, other = ({name: described.arm(name) for name in share} for share in shares.deal(described, 2))
    counts = [sum(len(arm.seeds) for arm in share.values()) for share in (one, other)]
    assert max(counts) - min(counts) <= 1


def test_the_tasks_of_all_shares_are_those_of_the_study(described: Study) -> None:
    whole = tasks_of(read(written(study.study(described))))
    parts = [tasks_of(read(written(shares.part(described, arms, Cluster())))) for arms in shares.deal(described, 2)]
    for part in parts:
        assert part == {title: whole[title] for title in part}
        assert len(part) < len(whole)
    assert parts[0].keys() | parts[1].keys() == whole.keys()


def test_a_task_that_fails_in_a_share_is_named_once_and_ends_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load((CONFIGS / "toy.yaml").read_text(encoding="utf-8").replace("{toy}", str(tmp_path)))
    content["parameters"]["policy"] = {"value": str(tmp_path / "nowhere"), "source": "ours"}
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.setattr("croco.toy.build.run", lambda **_: None)  # its models are not what is tried here
    command = ["run", "--config", str(config), "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    assert main([*command, "--jobs", "2"]) == 1
    shown = capfd.readouterr()
    assert "Preflight" in shown.out and "nowhere" in shown.out
    [line] = shown.err.splitlines()
    assert line.startswith("pipelines run: Preflight") and "share-" in line
    assert not (tmp_path / "out" / "tasks").exists()


def test_a_share_and_its_task_end_with_the_process_that_dealt(tmp_path: Path) -> None:
    script = tmp_path / "holds.py"
    script.write_text(HOLDS, encoding="utf-8")
    dealer = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert dealer.stdout
    task = int(dealer.stdout.readline())
    assert alive(task)
    dealer.send_signal(signal.SIGKILL)
    dealer.wait()
    ended = time.monotonic() + 30
    while alive(task) and time.monotonic() < ended:
        time.sleep(0.05)
    assert not alive(task)


def alive(process: int) -> bool:
    """Whether it runs: one that ended and was not asked for its status does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize(
    "flags", [["--jobs", "2"], ["--jobs", "0"], ["--jobs", "2", "--config", str(CONFIGS / "toy.yaml"), "--store", ""]]
)
def test_jobs_without_a_study_and_a_store_are_refused(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--out", str(tmp_path / "out"), *flags]) == 1
    assert capsys.readouterr().err.startswith("pipelines run: --jobs: found ")
    assert not any(tmp_path.iterdir())
