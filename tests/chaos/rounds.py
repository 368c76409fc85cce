"""Rounds: a stage from an empty store to its finished output, over as many kills as it takes."""

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos.attempt import Attempt, Strike, command, fork
from chaos.expected import MOST, Expected
from chaos.witness import Witness, differences, is_finished, progress, strays
from chaos.world import Case
from croco import dataset, storage
from croco.store import DAY, open_store
from croco.writer import KEPT

MANY = 30
"""Rounds after which a plan whose kills keep missing is given up."""
BRIEF = 0.003
"""Seconds, of about what it takes to put or fetch a toy shard."""


@dataclass(frozen=True)
class Plan:
    """How often a stage is killed."""

    stages: tuple[str, ...]
    kills: int
    """Before its output is finished."""
    restores: int = 0
    """While its output is fetched from the store."""
    removals: int = 0
    """While the store is emptied of it."""
    where: str = "folder"
    """Of its store: `folder`, `bucket`, or `own`, the stage's directory."""
    commands: bool = False
    """Whether it is run by the command line."""


@dataclass
class Found:
    """What came of some rounds."""

    kills: Counter[str] = field(default_factory=Counter)
    """What was hit -> times."""
    shards: int = 0
    """Begun by a run that could be watched."""
    shards_lost: int = 0
    """Begun, and not stored when the kill came."""
    steps: int = 0
    """Optimizer steps begun."""
    steps_lost: int = 0
    """Begun since the last checkpoint that was kept when the kill came."""
    compared: int = 0
    """Outputs that were held against the expected one."""
    wrong: list[str] = field(default_factory=list)


