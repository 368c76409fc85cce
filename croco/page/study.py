"""Study: outcomes of a study's arms, and the plan that said what was meant -> the numbers its pages show.

Shares and rewards are as they were measured; MEASURES says how pages show them. The statistics are croco.effects'.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from croco import dataset, effects, evidence
from croco.effects import Draws, Effect, Series
from croco.page import wording
from croco.page.distributions import ALL, Rows
from croco.tally import BASE, SHARED
from croco.winrate import PARITY

AMOUNTS = ("gpu_seconds", "seconds", "tokens_in", "tokens_out")
CONTROLLED, ERROR = "length_controlled", "length_controlled/standard_error"


@dataclasses.dataclass(frozen=True)
class Measure:
    """How a measure is shown."""

    label: str
    unit: str
    scale: float
    """A share in percentage points: 100."""
    digits: int


MEASURES = {
    "euroeval": Measure("EuroEval", "points, mean over data sets", 1, 2),
    "arena": Measure("Arena win rate", "percentage points from parity", 100, 1),
    CONTROLLED: Measure("Length-controlled win rate", "percentage points from parity", 100, 1),
    "oracle": Measure("Oracle", "units of the hidden quality", 1, 3),
    "fidelity": Measure("Language fidelity", "percentage points", 100, 1),
    "reward": Measure("Reward", "units of the reward model", 1, 3),
}
COMPARED = ("euroeval", "arena", CONTROLLED, "oracle")
"""Measures in the table of differences: evaluations, none of which an arm was tuned on."""
CLAIMED = ("euroeval", "arena", "fidelity", "reward", "oracle")
"""Measures that a claim may be about."""
EVALUATIONS = ("oracle", "arena", "euroeval")
"""What the reward is held against."""

Found = dict[tuple[str, str], Series]
"""(arm, measure) -> its values; EuroEval's data sets are one measure."""


def collect(outcomes: Path, plan: Mapping[str, Any], *, repetitions: int, seed: int) -> dict[str, Any]:
    """Every number of the study; `plan` has been checked.

    Raises: ValueError where arms or seeds of plan and outcomes differ, or an outcome is of no known measure.
    """
    found, costs = load(outcomes, plan)
    asked = {item for (_, name), one in found.items() if name in CLAIMED[1:] for _, item in one.values}
    study = Study(found, [arm["name"] for arm in plan["arms"]], Draws(asked, repetitions, seed))
    differences = [study.differences(name) for name in COMPARED if study.has(name)]
    return {
        "title": wording.visible(plan["name"]),
        "repetitions": repetitions,
        "languages": study.languages,
        "arms": [{"number": at, **arm} for at, arm in enumerate(plan["arms"], 1)],
        "claims": [claim | study.claim(claim) for claim in plan["claims"]],
        "differences": differences,
        "matches": [row for one in differences for row in matches(one)],
        "fidelity": study.fidelity() if study.has("fidelity") else [],
        "rewards": study.rewards() if study.has("reward") else None,
        "cost": cost(costs, plan),
        "settings": plan["values"],
    }


def load(outcomes: Path, plan: Mapping[str, Any]) -> tuple[Found, dict[tuple[str, str, str], float]]:
    """The values of each arm and measure, and what each arm and stage took of each of AMOUNTS, over its seeds."""
    table = dataset.unique(dataset.read(outcomes, "outcomes"), "outcomes", str(outcomes))
    values: dict[tuple[str, str], list[tuple[str, str, int, float]]] = {}
    costs: dict[tuple[str, str, str], float] = {}
    runs: set[tuple[str, int]] = set()
    for arm, seed, measure, code, item, value in zip(*(column.to_pylist() for column in table.columns), strict=True):
        runs.add((arm, seed))
        kind, _, rest = measure.partition("/")
        stage, _, amount = rest.partition("/")
        if not math.isfinite(value):
            raise ValueError(f"{outcomes}: found {value} as {measure} of {arm}; expected finite numbers")
        if kind == "cost" and stage and amount in AMOUNTS:
            costs[arm, stage, amount] = costs.get((arm, stage, amount), 0.0) + value
        elif kind == "euroeval" and rest:
            values.setdefault((arm, kind), []).append((code, f"{rest}/{item}", seed, value))
        elif (measure in MEASURES and measure != "euroeval") or measure == ERROR:
            values.setdefault((arm, measure), []).append((code, item, seed, value))
        else:
            known = ", ".join(["euroeval/<benchmark>", *list(MEASURES)[1:], ERROR, "cost/<stage>/<amount>"])
            raise ValueError(f"{outcomes}: found measure {measure!r}; expected one of {known}")
    same_runs(runs, plan, str(outcomes))
    seeds = {arm: sorted(seed for name, seed in runs if name == arm) for arm, _ in runs}  # whether they have it or not
    found = {key: effects.series(seeds[key[0]], these) for key, these in values.items()}
    return found, costs


