"""Measuring: what each bench is given, how sides take turns, and the figures that come of it."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from croco import dataset, engine

Side = Callable[[], float]
"""Does the work once -> how much it was (tokens, pairs, rows), the same for all sides that are compared."""


@dataclass(frozen=True)
class Setting:
    """What a bench is given."""

    toy: Path
    """Folder of the toy world."""
    work: Path
    """An empty folder, removed afterwards."""
    quick: bool
    """Small sizes and few rounds: whether it runs and about where it stands, not a figure to quote."""

    def of(self, full: int, quick: int) -> int:
        """A size or a number of rounds."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Figure:
    """One line of the table: the median over rounds, with the lowest and the highest."""

    name: str
    value: float
    unit: str
    """`x reference` for a ratio to the other side of the same round; else s, GiB, tokens/minimum and the like."""
    low: float | None = None
    high: float | None = None
    """None where there was one round."""
    at_least: float | None = None
    at_most: float | None = None
    """The target; at most one of the two."""
    limit: float | None = None
    """What the machine or arithmetic would allow at best, in the same unit, where it can be computed."""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most


@dataclass(frozen=True)
class Result:
    """What a bench found."""

    figures: Sequence[Figure]
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Settings and single runs, as JSON."""


def turns(
    sides: Mapping[str, Side], rounds: int, *, before: Callable[[], object] = lambda: None
) -> list[dict[str, Any]]:
    """A row for each run of each side: round, side, amount, seconds, and CPU seconds of all threads.

    The sides take turns, each round in another order, so that what else the machine does falls on all of them.
    `before` is called before each run, outside its time.
    """
    names, found = list(sides), []
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            before()
            began, used = time.perf_counter(), time.process_time()
            amount = sides[name]()
            seconds = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
            found.append({"round": number, "side": name, "amount": amount, **seconds})
            print(f"round {number}: {name}: {amount / seconds['seconds']:,.1f} a second", file=sys.stderr, flush=True)
    return found


def against(runs: Sequence[Mapping[str, Any]], side: str, reference: str, name: str, **more: Any) -> Figure:
    """How many times as fast as `reference` `side` was in the same round, over all rounds."""
    speed = {(run["side"], run["round"]): run["amount"] / run["seconds"] for run in runs}
    ratios = [value / speed[reference, number] for (at, number), value in speed.items() if at == side]
    return spread(ratios, name=name, unit="x reference", **more)


def spread(values: Sequence[float], **more: Any) -> Figure:
    """The figure of several values."""
    return Figure(value=statistics.median(values), low=min(values), high=max(values), **more)


def resident(name: str) -> int:
    """Bytes of resident memory of this process: VmRSS now, VmHWM at its highest."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": next(iter(names), platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if engine.on_gpus() else None,
        "python": platform.python_version(),
        "libraries": dataset.library_versions(),
    }


def table(found: Mapping[str, Sequence[Figure]]) -> str:
    """All figures, by bench, as text that Markdown takes for a table."""
    rows = [["bench", "figure", "median", "lowest", "highest", "unit", "target", "limit", ""]]
    for bench, figures in found.items():
        for figure in figures:
            target = _target(figure)
            said = "; ".join(filter(None, [{None: "", True: "met", False: "MISSED"}[figure.met], figure.note]))
            span = [_number(value) for value in (figure.value, figure.low, figure.high)]
            rows.append([bench, figure.name, *span, figure.unit, target, _number(figure.limit), said])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows]
    return "\n".join([lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]])


def _target(figure: Figure) -> str:
    if figure.at_least is not None:
        return f"at least {_number(figure.at_least)}"
    return "" if figure.at_most is None else f"at most {_number(figure.at_most)}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
