"""Effects: hand-computed values, and intervals that hold what is true as often as they say."""

import math

import numpy as np
import pytest

from croco import effects, paired
from croco.effects import Draws, Series, series
from croco.evidence import Z

SEEDS = (0, 1, 2)


def of(*values: tuple[float, ...], code: str = "da", first: int = 0) -> Series:
    """Questions q0, q1, .. of one language with a value for each seed; nan where a seed has none."""
    known = {(code, f"q{at}"): np.array(row) for at, row in enumerate(values, first)}
    return Series(tuple(range(len(values[0]))), known)


def draws(number: int, repetitions: int = 2000) -> Draws:
    return Draws([f"q{at}" for at in range(number)], repetitions, 0)


def test_the_effect_is_the_mean_gain_of_the_items_both_sides_have_of_every_seed() -> None:
    after = of((1.0, 2.0), (3.0, 5.0), (math.nan, 9.0), (7.0, 7.0))
    before = of((0.5,), (1.0,), (1.0,), first=0)
    found = effects.questions(after, before, draws(4))
    assert found.value == (1.0 + 3.0) / 2  # q0: 1.5 - 0.5; q1: 4 - 1; q2 lacks a seed, q3 the other side
    assert (found.n, found.clusters, found.seeds, found.left_out) == (2, 2, (2, 1), 2)
    assert (found.low, found.high) == (None, None)  # fewer than ten questions


def test_nothing_in_common_is_no_effect() -> None:
    found = effects.questions(of((1.0,)), of((1.0,), first=1), draws(2))
    assert (found.value, found.n, found.left_out) == (None, 0, 2)


def test_one_question_in_several_languages_is_one_cluster() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(size=40)
    one = of(*((value,) for value in hard))
    three = Series(
        (0,), {(code, item): value for code in ("da", "de", "sv") for (_, item), value in one.values.items()}
    )
    alone, together = (effects.questions(side, side.level(0.0), draws(40)) for side in (one, three))
    assert (alone.clusters, together.clusters, together.n) == (40, 40, 120)
    assert (together.low, together.high) == (pytest.approx(alone.low), pytest.approx(alone.high))
    assert effects.questions(three, three.level(0.0), draws(40), ["de"]) == alone


def test_an_interval_of_one_seed_is_about_students() -> None:
    from scipy.stats import t

    values = np.random.default_rng(1).normal(size=200)
    side = of(*((value,) for value in values))
    found = effects.questions(side, side.level(0.0), draws(200, 10_000))
    half = t.ppf(0.975, 199) * values.std(ddof=1) / math.sqrt(200)
    assert found.high - found.value == pytest.approx(half, rel=0.06)
    assert found.value - found.low == pytest.approx(half, rel=0.06)


def test_seeds_that_differ_widen_the_interval_as_far_as_so_few_must() -> None:
    from scipy.stats import t

    side = of(*((-1.0, 0.0, 1.0) for _ in range(40)))  # questions do not differ at all: only the seeds do
    found = effects.questions(side, side.level(0.0), draws(40, 20_000))
    assert found.value == 0
    furthest = math.sqrt(3 / 2) * 1.0 * t.ppf(0.975, 2) / Z  # the same seed drawn three times, which is 1 in 27
    assert (found.low, found.high) == (pytest.approx(-furthest), pytest.approx(furthest))


@pytest.mark.parametrize(
    ("seeds", "questions", "of_question", "of_seed", "of_answer", "least"),
    [
        (1, 30, 1.0, 0.0, 1.0, 0.90),
        (3, 30, 1.0, 0.3, 1.0, 0.90),
        (3, 12, 0.1, 1.0, 0.1, 0.90),
        (2, 20, 0.5, 0.2, 0.5, 0.90),
        (2, 20, 0.5, 0.5, 0.5, 0.85),  # two seeds, as far apart as questions: too few to know how far; .88 of 2,000
    ],
)
def test_intervals_hold_the_truth_about_as_often_as_they_say(
    seeds: int, questions: int, of_question: float, of_seed: float, of_answer: float, least: float
) -> None:
    rng, drawn, held = np.random.default_rng(7), draws(questions), 0
    for _ in range(300):
        values = 0.2 + rng.normal(0, of_question, (questions, 1)) + rng.normal(0, of_seed, (1, seeds))
        side = of(*map(tuple, values + rng.normal(0, of_answer, (questions, seeds))))
        found = effects.questions(side, side.level(0.0), drawn)
        held += found.low <= 0.2 <= found.high
    assert least <= held / 300 <= 0.99


