"""Win rate: scores of judged questions -> win rates with standard errors, intervals, tests and length control.

Every rate is a share in [0, 1]; .5 is parity. A question's score in one language is the mean over its two orders
(win 1, tie .5, loss 0), so a judge that prefers a place adds the same to both sides. Rows of one question, in
whatever languages, are one cluster: they are drawn together, since a hard question is hard in every language.

`win_rate` is raw, the mean score. Standard error: sqrt(G / (G - 1) * sum_g (sum_{i in g} (y_i - mean))^2) / n over G
clusters of n rows; for one language it is the usual standard deviation / sqrt(n). Source: Liang and Zeger, 1986.
`length_controlled` is the paper's released code's rate, and `alpaca_length_controlled` AlpacaEval 2's without its
difficulty term: croco/lengthcontrol.py says how they differ. Their standard errors allow for clusters as the raw one's.

Intervals: percentile bootstrap over clusters; too narrow for fewer than about 30 questions, and not given for fewer
than 10. Where every question is won (or lost) no sample can differ, and Wilson's bound stands for it. AlpacaEval's rate
is not fitted again to each sample, which would take hours, but moved as its rows move it to first order, from where it
would be without its penalty: around a rate that is pulled to parity, an interval would miss the truth too often.
p-values, of parity: twice the share of those samples on the other side of it, so below .05 about where the interval
leaves parity out; at least 2 / (repetitions + 1), so few repetitions cannot show much. `p_holm` is adjusted by Holm's
method for all languages (or subcategories) looked at together; the row of `all` is a question of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from croco import evidence, judges, lengthcontrol, rows
from croco.lengthcontrol import Floats, mean

Ints = NDArray[np.int64]

SCORE = {"model": 1.0, "tie": 0.5, "reference": 0.0}
PARITY = 0.5
FEWEST = 10
"""Clusters below which there is no interval, no test and no rate of AlpacaEval's (ours)."""
Z = 1.959963984540054
"""Standard normal quantile of .975."""
RATES = {"win_rate": "", "length_controlled": "lc_", "alpaca_length_controlled": "alpaca_"}
"""Each rate, and how the names of what belongs to it begin."""


def standard_error(scores: Floats, clusters: Ints) -> float | None:
    """Standard error of the mean of `scores` [n] with rows of one cluster [n] dependent; None for a single cluster."""
    _, number = np.unique(clusters, return_inverse=True)
    sums = np.bincount(number, scores - scores.mean())
    if len(sums) < 2:
        return None
    return float(np.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(scores))


def resample(clusters: Ints, repetitions: int, seed: int) -> Floats:
    """How often each row stands in each bootstrap sample [repetitions, n]; rows of one cluster stand equally often."""
    _, number = np.unique(clusters, return_inverse=True)
    size = int(number.max()) + 1
    draws = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=repetitions)
    return draws[:, number].astype(np.float64)


def overall(rates: Sequence[Floats], weights: Sequence[Floats]) -> Floats:
    """One rate per sample over languages, each weighted by its questions in that sample.

    `rates` [samples] and `weights` [samples, n] per language; a language no question of which was drawn adds nothing.
    (The reference code takes the unweighted mean; with as many questions in every language they are the same.)
    """
    totals = [weight.sum(axis=1) for weight in weights]
    parts = [np.where(total > 0, rate, 0) * total for rate, total in zip(rates, totals, strict=True)]
    return np.sum(parts, axis=0) / np.sum(totals, axis=0)


def interval(values: Floats, rate: float, clusters: int) -> list[float]:
    """The middle 95 % of bootstrapped values of `rate`, and up to the rate if a penalty has moved that out of it; at a
    rate of 0 or 1 Wilson's interval of so many clusters."""
    if rate in (0, 1):
        bound = Z**2 / (clusters + Z**2)
        return [0.0, bound] if rate == 0 else [1 - bound, 1.0]
    low, high = np.quantile(values, (0.025, 0.975))
    return [float(min(low, rate)), float(max(high, rate))]


def p_value(values: Floats, rate: float, clusters: int) -> float:
    """Of parity, two-sided, from bootstrapped values of `rate`; those at parity are on both sides of it. 1 at a rate of
    parity; at 0 or 1 that of the sign test, if it is higher."""
    if rate == PARITY:
        return 1.0
    other = min((values <= PARITY).sum(), (values >= PARITY).sum())
    floor = 2 * 0.5**clusters if rate in (0, 1) else 0.0
    return float(min(max(2 * (other + 1) / (len(values) + 1), floor), 1.0))


def summarize(
    scores: Floats, difference: Floats, clusters: Ints, groups: Ints, *, repetitions: int, seed: int
) -> dict[str, Any]:
    """Win rates of questions [n] in the languages numbered by `groups` [n]: `questions`, each of RATES, and its
    standard_error, interval_95 and p_value under names that begin as RATES says; over several languages as `overall`
    weighs them."""
    members = [groups == group for group in np.unique(groups)]
    number = len(np.unique(clusters))

    def controlled(weights: Floats) -> Floats:
        rates = [lengthcontrol.reference(scores[m], difference[m], weights[:, m]) for m in members]
        return overall(rates, [weights[:, m] for m in members])

    found: dict[str, Any] = {"questions": len(scores)}
    for name, prefix in RATES.items():
        found |= dict.fromkeys([name, *(prefix + what for what in ("standard_error", "interval_95", "p_value"))])
    found["win_rate"] = float(scores.mean())
    found["standard_error"] = standard_error(scores, clusters)
    found["length_controlled"] = float(controlled(np.ones((1, len(scores))))[0])
    if number < FEWEST:
        return found
    drawn = resample(clusters, repetitions, seed)
    values = {"win_rate": mean(scores, drawn), "length_controlled": controlled(drawn)}
    found["lc_standard_error"] = float(values["length_controlled"].std(ddof=1))
    if min(m.sum() for m in members) >= FEWEST:
        rate, added = alpaca(scores, difference, members)
        values["alpaca_length_controlled"] = np.clip(rate + drawn @ added, 0, 1)
        found |= {
            "alpaca_length_controlled": rate,
            "alpaca_standard_error": standard_error(added * len(added), clusters),
        }
    for name, value in values.items():
        found[f"{RATES[name]}interval_95"] = interval(value, found[name], number)
        found[f"{RATES[name]}p_value"] = p_value(value, found[name], number)
    return found