def same_runs(runs: set[tuple[str, int]], plan: Mapping[str, Any], name: str) -> None:
    """Raises: ValueError unless the outcomes are those of the plan's arms and seeds, and of the base: no arm is lost,
    and none shown of which nobody said what it is."""
    meant = {(arm["name"], seed) for arm in plan["arms"] for seed in arm["seeds"]}
    measured = {(arm, seed) for arm, seed in runs if arm not in (BASE, SHARED)}
    for others, where, expected in (
        (meant - measured, "no outcome of", "all of the plan's; `python -m croco tally` adds one"),
        (measured - meant, "outcomes of", "only the plan's; correct the plan, or leave them out"),
    ):
        if others:
            listed = ", ".join(f"{arm} (seed {seed})" for arm, seed in sorted(others))
            raise ValueError(f"{name}: found {where} {listed}; expected {expected}")
    if BASE not in {arm for arm, _ in runs}:
        raise ValueError(f"{name}: found no outcome of {BASE}; expected the base model's, which arms are held against")


@dataclasses.dataclass(frozen=True)
class Study:
    """The outcomes of arms, in the plan's order."""

    found: Found
    arms: Sequence[str]
    draws: Draws

    def has(self, measure: str) -> bool:
        return any((arm, measure) in self.found for arm in self.arms)

    @property
    def languages(self) -> list[str]:
        """Every language that something was measured in, without ALL."""
        return sorted({code for one in self.found.values() for code, _ in one.values} - {ALL})

    def effect(self, measure: str, better: str, worse: str, codes: Sequence[str] | None = None) -> Effect:
        """How far `better` is above `worse`, arms or BASE; in the arena the base is at parity with itself."""
        after, before = (self.found.get((arm, measure)) for arm in (better, worse))
        if measure == "arena":
            after = before.level(PARITY) if before and better == BASE else after
            before = after.level(PARITY) if after and worse == BASE else before
        if not after or not before:
            return Effect(None, None, None, 0, 0, (0, 0), 0)
        if measure == "euroeval":
            return effects.scores(after, before, codes)
        share = PARITY if measure == "arena" and BASE in (better, worse) else 1.0
        bounds = (-share, share) if measure in ("arena", "fidelity") else (-math.inf, math.inf)
        return effects.questions(after, before, self.draws, codes, bounds)

    def controlled(self, arm: str, code: str) -> Effect | None:
        """The length-controlled win rate of a language (or ALL), over the arm's seeds."""
        rates = self.found.get((arm, CONTROLLED))
        if not rates or (code, "") not in rates.whole(None):
            return None
        errors = self.found.get((arm, ERROR))
        known = errors is not None and errors.seeds == rates.seeds and (code, "") in errors.whole(None)
        found = errors.values[code, ""] if errors and known else None
        return effects.controlled(rates.values[code, ""], found, PARITY)

    def differences(self, measure: str) -> dict[str, Any]:
        """A row an arm: its difference to the base in every language and ALL; None where it was not measured."""
        rows = []
        for arm in self.arms:
            cells: dict[str, dict[str, Any] | None] = {}
            for code in [ALL, *self.languages]:
                codes = None if code == ALL else [code]
                rate = measure == CONTROLLED
                one = self.controlled(arm, code) if rate else self.effect(measure, arm, BASE, codes)
                cells[code] = shown(one) if one and (one.value is not None or one.left_out) else None
            rows.append({"arm": arm, "cells": cells})
        return {"measure": measure, **dataclasses.asdict(MEASURES[measure]), "rows": rows}

    def fidelity(self) -> Rows:
        """A row for the base and each arm: the share of answers in the language asked for, and its change."""
        rows = []
        for arm in [BASE, *self.arms]:
            one, cells = self.found.get((arm, "fidelity")), {}
            for code in [ALL, *self.languages] if one else []:
                codes = None if code == ALL else [code]
                values = [one.values[key] for key in sorted(one.whole(codes))] if one else []
                changed = None if arm == BASE else shown(self.effect("fidelity", arm, BASE, codes))
                share = rounded(float(np.mean(values))) if values else None
                cells[code] = {"share": share, "n": len(values), "change": changed}
            rows.append({"arm": arm, "seeds": len(one.seeds) if one else 0, "cells": cells})
        return rows

    def rewards(self) -> dict[str, Any]:
        """Mean changes to base of `reward` and EVALUATIONS: of each run, of each arm, and how they rank the arms."""
        names = ["reward", *(name for name in EVALUATIONS if self.has(name))]
        runs: Rows = []
        for arm in self.arms:
            seeds = sorted(
                {seed for name in names if (arm, name) in self.found for seed in self.found[arm, name].seeds}
            )
            runs += [{"arm": arm, "seed": seed, **self._run(arm, seed, names)} for seed in seeds]
        arms: Rows = []
        for arm, own in itertools.groupby(runs, lambda run: run["arm"]):
            of_seeds = list(own)
            known = {name: [run[name] for run in of_seeds if run[name] is not None] for name in names}
            means = {name: rounded(float(np.mean(these))) if these else None for name, these in known.items()}
            arms.append({"arm": arm, "seeds": len(of_seeds), **means})
        ranks = []
        for name in names[1:]:
            both = [row for row in arms if None not in (row["reward"], row[name])]
            rho, p = effects.correlation([row["reward"] for row in both], [row[name] for row in both])
            says = evidence.tested(rho, p)
            ranks.append({"measure": name, "n": len(both), "rho": rounded(rho), "p_value": rounded(p), "verdict": says})
        return {"measures": names, "runs": runs, "arms": arms, "correlations": ranks}

    def _run(self, arm: str, seed: int, names: Sequence[str]) -> dict[str, float | None]:
        """The mean changes of one run; an interval is the arm's business."""
        of_run = {}
        for name in names:
            one = self.found.get((arm, name))
            if one and seed in one.seeds:
                of_run[arm, name] = one.only(seed)
        base = {key: one for key, one in self.found.items() if key[0] == BASE}
        alone = Study(of_run | base, [arm], self.draws)
        return {name: rounded(alone.effect(name, arm, BASE).value) for name in names}

    def claim(self, claim: Mapping[str, Any]) -> dict[str, Any]:
        """What the outcomes say of a claim: `verdict` HIGHER agrees, LOWER disagrees, else it cannot be told."""
        return shown(self.effect(claim["measure"], claim["better"], claim["worse"], claim["languages"]))


