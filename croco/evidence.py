"""Evidence: what counted rows allow one to say.

Every share, mean and change comes with its n and 95 % interval. Rows that share a prompt are not independent, so the
prompts (clusters), not the rows, decide how wide an interval is. With one row a cluster the share's interval is
Wilson's and the change's is Newcombe's for paired shares (Statistics in Medicine 17, 1998: 857 and 2635, method 10).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z = 1.959963984540054
"""Standard normal quantile of .975."""

HIGHER, LOWER, NO_EVIDENCE, UNKNOWN = "higher", "lower", "no evidence", "unknown"


@dataclass(frozen=True)
class Estimate:
    """A number, its 95 % interval, and what it was counted from."""

    value: float
    low: float | None
    """None, as `high`, where the data give no interval."""
    high: float | None
    n: int
    """Rows."""
    clusters: int
    """Prompts (or questions) the rows belong to."""


def share(hits: ArrayLike, totals: ArrayLike) -> Estimate:
    """The share of hits among all rows; `hits` and `totals` are [clusters].

    Wilson's interval at the effective n: rows over the design effect (how much wider the clusters' own spread is than
    that of independent rows, at least 1), and the number of clusters where all rows agree.
    Raises: ValueError for no row.
    """
    hits, totals = _columns(hits, totals)
    n, clusters, p = int(totals.sum()), len(totals), float(hits.sum() / totals.sum())
    effective = float(clusters)
    if 0 < p < 1 and clusters > 1:
        design = _cluster_variance(hits, totals) / (p * (1 - p) / (n - 1))
        effective = n / max(design, 1.0)
    centre = (p + Z**2 / (2 * effective)) / (1 + Z**2 / effective)
    half = Z / (1 + Z**2 / effective) * math.sqrt(p * (1 - p) / effective + Z**2 / (4 * effective**2))
    return Estimate(p, min(max(centre - half, 0.0), p), max(min(centre + half, 1.0), p), n, clusters)


def change(before: ArrayLike, after: ArrayLike, totals: ArrayLike) -> Estimate:
    """Share after minus share before, over the same rows; the arguments are [clusters].

    The two intervals of `share` joined by square and add, less what the two have in common (their correlation over
    clusters): Newcombe's method 10 where a cluster is one row.
    """
    first, second = share(before, totals), share(after, totals)
    assert first.low is not None and first.high is not None and second.low is not None and second.high is not None
    hits_before, rows = _columns(before, totals)
    hits_after, _ = _columns(after, totals)
    left, right = hits_before - first.value * rows, hits_after - second.value * rows
    scale = math.sqrt(float(left @ left) * float(right @ right))
    common = float(left @ right) / scale if scale else 0.0
    value = second.value - first.value

    def half(down: float, up: float) -> float:
        return math.sqrt(max(down**2 - 2 * common * down * up + up**2, 0.0))

    low = value - half(second.value - second.low, first.high - first.value)
    high = value + half(second.high - second.value, first.value - first.low)
    return Estimate(value, low, high, first.n, first.clusters)


def mean(sums: ArrayLike, totals: ArrayLike) -> Estimate:
    """The mean over all rows; `sums` (of the value) and `totals` (rows) are [clusters]. No interval for one cluster."""
    sums, totals = _columns(sums, totals)
    value = float(sums.sum() / totals.sum())
    if len(totals) == 1:
        return Estimate(value, None, None, int(totals.sum()), 1)
    half = Z * math.sqrt(_cluster_variance(sums, totals))
    return Estimate(value, value - half, value + half, int(totals.sum()), len(totals))


def verdict(low: float | None, high: float | None, parity: float = 0.0) -> str:
    """HIGHER or LOWER where the whole interval lies above or below `parity`, else NO_EVIDENCE; UNKNOWN without one."""
    if low is None or high is None:
        return UNKNOWN
    return HIGHER if low > parity else LOWER if high < parity else NO_EVIDENCE


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for being looked at together: of all that are below .05 afterwards, the chance that any is so
    by luck is at most .05, however they depend on each other (Holm, Scandinavian Journal of Statistics 6, 1979: 65).
    None, no test, stays None and counts for nothing.
    """
    order = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    adjusted, highest = list(p_values), 0.0
    for rank, (p, at) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[at] = highest
    return adjusted


def tested(value: float | None, p_value: float | None, parity: float = 0.0, level: float = 0.05) -> str:
    """HIGHER or LOWER where `value` is above or below `parity` and the p-value below `level`, else NO_EVIDENCE; UNKNOWN
    without a test."""
    if value is None or p_value is None:
        return UNKNOWN
    return NO_EVIDENCE if p_value >= level or value == parity else HIGHER if value > parity else LOWER


def _columns(values: ArrayLike, totals: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values, totals = np.asarray(values, np.float64), np.asarray(totals, np.float64)
    if not totals.sum():
        raise ValueError("estimate: found no row; expected at least one")
    return values, totals


def _cluster_variance(sums: NDArray[np.float64], totals: NDArray[np.float64]) -> float:
    """Variance of the ratio sum(sums) / sum(totals) over clusters (linearised, with k / (k - 1))."""
    residual = sums - sums.sum() / totals.sum() * totals
    return float(residual @ residual) / float(totals.sum()) ** 2 * len(totals) / (len(totals) - 1)