def alpaca(scores: Floats, difference: Floats, members: Sequence[NDArray[np.bool_]]) -> tuple[float, Floats]:
    """AlpacaEval's rate over languages, each weighted by its questions, and what each row adds to its error [n]."""
    rate, added = 0.0, np.zeros(len(scores))
    for m in members:
        own, part = lengthcontrol.alpaca(scores[m], difference[m])
        rate += own * m.mean()
        added[m] = part * m.mean()
    return rate, added


def win_rates(verdicts: Sequence[Mapping[str, Any]], repetitions: int, seed: int) -> list[dict[str, Any]]:
    """Rates by language and for `all`, as `measure` gives them, each with what a look at all languages allows to say
    (`adjust`)."""
    codes = list(dict.fromkeys(row["language"] for row in verdicts))
    by_code = {code: [row for row in verdicts if row["language"] == code] for code in codes}
    found = [{"language": code, **measure(here, repetitions, seed, code)} for code, here in by_code.items()]
    adjust(found)
    if codes:
        total = [{"language": "all", **measure(verdicts, repetitions, seed, "all")}]
        adjust(total)
        found += total
    return found


def by_subcategory(verdicts: Sequence[Mapping[str, Any]], repetitions: int, seed: int) -> list[dict[str, Any]]:
    """Rates over all languages by the questions' `subcategory` (their category where they have none), as `win_rates`.

    One that has no question with two verdicts is left out, as is the table where no question says what it is."""
    names = sorted({kind for row in verdicts if (kind := _kind(row))})
    by_name = {name: [row for row in verdicts if _kind(row) == name] for name in names}
    found = [
        {"subcategory": name, **measure(here, repetitions, seed, f"subcategory {name}")}
        for name, here in by_name.items()
        if whole(here)
    ]
    adjust(found)
    return found


def _kind(row: Mapping[str, Any]) -> str:
    return str(row["subcategory"] or row["category"])


def adjust(found: Sequence[dict[str, Any]]) -> None:
    """Add to rows that are looked at together, for each rate, `p_holm` and `verdict_holm`: whether it is above or
    below parity at 5 % however many rows there are (evidence.HIGHER, LOWER, NO_EVIDENCE; UNKNOWN without a test)."""
    for rate, prefix in RATES.items():
        adjusted = evidence.holm([row[f"{prefix}p_value"] for row in found])
        for row, p in zip(found, adjusted, strict=True):
            row[f"{prefix}p_holm"] = p
            row[f"{prefix}verdict_holm"] = evidence.tested(row[rate], p, PARITY)


def whole(verdicts: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The rows of each question in each language of which every order has a verdict."""
    by_question: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in verdicts:
        by_question.setdefault((row["language"], row["question_id"]), []).append(row)
    return [pair for pair in by_question.values() if all(row["verdict"] for row in pair)]


def measure(verdicts: Sequence[Mapping[str, Any]], repetitions: int, seed: int, name: str) -> dict[str, Any]:
    """Rates of some of the questions as `summarize` gives them, and what tells how far to trust them; `name` says which
    samples are drawn.

    Over the questions with two verdicts: `consistency`, the share on which both orders agree; `tie_share` of their
    verdicts; `identical_share`, answers that tied without a call; mean `model_chars` and `reference_chars`.
    `readable_share` is over all verdicts, ties without a call among them.
    """
    pairs = whole(verdicts)
    rates = summarize(
        np.array([np.mean([SCORE[row["verdict"]] for row in pair]) for pair in pairs]),
        np.array([float(pair[0]["model_chars"] - pair[0]["reference_chars"]) for pair in pairs]),
        _numbered([pair[0]["question_id"] for pair in pairs]),
        _numbered([pair[0]["language"] for pair in pairs]),
        repetitions=repetitions,
        seed=rows.seed_of("bootstrap", seed, name),
    )
    shares = {
        "readable_share": np.mean([row["verdict"] is not None for row in verdicts]),
        "consistency": np.mean([len({row["verdict"] for row in pair}) == 1 for pair in pairs]),
        "tie_share": np.mean([row["verdict"] == "tie" for pair in pairs for row in pair]),
        "identical_share": np.mean([judges.tied_without_call(pair[0]) for pair in pairs]),
        "model_chars": np.mean([pair[0]["model_chars"] for pair in pairs]),
        "reference_chars": np.mean([pair[0]["reference_chars"] for pair in pairs]),
    }
    return {**rates, **{name: float(value) for name, value in shares.items()}}


def _numbered(values: Sequence[str]) -> Ints:
    return np.unique(np.array(values), return_inverse=True)[1].astype(np.int64)
