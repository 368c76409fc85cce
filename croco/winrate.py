"""Win rate: scores of judged questions -> win rates with standard errors, intervals and length control.

Every rate is a share in [0, 1]; .5 is parity. A question's score in one language is the mean over its two orders
(win 1, tie .5, loss 0), so a judge that prefers a place adds the same to both sides. Rows of one question, in
whatever languages, are one cluster: they are drawn together, since a hard question is hard in every language.

Raw win rate: the mean score. Standard error: sqrt(G / (G - 1) * sum_g (sum_{i in g} (y_i - mean))^2) / n over G
clusters of n rows; for one language it is the usual standard deviation / sqrt(n). Source: Liang and Zeger, 1986.

Length-controlled win rate as the paper's released code has it (src/eval_marenahard.py; its paper calls it LC):
y ~ sigmoid(theta + phi * x), x = tanh(d / s), d = characters of the model's answer minus the reference's, s the
population standard deviation of d; minimise the negative log-likelihood + 1 * phi^2; the rate is sigmoid(theta).
It is **not** AlpacaEval 2's: no term for the question's difficulty, theta unregularised, a ridge that does not grow
with n. Intervals: percentile bootstrap over clusters; too narrow for fewer than about 30 questions, and not given for
fewer than 10. Where every question is won (or lost) no sample can differ, and Wilson's bound stands for it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from croco import judges, rows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SCORE = {"model": 1.0, "tie": 0.5, "reference": 0.0}
RIDGE = 1.0
"""Penalty on phi^2 (reference code)."""
FEWEST = 10
"""Clusters below which there is no interval (ours)."""
Z = 1.959963984540054
"""Standard normal quantile of .975."""
CONVERGED = 1e-10
MOST_STEPS = 200


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


def mean(scores: Floats, weights: Floats) -> Floats:
    """The win rate under each row of `weights` [samples, n]; nan where they are all 0."""
    total = weights.sum(axis=1)
    return np.divide(weights @ scores, total, out=np.full(len(weights), np.nan), where=total > 0)


def length_controlled_reference(scores: Floats, difference: Floats, weights: Floats | None = None) -> Floats:
    """The released code's length-controlled win rate under each row of `weights` [samples, n] (default: all 1).

    `scores` [n] in [0, 1]; `difference` [n] in characters, model minus reference. nan where the weights are all 0.
    Where every score is 1 (or 0) theta has no maximum and the rate is its limit, 1 (or 0).
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    rate = mean(scores, weights)
    inner = (rate > 0) & (rate < 1)  # false for nan
    rate[inner] = _sigmoid(fit_reference(scores, difference, weights[inner])[0])
    return rate


