"""Length control: scores and answer lengths -> what the win rate would be if both answers were equally long.

Two models of a judge who likes long answers, named for where they come from; their numbers are not comparable. In
both, x = tanh(d / s): d is the characters of the model's answer minus the reference's, s the standard deviation of d.

`reference`: the paper's released code (src/eval_marenahard.py; its paper calls it LC). y ~ sigmoid(theta + phi * x), s
over n; minimise the negative log-likelihood + 1 * phi^2; the rate is sigmoid(theta). theta is unregularised, and the
ridge does not grow with n.

`alpaca`: AlpacaEval 2's model (package alpaca_eval, metrics/glm_winrate.py) without the two terms that are data of its
own 805 instructions: their fitted difficulties, and its gamed baselines' verdicts. The package calls that
`length_controlled_minimal`; its leaderboard's `length_controlled_v1` has both and cannot be had for other questions.
y ~ sigmoid(theta + phi * x), s over n - 1; minimise C * the negative log-likelihood + |theta| + |phi| with C from 1e-4
to 1e4 by 5-fold cross-validation; the rate is sigmoid(theta). Its penalty pulls a small difference towards parity.
The package's own error, the standard error of its predictions over instructions, is 0 without difficulties, for they
are all the same; `alpaca` gives what each row adds instead, from which comes an error that sampling questions has.
"""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RIDGE = 1.0
"""Penalty on phi^2 (reference code)."""
FOLDS = 5
"""Of the cross-validation that chooses C (alpaca_eval)."""
CONVERGED = 1e-10
MOST_STEPS = 200
FLAT = 1e-8
"""Standard deviation in characters below which all answers differ by the same length (reference code)."""


def mean(scores: Floats, weights: Floats) -> Floats:
    """The win rate under each row of `weights` [samples, n]; nan where they are all 0."""
    total = weights.sum(axis=1)
    return np.divide(weights @ scores, total, out=np.full(len(weights), np.nan), where=total > 0)


def reference(scores: Floats, difference: Floats, weights: Floats | None = None) -> Floats:
    """The released code's rate under each row of `weights` [samples, n] (default: all 1).

    `scores` [n] in [0, 1]; `difference` [n] in characters, model minus reference. nan where the weights are all 0.
    Where every score is 1 (or 0) theta has no maximum and the rate is its limit, 1 (or 0).
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    rate = mean(scores, weights)
    inner = (rate > 0) & (rate < 1)  # false for nan
    rate[inner] = sigmoid(fit_reference(scores, difference, weights[inner])[0])
    return rate


def fit_reference(scores: Floats, difference: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """theta and phi, each [samples], of the released code's model by Newton's method.

    Raises: ArithmeticError if it does not converge (a win rate of exactly 0 or 1 has no theta).
    """
    total = weights.sum(axis=1, keepdims=True)
    centre = weights @ difference[:, None] / total
    spread = np.sqrt((weights * (difference - centre) ** 2).sum(axis=1, keepdims=True) / total)
    length = np.tanh(np.divide(difference, spread, out=np.zeros_like(weights), where=spread > FLAT))
    rate = mean(scores, weights)
    theta, phi = np.log(rate / (1 - rate)), np.zeros(len(weights))
    for _ in range(MOST_STEPS):
        probability = sigmoid(theta[:, None] + phi[:, None] * length)
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


def alpaca(scores: Floats, difference: Floats) -> tuple[float, Floats]:
    """AlpacaEval 2's rate without its difficulty term, and what each row adds to its error [n].

    `scores` [n] in [0, 1]; `difference` [n] in characters, model minus reference; n at least FOLDS. The second is the
    rate's change if a row counted once more, to first order and without the penalty; its sum takes the penalty out of
    the rate. Where every score is 1 (or 0) there is nothing to fit and the rate is 1 (or 0).
    """
    if scores.min() == scores.max() in (0, 1):
        return float(scores[0]), np.zeros(len(scores))
    spread = difference.std(ddof=1)
    length = np.tanh(difference / spread) if spread > FLAT else np.zeros(len(scores))
    design = np.stack([length, np.ones(len(scores))], axis=1)
    coefficients = fit_alpaca(design, scores).coef_[0]
    probability = sigmoid(design @ coefficients)
    curve = (design * (probability * (1 - probability))[:, None]).T @ design
    moved = (design * (scores - probability)[:, None]) @ np.linalg.pinv(curve)[:, 1]
    rate = float(sigmoid(coefficients[1]))
    return rate, rate * (1 - rate) * moved


def fit_alpaca(design: Floats, scores: Floats, weights: Floats | None = None) -> Any:
    """The package's fit of `scores` [n] on `design` [n, terms], rows counting as `weights` [n] (default: 1) say.

    A scikit-learn LogisticRegressionCV. A score between 0 and 1 stands there as two rows in one fold, a win that
    counts as much as the score and a loss that counts for the rest.
    """
    from sklearn import config_context
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GroupKFold

    weights = np.ones(len(scores)) if weights is None else weights
    with config_context(enable_metadata_routing=True), warnings.catch_warnings():
        # where length tells wins from losses, or there are few of either, no C of the largest has a minimum to find
        warnings.simplefilter("ignore", ConvergenceWarning)
        scorer = make_scorer(_loss, response_method="predict_proba", greater_is_better=False)
        model = LogisticRegressionCV(
            penalty="l1",
            solver="liblinear",
            fit_intercept=False,
            cv=GroupKFold(FOLDS),
            scoring=scorer.set_score_request(share=True, count=True),
            random_state=123,
        )
        return model.set_fit_request(sample_weight=True).fit(
            np.concatenate([design, design]),
            np.repeat([1, 0], len(scores)),
            groups=np.tile(np.arange(len(scores)), 2),
            sample_weight=np.concatenate([scores, 1 - scores]) * np.tile(weights, 2),
            share=np.tile(scores, 2),
            count=np.tile(weights, 2),
        )


def _loss(_: NDArray[np.int64], predicted: Floats, share: Floats, count: Floats) -> float:
    """Log loss of predicted win probabilities where the truth is a share of a win."""
    predicted = np.clip(predicted, 1e-15, 1 - 1e-15)
    return float(-np.mean(count * (share * np.log(predicted) + (1 - share) * np.log(1 - predicted))))


def sigmoid(logit: Any) -> Any:
    return 1 / (1 + np.exp(-logit))
