"""Costs: the table of profiles as Markdown, the GPU hours that a run of one can take at most, and those that one took.

python -m pipelines profiles --profile spot --price 3.5 --report report.json
"""

import argparse
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from pipelines.profiles import PROFILES, Needs, Pod, Profile

SHARED = ("translate", "sample", "score")
"""Stages in loops, of which each worker is a pod."""
BESIDE = ("benchmark-base", "answer-base")
"""Stages that need nothing of the others, and so run beside any."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", help="what each of its stages gets (default: all profiles in short)")
    parser.add_argument("--workers", type=int, default=7, help="the pipeline's parameter (default 7, as there)")
    parser.add_argument("--price", type=float, help="of a GPU hour, in whatever currency: costs are then in it")
    parser.add_argument("--report", type=Path, metavar="FILE", help="report.json of a run: what it took")


def main(flags: argparse.Namespace, screen: TextIO) -> int:
    """Print what the flags ask for; the exit status. Raises: ValueError; as `took`."""
    for name, wrong in (("workers", flags.workers < 1), ("price", flags.price is not None and not flags.price > 0)):
        if wrong:
            raise ValueError(f"--{name}: found {getattr(flags, name)}; expected more than 0")
    if flags.profile is not None and flags.profile not in PROFILES:
        raise ValueError(f"--profile: found {flags.profile!r}; expected one of {', '.join(PROFILES)}")
    said = stages(PROFILES[flags.profile], flags.workers, flags.price) if flags.profile else overview(flags.workers)
    print(said, file=screen)
    if flags.report:
        print(f"\n{took(flags.report, flags.price)}", file=screen)
    return 0


def overview(workers: int) -> str:
    """Every profile in a line."""
    rows = [
        [f"`{name}`", profile.about, str(at_once(profile, workers)), f"{total(profile, workers):,}"]
        for name, profile in PROFILES.items()
    ]
    return table(["profile", "for", "GPUs at once", "GPU hours at most"], rows)


def stages(profile: Profile, workers: int, price: float | None) -> str:
    """What each stage of a profile gets, and what all can take and cost at most."""
    rows = []
    for stage, needs in profile.needs.items():
        number, most, job = pods(stage, workers), at_most(stage, needs, workers), needs.job
        rows.append([stage, *_row(number, needs.pod, needs.hours, needs.retries, 0 if job else most)])
        if job:
            rows.append([f"{stage}, handed on", *_row(job.nodes, job.pod, job.hours, needs.retries, most)])
    heads = ["stage", "pods", "GPUs", "CPU", "memory", "/dev/shm", "/cache", "hours", "retries", "GPU hours at most"]
    hours, gpus = total(profile, workers), at_once(profile, workers)
    said = (
        f"Hours are an attempt's. With {workers} workers, at most {gpus} GPUs at once and {hours:,} GPU "
        f"hours{_cost(hours, price)}: every attempt of every task as long as it may be. That is a ceiling and no "
        "estimate; a run that goes well takes a small part of it."
    )
    return f"{table(heads, rows)}\n\n{textwrap.fill(said, 120)}"


def _row(number: int, pod: Pod, hours: int, retries: int, most: int) -> list[str]:
    sizes = [pod.cpu, pod.memory, pod.shared_memory or "-", pod.disk]
    return [str(number), str(pod.gpus), *sizes, str(hours), str(retries), f"{most:,}"]


def pods(stage: str, workers: int) -> int:
    """At once, at most: there may be fewer shares of the work than workers."""
    return workers if stage in SHARED else 1


def at_most(stage: str, needs: Needs, workers: int) -> int:
    """GPU hours that a stage can take: pods x GPUs x hours x attempts."""
    gpus, hours = needs.pod.gpus, needs.hours
    if needs.job:
        gpus, hours = needs.job.nodes * needs.job.pod.gpus, needs.job.hours
    return pods(stage, workers) * gpus * hours * (needs.retries + 1)


def total(profile: Profile, workers: int) -> int:
    """GPU hours that a run can take."""
    return sum(at_most(stage, needs, workers) for stage, needs in profile.needs.items())


def at_once(profile: Profile, workers: int) -> int:
    """GPUs that a run can hold: the largest stage's, and those of the base model's evaluation, which run beside it."""
    held = {
        stage: pods(stage, workers) * (needs.job.nodes * needs.job.pod.gpus if needs.job else needs.pod.gpus)
        for stage, needs in profile.needs.items()
    }
    return max(number for stage, number in held.items() if stage not in BESIDE) + sum(held[stage] for stage in BESIDE)


def took(report: Path, price: float | None) -> str:
    """What the ledger of a report says that its rows took, by stage.

    Raises: FileNotFoundError; ValueError for what is no report.
    """
    if not report.is_file():
        raise FileNotFoundError(f"{report}: found no file; expected the report.json of a run")
    try:
        rows: Sequence[Mapping[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["ledger"]["stages"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{report}: found no ledger; expected the report.json that the stage report writes") from error
    lines = [[row["input"], row["stage"], f"{row['gpu_seconds'] / 3600:,.2f}"] for row in rows]
    hours = sum(row["gpu_seconds"] for row in rows) / 3600
    return (
        f"{table(['of the report', 'stage', 'GPU hours'], lines)}\n\nWhat is reported took {hours:,.2f} GPU hours"
        f"{_cost(hours, price)}, whichever run did it. Nodes that start or wait, and failed attempts, are not in it."
    )


def _cost(hours: float, price: float | None) -> str:
    return f", which cost {hours * price:,.2f} at {price:g} an hour" if price else ""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head, *lines = (f"| {' | '.join(cells)} |" for cells in [heads, *rows])
    return "\n".join([head, "|---" * len(heads) + "|", *lines])
