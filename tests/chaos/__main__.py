"""All stages, two at a time; the closing line. The exit status is 1 where anything was lost, made twice or changed."""

import argparse
import contextlib
import functools
import gc
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # two runs side by side have a core each

import objectstore

from chaos import world
from chaos.expected import Expected, undisturbed
from chaos.rounds import Found, Plan, rounds
from chaos.tasks import Task, needed, read, together

AT_ONCE = 2
SHARDED = ("sample", "score", "answer", "translate", "arena")
FULL = {
    "folder": Plan((*SHARDED, "train"), kills=8, restores=2, removals=2),
    "bucket": Plan((*SHARDED, "train"), kills=4, where="bucket"),
    "own": Plan((*SHARDED, "train"), kills=4, where="own"),
    "command": Plan((*SHARDED, "train", "benchmark"), kills=2, commands=True),
}
SHORT = {
    "folder": Plan(("translate", "score", "answer"), kills=2, restores=1),
    "bucket": Plan(("sample", "train", "arena"), kills=2, restores=1, where="bucket"),
}


def load_libraries() -> float:
    """Import, once for all attempts, what engines and trainers import; the seconds it took.

    No engine is started and no thread, so that the process can be forked.
    """
    began = time.monotonic()
    import peft  # noqa: F401
    import vllm.model_executor.models.qwen3
    import vllm.v1.worker.cpu_worker  # noqa: F401
    from trl import DPOConfig, DPOTrainer  # noqa: F401

    from croco import languages

    languages.identify("Its model is loaded on first use.")
    gc.collect()
    gc.freeze()  # an engine collects garbage several times while it starts
    if threading.active_count() > 1:
        raise RuntimeError(f"found threads {threading.enumerate()}; expected one, or a fork may hang")
    return time.monotonic() - began


def plan(
    cases: Mapping[str, world.Case], plans: Mapping[str, Plan], out: Path, stores: Mapping[str, str], seed: int,
    startup: float,
) -> dict[str, Task]:  # fmt: skip
    """What there is to do, by name: inputs, an undisturbed run of each stage, and the kills."""
    expected, results = out / "expected", out / "results"

    def undisturb(stage: str) -> dict[str, Any]:
        return vars(undisturbed(cases[stage], expected / stage, results / f"{stage}-undisturbed.log"))

    def disturb(stage: str, kind: str) -> dict[str, Any]:
        name, how = f"{stage}-{kind}", plans[kind]
        store = f"{stores[how.where]}/{name}" if how.where in stores else None
        before = Expected(**read(stage, results))
        return vars(rounds(cases[stage], before, how, out / name, store, random.Random(f"{seed} {name}"), startup))

    tasks = [Task(name, needs, functools.partial(write, expected)) for name, (needs, write) in world.INPUTS.items()]
    tasks += [Task(stage, case.needs, functools.partial(undisturb, stage)) for stage, case in cases.items()]
    tasks += [
        Task(f"{stage}-{kind}", (stage,), functools.partial(disturb, stage, kind))
        for kind, how in plans.items()
        for stage in how.stages
    ]
    return {task.name: task for task in tasks}


def closing(found: Mapping[str, Found], seconds: float) -> str:
    """One line: kills, where they hit, what they cost."""

    def total(name: str) -> int:
        return sum(getattr(one, name) for one in found.values())

    kills, hit = Counter[str](), Counter[str]()
    for name, one in found.items():
        kills[name.partition("-")[0]] += one.kills.total()
        hit += one.kills
    wrong = sum(len(one.wrong) for one in found.values())
    return (
        f"chaos: {'FAILED' if wrong else 'passed'}: {hit.total()} kills ({_words(kills)}), during {_words(hit)}; "
        f"{total('compared')} outputs compared; {total('shards')} shards begun, {total('shards_lost')} lost; "
        f"{total('steps')} steps begun, {total('steps_lost')} lost; {wrong} wrong; {seconds:.0f} s"
    )


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))


def chaos(toy: Path, out: Path, plans: Mapping[str, Plan], stages: Sequence[str], seed: int) -> int:
    """Kill, print what is wrong and the closing line; the exit status."""
    began, results = time.monotonic(), out / "results"
    startup = load_libraries()
    cases = world.cases(toy, out / "expected", 1 if plans is SHORT else 2)
    wanted = [f"{stage}-{kind}" for kind, how in plans.items() for stage in how.stages if stage in stages]
    with contextlib.ExitStack() as stack:
        stores = {"folder": str(out / "stores")}
        if any(how.where == "bucket" for how in plans.values()):
            bucket = objectstore.new_bucket(stack.enter_context(objectstore.serving(out / "objectstore")))
            os.environ.update(bucket.environment)
            stores["bucket"] = bucket.location
        done = together(needed(plan(cases, plans, out, stores, seed, startup), wanted), results, AT_ONCE)
    found = {name: Found(**done[name] | {"kills": Counter(done[name]["kills"])}) for name in wanted}
    for one in found.values():
        print(*one.wrong, sep="\n", end="\n" if one.wrong else "")
    print(closing(found, time.monotonic() - began))
    return int(any(one.wrong for one in found.values()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description="Kill stages at random instants; resume; compare.")
    parser.add_argument("--toy", type=Path, required=True, help="the built toy world")
    parser.add_argument("--out", type=Path, required=True, help="directory to work in, emptied first")
    parser.add_argument("--seed", type=int, default=0, help="of the instants; default 0")
    parser.add_argument("--short", action="store_true", help="a few kills a stage")
    parser.add_argument("--stages", nargs="+", default=[*SHARDED, "train", "benchmark"], help="only these")
    asked = parser.parse_args()
    out = asked.out.resolve()
    if out.exists() and any(out.iterdir()) and not (out / "results").is_dir():
        parser.error(f"{out}: found what chaos did not write; expected a new directory, or one of an earlier run")
    shutil.rmtree(out, ignore_errors=True)
    for folder in ("results", "temporary"):
        (out / folder).mkdir(parents=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(out / "temporary")  # killed stages leave some
    return chaos(asked.toy.resolve(), out, SHORT if asked.short else FULL, asked.stages, asked.seed)


if __name__ == "__main__":
    sys.exit(main())