def test_the_interval_between_two_arms_with_seeds_holds_no_difference() -> None:
    rng, drawn, held = np.random.default_rng(3), draws(25), 0
    for _ in range(300):
        hard = rng.normal(0, 1, (25, 1))
        sides = [
            of(*map(tuple, hard + rng.normal(0, 0.3, (1, 3)) + rng.normal(0, 0.5, (25, 3)))) for _ in range(2)
        ]  # fmt: skip
        found = effects.questions(*sides, drawn)
        held += found.low <= 0 <= found.high
    assert 0.90 <= held / 300 <= 0.99


def test_few_questions_that_differ_never_leave_zero_out() -> None:
    shares = (-1.0, 1.0)
    base = of(*((1.0,) for _ in range(60)))
    five, six = (of(*((float(at >= lost),) for at in range(60))) for lost in (5, 6))
    assert effects.questions(five, base, draws(60), bounds=shares).high == 0
    found = effects.questions(six, base, draws(60), bounds=shares)
    assert found.value == pytest.approx(-0.1) and found.high < 0


def test_a_share_that_differs_nowhere_has_wilsons_bound_and_a_reward_none() -> None:
    same = of(*((1.0,) for _ in range(20)))
    bound = Z**2 / (20 + Z**2)
    found = effects.questions(same, same, draws(20), bounds=(-1.0, 1.0))
    assert (found.value, found.low, found.high) == (0, pytest.approx(-bound), pytest.approx(bound))
    won = effects.questions(same, same.level(0.5), draws(20), bounds=(-0.5, 0.5))
    assert (won.value, won.low, won.high) == (0.5, pytest.approx(0.5 - bound), 0.5)
    assert effects.questions(same, same, draws(20)).low == 0
    assert effects.questions(same, same.level(0.0), draws(20)).low is None


def test_every_arm_of_a_study_meets_the_same_samples() -> None:
    side, study = of(*((math.sqrt(at),) for at in range(30))), draws(30)
    first = effects.questions(side, side.level(0.5), study)
    effects.questions(of(*((1.0, 2.0) for _ in range(30))), side, study)
    assert effects.questions(side, side.level(0.5), study) == first
    other = effects.questions(side, side.level(0.5), Draws([f"q{at}" for at in range(30)], 2000, 1))
    assert other.low != first.low and other.value == first.value


def euroeval(**data_sets: list[tuple[float, ...]]) -> Series:
    """Data set -> its iterations, each with a value for each seed; all Danish."""
    known = {("da", f"{name}/{at}"): np.array(row) for name, rows in data_sets.items() for at, row in enumerate(rows)}
    number = len(next(iter(known.values())))
    return Series(tuple(range(number)), known)


def test_euroeval_with_one_seed_is_the_paired_change() -> None:
    after, before = euroeval(a=[(52.0,), (55.0,), (51.0,)], b=[(10.0,)] * 3), euroeval(a=[(50.0,)] * 3, b=[(9.0,)] * 3)
    after.values["da", "b/2"][:] = 13.0
    found = effects.scores(after, before)
    wanted = paired.mean([paired.change([50] * 3, [52, 55, 51]), paired.change([9] * 3, [10, 10, 13])])
    assert found.value == pytest.approx((8 / 3 + 2) / 2)
    assert (found.low, found.high) == pytest.approx(wanted.interval())
    assert (found.n, found.seeds, found.left_out) == (2, (1, 1), 0)


def test_euroeval_adds_the_seeds_own_error_in_quadrature() -> None:
    from scipy.stats import t

    after = euroeval(a=[(50.0, 52.0, 57.0), (52.0, 54.0, 59.0), (51.0, 53.0, 58.0)])
    before = euroeval(a=[(50.0,), (50.0,), (50.0,)])
    found = effects.scores(after, before)
    of_items = np.std([53, 55, 54], ddof=1) ** 2 * (1 + 1 / 3)
    of_seeds = np.var([51, 53, 58], ddof=1) / 3
    freedom = (of_items + of_seeds) ** 2 / (of_items**2 / 2 + of_seeds**2 / 2)
    half = t.ppf(0.975, freedom) * math.sqrt(of_items + of_seeds)
    assert found.value == pytest.approx(4)
    assert (found.low, found.high) == (pytest.approx(4 - half), pytest.approx(4 + half))


