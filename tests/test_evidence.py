"""Evidence: intervals agree with published ones, widen with what rows share, and decide what may be said."""

import math

import numpy as np
import pytest

from croco import evidence


def test_a_share_of_independent_rows_has_wilsons_interval() -> None:
    found = evidence.share(np.arange(263) < 81, np.ones(263))
    assert (found.value, found.n, found.clusters) == (81 / 263, 263, 263)
    assert found.low == pytest.approx(0.2553, abs=5e-5)  # Newcombe 1998, table I, method 3
    assert found.high == pytest.approx(0.3662, abs=5e-5)


def test_a_change_of_independent_rows_has_newcombes_interval_for_paired_shares() -> None:
    before = [1] * 36 + [0] * 12 + [1] * 2
    after = [1] * 36 + [1] * 12 + [0] * 2
    found = evidence.change(before, after, np.ones(50))
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == (pytest.approx(0.0569, abs=5e-5), pytest.approx(0.3404, abs=5e-5))  # method 10


def test_rows_of_one_prompt_that_all_agree_count_as_one() -> None:
    prompts = np.arange(100) < 90
    alone, together = evidence.share(prompts, np.ones(100)), evidence.share(prompts * 8, np.full(100, 8))
    assert together.n == 800 and together.value == alone.value
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.01)


def test_where_every_row_agrees_the_prompts_decide_the_interval() -> None:
    found = evidence.share(np.full(20, 64), np.full(20, 64))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(20 / (20 + 1.96**2), abs=1e-4)


def test_no_change_at_all_still_has_an_interval() -> None:
    found = evidence.change(np.ones(50), np.ones(50), np.ones(50))
    assert found.value == 0 and found.low < 0 < found.high


def test_a_mean_has_the_normal_interval_over_prompts() -> None:
    found = evidence.mean([1, 2, 3], [1, 1, 1])
    assert found.value == 2
    assert found.low == pytest.approx(2 - 1.959964 * math.sqrt(1 / 3))
    assert evidence.mean([4, 4], [2, 2]) == evidence.Estimate(2.0, 2.0, 2.0, 4, 2)
    assert evidence.mean([4], [2]) == evidence.Estimate(2.0, None, None, 2, 1)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ((50.0, 2.0), (53.0, 0.9), evidence.HIGHER),  # 48 to 52 and 52.1 to 53.9 do not meet
        ((50.0, 2.0), (53.0, 1.1), evidence.NO_EVIDENCE),  # 51.9 to 54.1 meets 48 to 52
        ((50.0, 2.0), (53.0, 1.0), evidence.NO_EVIDENCE),  # they touch
        ((53.0, 0.5), (50.0, 1.0), evidence.LOWER),
        ((50.0, math.nan), (90.0, 1.0), evidence.UNKNOWN),  # after one iteration there is no interval
    ],
)
def test_a_score_changed_only_where_the_intervals_do_not_meet(
    before: tuple[float, float], after: tuple[float, float], said: str
) -> None:
    assert evidence.verdict(*evidence.gap(*before, *after)) == said


def test_an_estimate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="found no row"):
        evidence.share([], [])
