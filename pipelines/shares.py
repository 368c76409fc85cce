"""Shares: a study's arms dealt to several processes of this machine, which meet in the store.

On small models a task is mostly its start, on one core. Each process runs the study's own graph, but for the arms of
others and for the report; what two of them need first, whichever has it first, or both, put into the store under one
key. The study itself is then run as ever, and finds all of it there.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from kfp import dsl

from pipelines import local
from pipelines.arms import Arm, Study
from pipelines.placement import Cluster
from pipelines.study import flows_of


class Lines(TextIOWrapper):
    """Standard output for whole lines: never the terminal that it may be, for others write to it too."""

    def isatty(self) -> bool:
        return False


def deal(study: Study, processes: int) -> list[list[str]]:
    """Names of arms, by process, about as many trainings for each; an arm and those that start from it stay together.

    There are as many lists as processes, or fewer where there are fewer such groups.
    """

    def root(arm: Arm) -> str:
        return root(study.arm(arm.start)) if arm.start else arm.name

    groups: dict[str, list[Arm]] = {}
    for arm in study.arms:
        groups.setdefault(root(arm), []).append(arm)
    shares: list[list[Arm]] = [[] for _ in range(min(processes, len(groups)))]
    for group in sorted(groups.values(), key=_trainings, reverse=True):
        min(shares, key=_trainings).extend(group)
    return [[arm.name for arm in share] for share in shares]


def _trainings(arms: Collection[Arm]) -> int:
    return sum(len(arm.seeds) for arm in arms)


def part(study: Study, arms: Collection[str], cluster: Cluster) -> Any:
    """The study's pipeline for these arms alone, as far as their outcomes."""
    flows = flows_of(study, cluster)

    @dsl.pipeline(name=f"croco-study-{study.name}")
    def pipeline(store: str = "") -> None:
        for flow in flows:
            flow.tune(store, arms)

    return pipeline


def run(study: Study, given: Mapping[str, Any], folder: Path, processes: int) -> None:
    """Tune and evaluate by every arm, in so many processes, into the store that `given` names.

    Their logs are in `folder`/share-1 and so on; a line a task goes to standard output.
    Raises: RuntimeError if a task fails, as `local.run`; the other processes are ended then.
    """
    dealt = deal(study, processes)
    context, threads = multiprocessing.get_context("spawn"), max(1, len(os.sched_getaffinity(0)) // len(dealt))
    with ProcessPoolExecutor(len(dealt), context, _begin, (threads,)) as pool:
        working = [
            pool.submit(_work, study, arms, given, folder / f"share-{number}") for number, arms in enumerate(dealt, 1)
        ]
        try:
            for share in as_completed(working):
                share.result()
        except BaseException:
            for pid in [process.pid for process in multiprocessing.active_children() if process.pid]:
                os.kill(pid, signal.SIGTERM)
                with contextlib.suppress(ProcessLookupError):  # it has not begun, and has no tasks
                    os.killpg(pid, signal.SIGTERM)
            raise


def _begin(threads: int) -> None:
    """In a process before its share: no more threads than cores, and an end with the process that dealt."""
    os.setsid()  # its tasks end with it
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent, "only called where there is one"
    parent.join()
    os.killpg(0, signal.SIGTERM)


def _work(study: Study, arms: Collection[str], given: Mapping[str, Any], folder: Path) -> None:
    """One share; its artifacts go, for the store has them."""
    with open(1, "wb", closefd=False) as output:
        local.run(part(study, arms, Cluster("toy")), given, folder, Lines(output))
    shutil.rmtree(folder / "tasks")