def test_with_seeds_leaves_what_it_knows_nothing_more_of() -> None:
    changed = paired.Change(1.0, 0.5, 2, 1)
    assert effects.with_seeds(changed, [3.0], [2.0]) == changed
    assert effects.with_seeds(paired.Change(1.0, None, math.nan, 1), [1.0, 2.0]).error is None
    assert effects.with_seeds(paired.Change(0.0, 0.0, 2, 1), [1.0, 1.0]).interval() == (0.0, 0.0)


def test_data_sets_and_iterations_of_one_side_only_are_left_out_and_counted() -> None:
    after = euroeval(a=[(52.0,), (55.0,)], b=[(1.0,), (2.0,)])
    before = euroeval(a=[(50.0,), (50.0,), (50.0,)], c=[(1.0,)])
    found = effects.scores(after, before)
    assert (found.value, found.n, found.left_out) == (3.5, 1, 3)  # a's third iteration, b, c
    assert effects.scores(after, before, ["de"]).value is None


def test_euroevals_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng, held = np.random.default_rng(5), 0
    for _ in range(300):
        sides = []
        for number, gain in ((3, 1.0), (1, 0.0)):  # items move an iteration's paired change, a seed all of an arm's
            of_seed = rng.normal(0, 0.8, number) if number > 1 else np.zeros(1)
            items = {name: rng.normal(0, 1.0) for name in "abc"}
            sides.append(
                euroeval(**{
                    name: [tuple(50 + gain + of_seed + (item + rng.normal(0, 1.0)) * (number > 1)) for _ in range(4)]
                    for name, item in items.items()
                })
            )  # fmt: skip
        found = effects.scores(*sides)
        held += found.low <= 1.0 <= found.high
    assert 0.90 <= held / 300 <= 0.995


def test_a_length_controlled_rate_needs_its_error_over_questions() -> None:
    assert effects.controlled(np.array([0.55, 0.65]), None, 0.5).low is None
    one = effects.controlled(np.array([0.6]), np.array([0.03]), 0.5)
    assert (one.value, one.low) == (pytest.approx(0.1), pytest.approx(0.1 - Z * 0.03))
    found = effects.controlled(np.array([0.55, 0.65]), np.array([0.03, 0.03]), 0.5)
    of_seeds = 0.005 / 2
    from scipy.stats import t

    half = t.ppf(0.975, (0.0009 + of_seeds) ** 2 / of_seeds**2) * math.sqrt(0.0009 + of_seeds)
    assert found.value == pytest.approx(0.1) and found.low == pytest.approx(max(0.1 - half, -0.5))


def test_a_rank_correlation_of_few_arms_counts_every_order() -> None:
    assert effects.correlation([1, 2, 3, 4], [10, 20, 30, 40]) == (pytest.approx(1), 2 / 24)
    assert effects.correlation([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]) == (pytest.approx(-1), 2 / 120)
    assert effects.correlation([1, 2, 3], [2, 1, 3]) == (pytest.approx(0.5), 1.0)  # |rho| is .5 or 1 in every order
    rho, p = effects.correlation(range(12), range(12))
    assert rho == pytest.approx(1) and p < 1e-6


@pytest.mark.parametrize(("first", "second"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [0, 0, 0])])
def test_too_few_arms_or_a_measure_that_does_not_vary_have_no_correlation(
    first: list[float], second: list[float]
) -> None:
    assert effects.correlation(first, second) == (None, None)


def test_a_series_knows_what_a_seed_lacks() -> None:
    found = series(SEEDS, [("da", "q0", 0, 1.0), ("da", "q0", 2, 3.0), ("de", "q1", 1, 2.0)])
    assert found.whole(None) == set() and found.keys(["de"]) == {("de", "q1")}
    assert found.only(2).values == {("da", "q0"): np.array([3.0])}
