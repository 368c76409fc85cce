"""Comparison: what evaluations of two models let one say of them, check by check, for `croco.promote`.

A check passes, refuses, or is `unknown` where the data cannot tell; its text says what was found either way.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from croco import dataset, evidence, languages, likeness, paired, readings
from croco.likeness import PASS, REFUSE, UNKNOWN, Check, Evidence


class Policy(Protocol):
    """What a model must show (croco.promote)."""

    @property
    def languages(self) -> tuple[str, ...]: ...
    @property
    def questions_languages(self) -> tuple[str, ...]: ...
    @property
    def min_questions(self) -> int: ...
    @property
    def max_unreadable(self) -> float: ...


def against_base(tuned: Evidence, base: Evidence, policy: Policy) -> Iterator[Check]:
    """Coverage, EuroEval, arena and language fidelity against the base."""
    yield from _benchmarks("EuroEval", tuned.benchmarks, base.benchmarks, policy.languages)
    yield from _arena(tuned, base, policy)
    yield from _fidelity("fidelity", tuned.answers, base.answers, policy.questions_languages)


def against_last(tuned: Evidence, last: Evidence, version: str) -> Iterator[Check]:
    """EuroEval, arena and language fidelity against the model promoted last; nothing where they cannot be compared."""
    assert tuned.verdicts and last.verdicts, "a promoted model was judged against its base"
    label = f"against {version}"
    differing = [check for check in likeness.alike({"tuned": tuned, version: last}) if check.verdict != PASS]
    judged = {"tuned": dataset.load_manifest(tuned.verdicts), version: dataset.load_manifest(last.verdicts)}
    for role in ("reference", "judge"):
        check = likeness.one(
            f"arena's {role}", {name: likeness.weights(manifest.models[role]) for name, manifest in judged.items()}
        )
        differing += [check] if check.verdict != PASS else []
    for check in differing:
        text = f"{check.text}: {version}, promoted last, cannot be compared with; evaluate it anew, or use another name"
        yield Check(f"{check.name}, {label}", None, UNKNOWN, text)
    if differing:
        return
    yield from _benchmarks(f"EuroEval, {label}", tuned.benchmarks, last.benchmarks, ())
    yield from _questions(f"arena, {label}", tuned.verdicts, last.verdicts)
    yield from _fidelity(f"fidelity, {label}", tuned.answers, last.answers, ())


def _benchmarks(name: str, after: Path, before: Path, wanted: Sequence[str]) -> Iterator[Check]:
    """By language: the mean paired change of its data sets' first metric, EuroEval's main one."""
    scores = [readings.main_scores(path) for path in (before, after)]
    for code in wanted or sorted({language for language, _ in scores[0]}):
        here = [
            {benchmark: found for (language, benchmark), found in side.items() if language == code} for side in scores
        ]
        if missing := sorted(here[0].keys() ^ here[1].keys()) or (not here[0] and ["any data set"]):
            text = f"{_name(code)}: found no scores of both models on {', '.join(missing)}; expected them"
            yield Check(name, code, REFUSE, text)
            continue
        if uneven := [one for one in here[0] if len(here[0][one]) != len(here[1][one])]:
            text = f"{_name(code)}: found other numbers of iterations on {', '.join(uneven)}; expected as many of both"
            yield Check(name, code, REFUSE, text)
            continue
        changed = paired.mean([paired.change(here[0][one], here[1][one]) for one in here[0]])
        low, high = changed.interval()
        text = f"{_name(code)}: {changed.value:+z.2f} points over {changed.n} data sets ({_between(low, high)})"
        yield _not_lower(name, code, low, high, text)


def _arena(tuned: Evidence, base: Evidence, policy: Policy) -> Iterator[Check]:
    """By language whether enough was judged and is not below parity; over all whether it lies above."""
    assert tuned.verdicts
    rates = {row["language"]: row for row in dataset.load_manifest(tuned.verdicts).metrics["win_rates"]}
    codes = policy.questions_languages or sorted(readings.faithful(base.answers))
    for code in codes:
        row = rates.get(code)
        if row is None or row["questions"] < policy.min_questions:
            found = row["questions"] if row else 0
            text = f"{_name(code)}: found {found} judged questions; expected at least {policy.min_questions}"
            yield Check("arena", code, REFUSE, text)
            continue
        unreadable = 1 - row["readable_share"]
        if unreadable > policy.max_unreadable:
            text = f"{_name(code)}: found {unreadable:.1%} of the verdicts unreadable; expected at most "
            yield Check("arena", code, REFUSE, f"{text}{policy.max_unreadable:.1%}")
            continue
        low, high = row["interval_95"] or (None, None)
        text = (
            f"{_name(code)}: win rate {row['win_rate']:.1%} ({_between(low, high, 100)}), {row['questions']} questions"
        )
        yield _not_lower("arena", code, low, high, text, parity=0.5)
    for rate, bounds in (("win_rate", "interval_95"), ("length_controlled", "lc_interval_95")):
        total = rates.get("all") or {}
        low, high = total.get(bounds) or (None, None)
        said = evidence.verdict(low, high, 0.5)
        words = "win rate" if rate == "win_rate" else "length-controlled win rate"
        text = f"all languages: no {words}" if not total else (
            f"all languages: {words} {total[rate]:.1%} ({_between(low, high, 100)}); expected all of it above 50 %"
        )  # fmt: skip
        yield Check("arena", None, PASS if said == evidence.HIGHER else REFUSE, text)


def _questions(name: str, after: Path, before: Path) -> Iterator[Check]:
    """By language: the mean change of the questions' scores against one base, as one judge saw them."""
    scores = [readings.question_scores(path) for path in (before, after)]
    for code in sorted({language for language, _ in scores[0]}):
        both = [key for key in scores[0].keys() & scores[1].keys() if key[0] == code]
        if len(both) < 2:
            yield Check(name, code, REFUSE, f"{_name(code)}: found {len(both)} questions judged of both; expected two")
            continue
        changed = evidence.mean([scores[1][key] - scores[0][key] for key in sorted(both)], np.ones(len(both)))
        text = f"{_name(code)}: {100 * changed.value:+.1f} points of win rate, {changed.n} questions"
        text += f" ({_between(changed.low, changed.high, 100)})"
        yield _not_lower(name, code, changed.low, changed.high, text)


