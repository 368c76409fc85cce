"""Start-up: what a command takes before it does anything, and a run whose work is all done already.

    --help      of both command lines: what they import to know their commands
    compile     the whole pipeline, with the imports of kfp
    cached run  what `make run` does where nothing changed: look at the toy world, start a process for each task, find
                its result in the store, write the report; the first run, beside it, has an empty store
    starts      engines in the first run by stage and model, as vLLM itself says it starts one (engine_starts.py)

Every command is a process of its own, as a user would have it. The reference has neither pipeline nor store: its
scripts load what they import, and a model, every time they are called.
"""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from bench import engine_starts
from bench.measuring import Figure, Result, Setting, spread


def seconds(command: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """What a command took. Raises: RuntimeError with the end of what it said if it fails."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: found exit status {done.returncode}; {done.stderr[-2000:]}")
    return time.perf_counter() - began


def runs(setting: Setting) -> tuple[list[float], Counter[tuple[str, str]]]:
    """Seconds of the first run and of the same again; (stage, model) -> engines started in the first."""
    took, starts = [], []
    for name in ("first", "again"):
        notes = setting.work / "starts" / name
        flow = ["pipelines", "run", "--toy", str(setting.toy), "--store", str(setting.work / "store")]
        toy = seconds(["croco", "toy", "--out", str(setting.toy)])
        took.append(toy + seconds([*flow, "--out", str(setting.work / name)], engine_starts.environment(notes)))
        starts.append(engine_starts.noted(notes))
        print(f"{name} run: {took[-1]:.1f} s", file=sys.stderr, flush=True)
    if starts[1]:
        raise RuntimeError(f"cached run: found engines started: {dict(starts[1])}; expected none")
    return took, starts[0]


def run(setting: Setting) -> Result:
    package, rounds = setting.work / "package.yaml", setting.of(9, 5)
    helps = {program: [seconds([program, "--help"]) for _ in range(rounds)] for program in ("croco", "pipelines")}
    compiling = ["pipelines", "compile", "--out", str(package), "--allow-tags"]
    compiled = [seconds(compiling) for _ in range(setting.of(5, 3))]
    figures = [
        *(spread(took, name=f"{program} --help", unit="s", at_most=0.3) for program, took in helps.items()),
        spread(compiled, name="compile", unit="s", at_most=2.0),
    ]
    if setting.quick:
        return Result(figures)
    (first, again), starts = runs(setting)
    figures += [
        Figure("first run", first, "s", note="an empty store"),
        Figure("cached run", again, "s", at_most=60.0),
        Figure("engine starts", sum(starts.values()), "starts", limit=len(starts)),
        Figure("starts of a model in a stage, at most", max(starts.values()), "starts", at_most=1),
    ]
    return Result(figures, {"starts": [{"stage": s, "model": m, "starts": n} for (s, m), n in starts.items()]})