class Round:
    """One store, or one directory, from empty to finished."""

    def __init__(
        self,
        case: Case,
        expected: Expected,
        folder: Path,
        store: str | None,
        draw: random.Random,
        startup: float,
        found: Found,
    ) -> None:
        """`store`: its location; without one the stage keeps its shards in its own directory. `startup`: seconds that
        the imports of a command take.
        """
        self.case, self.expected, self.folder, self.store = case, expected, folder, store
        self.draw, self.found = draw, found
        self.outs, self.log = 0, folder / "log"
        self.startup, self.restoring = startup, 0.0
        self.computed: set[str] = set()
        """Contents of the shards that were computed and not lost."""
        folder.mkdir(parents=True)
        self.witness = Witness(open_store(store or self.out / KEPT))

    @property
    def out(self) -> Path:
        return self.folder / f"out-{self.outs}"

    def go(self, attempt: Callable[[bool], Attempt], kills: int) -> int:
        """Attempts until one is not killed; how many were. So many may be, and then one is left alone."""
        killed = 0
        while True:
            if self.store and self.draw.random() < 0.5:
                self.outs += 1  # a new pod, with an empty disk
            stored, step, names = self.witness.shards(), self.witness.step(self.out), set(self.witness.seen)
            outcome = attempt(killed < kills)
            wrong = [f"{name}: put again" for name in outcome.began("put") if name in names]
            wrong += [outcome.failed] if outcome.failed else self._check(outcome, stored, step)
            self.found.wrong += [f"{self.case.stage}, {self.folder.name}: {words}" for words in wrong]
            killed += outcome.killed
            if outcome.failed or not outcome.killed or (not self.store and is_finished(self.out)):
                return killed

    def _check(self, attempt: Attempt, stored: int, step: int) -> list[str]:
        """What is wrong after an attempt before which `stored` shards and `step` steps were kept."""
        finished, restoring = is_finished(self.out), self.witness.result()
        own = finished and not self.store  # its shards are gone with its work
        wrong = [] if own else self.witness.look()
        if restoring and attempt.began("load"):
            wrong.append("an engine was loaded for a result that was stored")
        if attempt.events:
            new = len(attempt.began("compute")) if own else self.witness.shards() - stored
            wrong += self._shards(attempt, new) + self._steps(attempt, step, finished)
        if finished:
            self.found.compared += 1
            wrong += differences(self.out, Path(self.expected.out))
        if finished and not attempt.killed:
            wrong += strays(self.out) + self._ledger(stored)
        elif not attempt.killed:
            wrong.append(f"{self.out}: found no whole output; expected a finished one")
        return wrong

    def _ledger(self, stored: int) -> list[str]:
        """What is wrong with what a manifest says of the shards that were computed and reused."""
        ledger = dataset.load_manifest(self.out).ledger
        found = sum(row.shards_computed for row in ledger), sum(row.shards_reused for row in ledger)
        expected = self.expected.shards - stored, stored
        return [] if found == expected else [f"ledger: found shards computed, reused {found}; expected {expected}"]

    def _shards(self, attempt: Attempt, new: int) -> list[str]:
        """What is wrong with the shards that were begun, of which `new` are stored."""
        begun = attempt.began("compute")
        again, lost = self.computed.intersection(begun), len(begun) - new
        self.computed.update(begun[:new])
        self.found.shards += len(begun)
        self.found.shards_lost += lost
        wrong = [f"{len(again)} shards computed again that were stored"] if again else []
        if not 0 <= lost <= attempt.killed:
            wrong.append(f"{len(begun)} shards begun and {new} stored; expected at most 1 lost, and by a kill")
        return wrong

    def _steps(self, attempt: Attempt, step: int, finished: bool) -> list[str]:
        """What is wrong with the optimizer steps that were begun, where the last checkpoint was of `step`."""
        steps = [int(name) for name in attempt.began("step")]
        if not steps:
            return []
        self.found.steps += len(steps)
        wrong = [] if steps[0] == step else [f"training went on from step {steps[0]}; expected {step}, the last kept"]
        if not finished:
            lost = steps[-1] + 1 - self.witness.step(self.folder if self.store else self.out)
            self.found.steps_lost += lost
            if lost > (most := self.case.config.checkpoint_steps):
                wrong.append(f"{lost} steps lost; expected at most {most}, those since the last checkpoint")
        return wrong

    def forked(self, kill: bool) -> Attempt:
        """An attempt in a child of this process, which can be watched."""
        left = 1 - self.witness.shards() / max(self.expected.shards, 1)
        return self._fork(self.expected.strike(self.draw, left) if kill else None)

    def restored(self, kill: bool) -> Attempt:
        """An attempt that finds its result in the store."""
        draw = self.draw
        strikes = [
            Strike(draw.uniform(0, self.restoring)),
            Strike(draw.uniform(0, BRIEF), "fetch", draw.randint(1, MOST)),
            Strike(draw.uniform(0, BRIEF / 10), "clear"),
        ]
        attempt = self._fork(draw.choice(strikes) if kill else None, "restore")
        if not kill:
            self.restoring = attempt.seconds
        return attempt

    def commanded(self, kill: bool) -> Attempt:
        """An attempt by the command line: killed at any time, or after some more work is seen to be kept."""
        store, draw = open_store(self.store or self.out / KEPT), self.draw
        due = draw.uniform(0, self.startup + self.expected.seconds)
        enough = draw.choice([0, progress(store, self.out) + draw.randint(1, MOST)])
        pause = draw.uniform(0, self.expected.events.get("compute", (0, BRIEF))[1])

        def strike(seconds: float) -> bool:
            if not kill or not enough:
                return kill and seconds >= due
            if reached := progress(store, self.out) >= enough:
                time.sleep(pause)
            return reached

        attempt = command(self.case.command(self.out, self.store), strike, self.log)
        self.found.kills["command"] += attempt.killed
        return attempt

    def emptied(self, kills: int) -> None:
        """Let everything in the store be old, and remove it; it must be whole after each kill. What is left is new."""
        assert self.store
        store = open_store(self.store)
        self._set_age(100 * DAY.total_seconds())
        self.witness.removable = ("",)
        for _ in range(kills):
            strike = Strike(self.draw.uniform(0, BRIEF), "remove", self.draw.randint(1, MOST))
            attempt = fork(lambda: storage.Gc(str(self.store), delete=True).run(store), strike, self.log)
            self.found.kills["remove"] += attempt.killed
            wrong = [attempt.failed] if attempt.failed else self.witness.look()
            self.found.wrong += [f"{self.case.stage}, {self.folder.name}, gc: {words}" for words in wrong]
        self._set_age(0)
        self.computed.clear()

    def _set_age(self, seconds: float) -> None:
        at = time.time() - seconds
        for entry in open_store(str(self.store)).entries():
            os.utime(Path(str(self.store), entry.name), (at, at))
        self.witness.look()  # and it takes that for granted

    def _fork(self, strike: Strike | None, what: str = "") -> Attempt:
        attempt = fork(lambda: self.case.run(self.out, self.store), strike, self.log)
        if attempt.killed:
            self.found.kills[what or attempt.during(self.case.stage)] += 1
        return attempt


def rounds(
    case: Case, expected: Expected, plan: Plan, folder: Path, store: str | None, draw: random.Random, startup: float
) -> Found:
    """As many rounds as it takes to kill as often as planned."""
    found, killed = Found(), 0
    for number in range(MANY):
        location = f"{store}/{number}" if store else None
        one = Round(case, expected, folder / str(number), location, draw, startup, found)
        killed += one.go(one.commanded if plan.commands else one.forked, plan.kills - killed)
        if not number and plan.restores:
            one.go(one.restored, 0)
            one.go(one.restored, plan.restores)
        if not number and plan.removals:
            one.emptied(plan.removals)
            one.go(one.forked, 0)
        if killed >= plan.kills or found.wrong:
            return found
    found.wrong.append(f"{case.stage}: found {killed} kills in {MANY} rounds; expected {plan.kills}")
    return found
