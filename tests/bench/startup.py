"""Start-up: what a command takes before it does anything.

    --help      of both command lines: what they import to know their commands
    compile     the whole pipeline, with the imports of kfp

Every command is a process of its own, as a user would have it. The reference has no pipeline: its scripts load what
they import, and a model, every time they are called.
"""

import subprocess
import sys
import time
from collections.abc import Sequence

from bench.measuring import Result, Setting, spread


def seconds(command: Sequence[str]) -> float:
    """What a command took. Raises: RuntimeError with the end of what it said if it fails."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: found exit status {done.returncode}; {done.stderr[-2000:]}")
    return time.perf_counter() - began


def run(setting: Setting) -> Result:
    package, rounds = setting.work / "package.yaml", setting.of(9, 5)
    helps = {program: [seconds([program, "--help"]) for _ in range(rounds)] for program in ("croco", "pipelines")}
    compiling = ["pipelines", "compile", "--out", str(package), "--allow-tags"]
    compiled = [seconds(compiling) for _ in range(setting.of(5, 3))]
    figures = [
        *(spread(took, name=f"{program} --help", unit="s", at_most=0.3) for program, took in helps.items()),
        spread(compiled, name="compile", unit="s", at_most=2.0),
    ]
    return Result(figures)
