"""The shorter form of `make chaos`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

TESTS = Path(__file__).parents[1]


def test_stages_that_are_killed_end_as_if_nobody_had(toy: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chaos", "--toy", str(toy), "--out", str(tmp_path / "chaos"), "--short"]
    run = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(TESTS)}, stdout=subprocess.PIPE, text=True, check=False
    )
    assert run.returncode == 0, run.stdout
    closing = run.stdout.splitlines()[-1]
    for stage in ("translate", "sample", "score", "train", "answer", "arena"):
        kills = re.search(rf"\b{stage} (\d+)", closing)
        assert kills and int(kills[1]) >= 2, closing
