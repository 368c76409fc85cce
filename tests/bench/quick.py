"""Quick: a bench at its small sizes as `make bench-quick` runs it, in a process of its own; for the benches' tests."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def run(name: str, work: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """(figures by name, detail) of a bench that needs no toy world. Raises: AssertionError with what it said."""
    command = ["-m", "bench", name, "--toy", str(work), "--out", str(work / "out"), "--quick"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((work / "out" / f"{name}.json").read_text(encoding="utf-8"))
    return {figure["name"]: figure["value"] for figure in found["figures"]}, found["detail"]