def shown(one: Effect) -> dict[str, Any]:
    """An effect with what its interval says against 0, rounded so that machines agree on every digit."""
    ends = {name: rounded(getattr(one, name)) for name in ("value", "low", "high")}
    return {**dataclasses.asdict(one), **ends, "verdict": evidence.verdict(one.low, one.high)}


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 9) + 0.0


def matches(one: Mapping[str, Any]) -> Rows:
    """By arm in how many languages it is not lower than the base beyond the interval, of those with an interval."""
    found = []
    for row in one["rows"]:
        said = [cell["verdict"] for code, cell in row["cells"].items() if cell and code != ALL]
        told = [verdict for verdict in said if verdict != evidence.UNKNOWN]
        numbers = {"matches": len(told) - told.count(evidence.LOWER), "of": len(told), "untold": len(said) - len(told)}
        above = {"higher": told.count(evidence.HIGHER), "lower": told.count(evidence.LOWER)}
        found.append({"arm": row["arm"], "measure": one["measure"], **numbers, **above})
    return found


def cost(costs: Mapping[tuple[str, str, str], float], plan: Mapping[str, Any]) -> Rows:
    """What each arm's own work took over its seeds, with its `stages`; BASE and SHARED last, where they have any.

    Of AMOUNTS, None is what no stage counted.
    """
    seeds = {arm["name"]: len(arm["seeds"]) for arm in plan["arms"]} | {BASE: None, SHARED: None}
    found = []
    for arm, number in seeds.items():
        stages = list(dict.fromkeys(stage for owner, stage, _ in costs if owner == arm))
        rows: Rows = [{"stage": stage, **{name: costs.get((arm, stage, name)) for name in AMOUNTS}} for stage in stages]
        known = {name: [row[name] for row in rows if row[name] is not None] for name in AMOUNTS}
        total = {name: sum(these) if these else None for name, these in known.items()}
        if stages or number:
            found.append({"arm": arm, "seeds": number, **total, "stages": rows})
    return found
