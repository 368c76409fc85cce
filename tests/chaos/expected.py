"""Expected: a run that nobody disturbs, what came of it, how long each part of it took, and so when to kill another."""

import random
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from chaos.attempt import Strike, fork
from chaos.world import Case
from croco import dataset

EVENTS = {"compute": 3, "step": 3, "put": 4, "fetch": 1, "clear": 1, "merge": 1, "finish": 2}
"""What a kill waits for, where it does not fall at any time, and how often."""
ANYWHEN = 0.4
"""Share of kills that fall at any time of a run."""
MOST = 4
"""A kill waits for that many events of its kind at most."""


@dataclass
class Expected:
    """An undisturbed run."""

    out: str
    shards: int
    seconds: float
    loaded: float
    """Seconds until its engine was there."""
    events: dict[str, tuple[int, float]]
    """Kind -> (how many, seconds of one, by the median)."""

    def strike(self, draw: random.Random, left: float) -> Strike:
        """When to kill a run with the share `left` of the work to do: at any time, or in the middle of something."""
        if draw.random() < ANYWHEN:
            return Strike(draw.uniform(0, self.loaded + (self.seconds - self.loaded) * left))
        kinds = [kind for kind in EVENTS if kind in self.events]
        kind = draw.choices(kinds, [EVENTS[kind] for kind in kinds])[0]
        number, seconds = self.events[kind]
        return Strike(draw.uniform(0, seconds), kind, draw.randint(1, min(number, MOST)))


def undisturbed(case: Case, out: Path, log: Path) -> Expected:
    """Run a stage to its end, in its own directory and without a store. Raises: RuntimeError if it fails."""
    attempt = fork(lambda: case.run(out, None), None, log)
    if attempt.failed:
        raise RuntimeError(f"{case.stage}: {attempt.failed}")
    lengths: dict[str, list[float]] = defaultdict(list)
    for what, _, seconds in attempt.spans():
        lengths[what.partition(" ")[0]].append(seconds or 0.0)
    loads = [at + (seconds or 0.0) for what, at, seconds in attempt.spans() if what.startswith("load")]
    return Expected(
        str(out),
        sum(row.shards_computed for row in dataset.load_manifest(out).ledger),
        attempt.seconds,
        max(loads, default=0.0),
        {what: (len(each), statistics.median(each)) for what, each in lengths.items()},
    )