def fit_reference(scores: Floats, difference: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """theta and phi, each [samples], of the released code's model by Newton's method.

    Raises: ArithmeticError if it does not converge (a win rate of exactly 0 or 1 has no theta).
    """
    total = weights.sum(axis=1, keepdims=True)
    centre = weights @ difference[:, None] / total
    spread = np.sqrt((weights * (difference - centre) ** 2).sum(axis=1, keepdims=True) / total)
    length = np.tanh(np.divide(difference, spread, out=np.zeros_like(weights), where=spread > 1e-8))
    rate = mean(scores, weights)
    theta, phi = np.log(rate / (1 - rate)), np.zeros(len(weights))
    for _ in range(MOST_STEPS):
        probability = _sigmoid(theta[:, None] + phi[:, None] * length)
        error = weights * (probability - scores)
        slope = error.sum(axis=1), (error * length).sum(axis=1) + 2 * RIDGE * phi
        curve = weights * probability * (1 - probability)
        a, b = curve.sum(axis=1), (curve * length).sum(axis=1)
        c = (curve * length**2).sum(axis=1) + 2 * RIDGE
        step = np.stack([c * slope[0] - b * slope[1], a * slope[1] - b * slope[0]]) / (a * c - b**2)
        step /= np.maximum(1, np.abs(step).max(axis=0))  # at most 1, so that a flat start does not overshoot
        theta, phi = theta - step[0], phi - step[1]
        if np.abs(step).max(initial=0) < CONVERGED:
            return theta, phi
    raise ArithmeticError(f"length control: found no convergence in {MOST_STEPS} steps; expected rates inside (0, 1)")


def _sigmoid(logit: Floats) -> Floats:
    return 1 / (1 + np.exp(-logit))


def overall(rates: Sequence[Floats], weights: Sequence[Floats]) -> Floats:
    """One rate per sample over languages, each weighted by its questions in that sample.

    `rates` [samples] and `weights` [samples, n] per language; a language no question of which was drawn adds nothing.
    (The reference code takes the unweighted mean; with as many questions in every language they are the same.)
    """
    totals = [weight.sum(axis=1) for weight in weights]
    parts = [np.where(total > 0, rate, 0) * total for rate, total in zip(rates, totals, strict=True)]
    return np.sum(parts, axis=0) / np.sum(totals, axis=0)


def interval(values: Floats, rate: float, clusters: int) -> list[float]:
    """The middle 95 % of bootstrapped values of `rate`; at a rate of 0 or 1 Wilson's interval of so many clusters."""
    if rate in (0, 1):
        bound = Z**2 / (clusters + Z**2)
        return [0.0, bound] if rate == 0 else [1 - bound, 1.0]
    return [float(bound) for bound in np.quantile(values, (0.025, 0.975))]


def summarize(
    scores: Floats, difference: Floats, clusters: Ints, groups: Ints, *, repetitions: int, seed: int
) -> dict[str, Any]:
    """Win rates of questions [n] in the languages numbered by `groups` [n]: questions, win_rate, standard_error,
    interval_95, length_controlled, lc_interval_95; over several languages as `overall` weighs them."""
    members = [groups == group for group in np.unique(groups)]

    def controlled(weights: Floats) -> Floats:
        rates = [length_controlled_reference(scores[m], difference[m], weights[:, m]) for m in members]
        return overall(rates, [weights[:, m] for m in members])

    found: dict[str, Any] = {
        "questions": len(scores),
        "win_rate": float(scores.mean()),
        "standard_error": standard_error(scores, clusters),
        "interval_95": None,
        "length_controlled": float(controlled(np.ones((1, len(scores))))[0]),
        "lc_interval_95": None,
    }
    if (number := len(np.unique(clusters))) >= FEWEST:
        drawn = resample(clusters, repetitions, seed)
        found["interval_95"] = interval(mean(scores, drawn), found["win_rate"], number)
        found["lc_interval_95"] = interval(controlled(drawn), found["length_controlled"], number)
    return found


def win_rates(verdicts: Sequence[Mapping[str, Any]], repetitions: int, seed: int) -> list[dict[str, Any]]:
    """Rates by language and for `all`, as summarize gives them, and what tells how far to trust them.

    Over the questions with two verdicts: `consistency`, the share on which both orders agree; `tie_share` of their
    verdicts; `identical_share`, answers that tied without a call; mean `model_chars` and `reference_chars`.
    `readable_share` is over all verdicts, ties without a call among them.
    """
    by_question: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in verdicts:
        by_question.setdefault((row["language"], row["question_id"]), []).append(row)
    whole = {key: pair for key, pair in by_question.items() if all(row["verdict"] for row in pair)}
    codes = list(dict.fromkeys(language for language, _ in by_question))
    found = []
    for code in [*codes, "all"] if codes else []:
        pairs = [pair for (language, _), pair in whole.items() if code in (language, "all")]
        here = [row for row in verdicts if code in (row["language"], "all")]
        rates = summarize(
            np.array([np.mean([SCORE[row["verdict"]] for row in pair]) for pair in pairs]),
            np.array([float(pair[0]["model_chars"] - pair[0]["reference_chars"]) for pair in pairs]),
            _numbered([pair[0]["question_id"] for pair in pairs]),
            _numbered([pair[0]["language"] for pair in pairs]),
            repetitions=repetitions,
            seed=rows.seed_of("bootstrap", seed, code),
        )
        shares = {
            "readable_share": np.mean([row["verdict"] is not None for row in here]),
            "consistency": np.mean([len({row["verdict"] for row in pair}) == 1 for pair in pairs]),
            "tie_share": np.mean([row["verdict"] == "tie" for pair in pairs for row in pair]),
            "identical_share": np.mean([judges.tied_without_call(pair[0]) for pair in pairs]),
            "model_chars": np.mean([pair[0]["model_chars"] for pair in pairs]),
            "reference_chars": np.mean([pair[0]["reference_chars"] for pair in pairs]),
        }
        found.append({"language": code, **rates, **{name: float(value) for name, value in shares.items()}})
    return found


def _numbered(values: Sequence[str]) -> Ints:
    return np.unique(np.array(values), return_inverse=True)[1].astype(np.int64)
