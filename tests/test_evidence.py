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


def test_an_estimate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="found no row"):
        evidence.share([], [])


def test_p_values_are_adjusted_as_holm_says() -> None:
    assert evidence.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert evidence.holm([0.9, 0.5]) == [1, 1]
    assert evidence.holm([0.02, None, 0.03]) == pytest.approx([0.04, None, 0.04])
    assert evidence.holm([]) == []


@pytest.mark.parametrize(
    ("value", "p_value", "said"),
    [
        (0.6, 0.049, evidence.HIGHER),
        (0.4, 0.049, evidence.LOWER),
        (0.6, 0.05, evidence.NO_EVIDENCE),
        (0.5, 0.001, evidence.NO_EVIDENCE),
        (0.6, None, evidence.UNKNOWN),
        (None, 0.01, evidence.UNKNOWN),
    ],
)
def test_a_test_says_where_a_value_lies_only_below_its_level(value: float, p_value: float, said: str) -> None:
    assert evidence.tested(value, p_value, 0.5) == said
