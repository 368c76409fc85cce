"""Paired: two models' EuroEval scores on the same resampled test sets -> how much one changed from the other.

EuroEval seeds every data set alike, so its iteration i is the same resampled test set with the same examples for every
model, and the two scores' difference is free of what both find hard. The spread of those differences over the
iterations is the bootstrap's standard error of the change for new items of the same kind; it is not divided by the
root of their number, as EuroEval's own interval is, which says how well the mean of the iterations is known and
narrows with each of them though no item was added. With n iterations the interval is Student's, with n - 1 degrees of
freedom, times sqrt(1 + 1 / n) for the mean's own error: at n = 3 it is honest and wide; 10 are worth their time.
The mean over data sets adds the variances (different items) and has Welch and Satterthwaite's degrees of freedom.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Change:
    """A score after minus the same score before, in points of EuroEval's scale."""

    value: float
    error: float | None
    """Its standard error; None where the iterations cannot tell: fewer than two, or no spread between unequal scores,
    as where a data set is not resampled."""
    freedom: float
    """Degrees of freedom of `error`."""
    n: int
    """Data sets."""

    def interval(self) -> tuple[float | None, float | None]:
        """95 %; (None, None) without an error."""
        if self.error is None:
            return None, None
        if not self.error:  # nothing differs
            return self.value, self.value
        from scipy.stats import t

        half = float(t.ppf(0.975, self.freedom)) * self.error
        return self.value - half, self.value + half


def change(before: Sequence[float], after: Sequence[float]) -> Change:
    """Of one data set; the arguments are the scores of its iterations [n], in order.

    Raises: ValueError where the two have not as many.
    """
    if len(before) != len(after) or not len(before):
        raise ValueError(f"paired: found {len(before)} and {len(after)} iterations; expected as many of both models")
    difference = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    value, n = float(difference.mean()), len(difference)
    spread = float(difference.std(ddof=1)) if n > 1 else math.nan
    known = spread > 0 or (n > 1 and value == 0)
    return Change(value, spread * math.sqrt(1 + 1 / n) if known else None, n - 1, 1)


def mean(changes: Sequence[Change]) -> Change:
    """Over data sets, each of which counts alike. Raises: ValueError for none."""
    if not changes:
        raise ValueError("paired: found no data set; expected at least one")
    value, n = float(np.mean([one.value for one in changes])), sum(one.n for one in changes)
    variances = [one.error**2 for one in changes if one.error is not None]
    if len(variances) < len(changes):
        return Change(value, None, math.nan, n)
    total = sum(variances)
    squares = sum(v**2 / one.freedom for v, one in zip(variances, changes, strict=True))
    freedom = total**2 / squares if squares else float(sum(one.freedom for one in changes))
    return Change(value, math.sqrt(total) / len(changes), freedom, n)