def _fidelity(name: str, after: Path, before: Path, wanted: Sequence[str]) -> Iterator[Check]:
    """By language: the change of the share of answers in the language asked for, over questions both answered."""
    hits = [readings.faithful(path) for path in (before, after)]
    for code in wanted or sorted(hits[0]):
        sides = [side.get(code, {}) for side in hits]
        both = sorted(sides[0].keys() & sides[1].keys())
        if not both:
            text = f"{_name(code)}: found no question that both answered; expected some"
            yield Check(name, code, REFUSE, text)
            continue
        left, right = ([side[question] for question in both] for side in sides)
        changed = evidence.change(left, right, np.ones(len(both)))
        text = f"{_name(code)}: {100 * changed.value:+.1f} points of answers in the language asked for, {changed.n}"
        text += f" answers ({_between(changed.low, changed.high, 100)})"
        yield _not_lower(name, code, changed.low, changed.high, text)


def _not_lower(name: str, code: str, low: float | None, high: float | None, text: str, parity: float = 0) -> Check:
    verdict = {evidence.LOWER: REFUSE, evidence.UNKNOWN: UNKNOWN}.get(evidence.verdict(low, high, parity), PASS)
    more = {REFUSE: "; expected no loss beyond the interval", UNKNOWN: "; expected an interval"}.get(verdict, "")
    return Check(name, code, verdict, text + more)


def _name(code: str) -> str:
    return languages.get(code).name


def _between(low: float | None, high: float | None, scale: float = 1) -> str:
    if low is None or high is None:
        return "no interval"
    return f"95 % interval {scale * low:+z.2f} to {scale * high:+z.2f}" if scale == 1 else (
        f"95 % interval {scale * low:z.1f} to {scale * high:z.1f}"
    )  # fmt: skip
