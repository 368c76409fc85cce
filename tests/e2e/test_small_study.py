"""A study as a newcomer runs it, at a tiny size: both other scorers, an arm that starts from another, two processes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from croco import dataset

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

CODES = ["en", "de"]
SIZES = {
    "count": 8, "n": 16, "languages": CODES, "benchmark_iterations": 2, "questions_limit": 10,
    "questions_languages": CODES, "global_batch": 2, "micro_batch": 2,
}  # fmt: skip
STUDY = {
    "name": "tiny",
    "parameters": {name: {"value": value, "source": "ours"} for name, value in SIZES.items()},
    "policies": {"toy": {}},
    "aligner": {"value": {"model": "{toy}/translator", "format": "google"}, "source": "ours"},
    "oracle": True,
    "arms": [
        {
            "name": "references",
            "says": "on the data set's answers",
            "source": "ours",
            "method": "sft",
            "completion": "reference",
        },
        {"name": "mapo", "says": "by translation", "source": "ours", "scorer": "mapo"},
        {
            "name": "icr",
            "says": "<b>by implicit reward</b>",
            "source": "ours",
            "scorer": "icr",
            "from": "mapo",
            "nll": 1.0,
        },
    ],
    "claims": [
        {"name": "one", "says": "one is better", "better": "icr", "worse": "mapo", "measure": "oracle"},
        {"name": "other", "says": "the other is", "better": "mapo", "worse": "icr", "measure": "oracle"},
    ],
}


def run(toy: Path, out: Path) -> list[str]:
    """Lines on the screen."""
    config = out.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    command = ["--pipeline", "study", "--config", config, "--toy", toy, "--out", out, "--jobs", 2]
    command += ["--store", out.parent / "store"]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "run", *map(str, command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.splitlines()


def made_together(out: Path, results: Path) -> set[str]:
    """Stages with a result that neither of the processes made."""
    logs = [out / share / "log.txt" for share in ("share-1", "share-2")]
    dealt = max(log.stat().st_mtime_ns for log in logs)
    assert not any(log.with_name("tasks").exists() for log in logs)
    return {file.parent.name for file in results.glob("*/*.json") if file.stat().st_mtime_ns > dealt}


def test_a_study_ends_in_one_report_of_every_arm(toy: Path, tmp_path: Path) -> None:
    lines = run(toy, tmp_path / "run")
    assert "- 3 models tuned and evaluated, by 3 arms on 1 policies" in lines
    assert made_together(tmp_path / "run", tmp_path / "store" / "results") == {"tally", "study"}
    assert lines[-1] == str(tmp_path / "run" / "study.html")
    page = Path(lines[-1]).read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;b&gt;by implicit reward" in page
    found: dict[str, Any] = json.loads((tmp_path / "run" / "study.json").read_text(encoding="utf-8"))
    one, other = found["claims"]
    assert one["value"] == pytest.approx(-other["value"], abs=1e-6) and one["n"] == 20
    tasks = next((tmp_path / "run" / "tasks").iterdir())
    outcomes = max((dataset.read(path, "outcomes") for path in tasks.glob("tally*/outcomes")), key=len).to_pylist()
    questions = {
        (row["arm"], row["language"])
        for row in outcomes
        if row["measure"] == "oracle" and row["item"].startswith("toy-")
    }
    assert questions == {(arm, code) for arm in ("base", "references", "mapo", "icr") for code in CODES}
