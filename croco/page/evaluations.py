"""Evaluations: EuroEval's scores of two models, and a judge's verdicts -> changes and win rates with what they show."""

import math
from pathlib import Path
from typing import Any

from croco import dataset, evidence, paired
from croco.page.distributions import ALL, Rows
from croco.page.judging import judging
from croco.winrate import PARITY, RATES

SIDES = ("base", "tuned")


def benchmarks(base: Path | None, tuned: Path | None) -> Rows:
    """Each score before and after, with EuroEval's own half-width, and how it changed iteration by iteration.

    `main` marks the first metric of a data set, EuroEval's main one. `change`, `standard_error` (with `freedom` degrees
    of freedom) and the 95 % interval `low` to `high` are croco.paired's; `verdict` is what the interval says, None
    where only one model has the score.
    """
    key = ("language", "benchmark", "metric", "task", "split")
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    mains: dict[tuple[str, str], str] = {}
    for side, path in zip(SIDES, (base, tuned), strict=True):
        table = dataset.unique(dataset.read(path, "benchmarks"), "benchmarks", str(path)).to_pylist() if path else []
        for row in table:
            main = mains.setdefault((row["language"], row["benchmark"]), row["metric"])
            entry = found.setdefault(tuple(row[name] for name in key), dict.fromkeys(SIDES))
            entry |= {side: row, "main": row["metric"] == main}
    rows = [dict(zip(key, names, strict=True)) | _compared(entry) for names, entry in found.items()]
    return sorted(rows, key=lambda row: (row["language"], row["benchmark"], not row["main"], *(row[n] for n in key)))


def _compared(entry: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"main": entry["main"]}
    for side in SIDES:
        score = entry[side]
        row[side] = score and {
            "score": score["score"],
            "half_width_95": score["half_width_95"],
            "n": len(score["iterations"]),
        }
    if not (row["base"] and row["tuned"]):
        return row | dict.fromkeys(("change", "standard_error", "freedom", "low", "high", "verdict"))
    before, after = (entry[side]["iterations"] for side in SIDES)
    changed = paired.Change(entry["tuned"]["score"] - entry["base"]["score"], None, math.nan, 1)
    if len(before) == len(after) > 0:  # others are not of the same resampled test sets
        changed = paired.change(before, after)
    return row | {"change": changed.value, "freedom": changed.freedom, **_shown(changed)}


def _shown(changed: paired.Change) -> dict[str, Any]:
    low, high = changed.interval()
    verdict = evidence.verdict(low, high)
    return {"standard_error": changed.error, "low": low, "high": high, "verdict": verdict}


def benchmark_languages(rows: Rows) -> Rows:
    """The mean change of a language's `n` data sets, each counted by its main metric and alike; of several languages
    ALL, over all their data sets, last. `untold`: data sets without an interval, for which the mean has none;
    `left_out`: those that only one model was scored on.
    """
    mains = [row for row in rows if row["main"]]
    codes = sorted({row["language"] for row in mains if row["verdict"]})
    found = []
    for code in [*codes, ALL] if len(codes) > 1 else codes:
        here = [row for row in mains if code in (row["language"], ALL)]
        both = [row for row in here if row["verdict"]]
        changed = paired.mean([paired.Change(row["change"], row["standard_error"], row["freedom"], 1) for row in both])
        named = {
            "untold": [row["benchmark"] for row in both if row["low"] is None],
            "left_out": [row["benchmark"] for row in here if not row["verdict"]],
        }
        found.append({"language": code, "value": changed.value, "n": changed.n, **_shown(changed), **named})
    return found


def win_rates(directory: Path) -> dict[str, Any]:
    """What `arena` measured of `model` against `reference`: its rows in `languages`, ALL last, and `subcategories`,
    shares in [0, 1], each with what its intervals say against parity; by language `in_language`, the shares of both
    models' answers in the language asked for; and `judging`.
    """
    metrics = dataset.load_manifest(directory, "verdicts").metrics
    by_language, by_subcategory = (
        [_judged(row, directory) for row in metrics.get(name, [])] for name in ("win_rates", "subcategories")
    )
    return {
        **{side: metrics.get(side) or side for side in ("model", "reference")},
        "languages": _ordered(by_language),
        "subcategories": by_subcategory,
        "in_language": _ordered(metrics.get("in_language") or []),
        "judging": judging(directory),
    }


def _ordered(rows: Rows) -> Rows:
    return sorted(rows, key=lambda row: (row["language"] == ALL, row["language"]))


def _judged(row: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The row, each of RATES of it None where it was not measured, with `verdict` of each by its interval."""
    found = dict.fromkeys(RATES) | row
    for rate, prefix in RATES.items():
        low, high = row.get(f"{prefix}interval_95") or (None, None)
        known = [number for number in (found[rate], low, high) if number is not None and not math.isnan(number)]
        if not all(0 <= number <= 1 for number in known):
            raise ValueError(f"{directory}: found a win rate of {found[rate]}; expected shares between 0 and 1")
        found[f"{prefix}verdict"] = evidence.verdict(low, high, PARITY)
        found[f"{prefix}verdict_holm"] = row.get(f"{prefix}verdict_holm")
    return found
