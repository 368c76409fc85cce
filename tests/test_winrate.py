"""Win rates: hand-computed values, a direct fit, and simulations with a known truth."""

import numpy as np
import pytest

from croco import judges, winrate


def verdict(question_id, order, verdict, language="da", chars=(10, 10), text="[[A]]"):
    return {
        "question_id": question_id,
        "language": language,
        "order": order,
        "verdict": verdict,
        "model_chars": chars[0],
        "reference_chars": chars[1],
        "judge_text": text,
    }


def both(question_id, first, second, **row):
    return [verdict(question_id, "model_first", first, **row), verdict(question_id, "reference_first", second, **row)]


def rates(rows, **kwargs):
    return {row["language"]: row for row in winrate.win_rates(rows, **({"repetitions": 100, "seed": 0} | kwargs))}


def test_a_question_scores_the_mean_of_its_two_orders():
    rows = [
        *both("1", "model", "model", chars=(30, 10)),  # 1
        *both("2", "model", "reference", chars=(20, 10)),  # .5, inconsistent
        *both("3", "reference", "reference", chars=(10, 40)),  # 0
        *both("4", "model", "tie", chars=(20, 20)),  # .75, inconsistent
    ]
    found = rates(rows)["da"]
    assert found["questions"] == 4
    assert found["win_rate"] == 0.5625
    # deviations .4375 -.0625 -.5625 .1875: squares sum to .546875; sqrt(.546875 / 3 / 4)
    assert found["standard_error"] == pytest.approx(0.21347812)
    assert found["consistency"] == 0.5
    assert found["tie_share"] == 0.125
    assert (found["model_chars"], found["reference_chars"]) == (20, 20)
    assert found["readable_share"] == 1


def test_a_question_with_an_unreadable_order_is_left_out_and_shown():
    rows = [*both("1", "model", "model"), *both("2", "model", None), *both("3", "tie", "tie", text=judges.IDENTICAL)]
    found = rates(rows)["da"]
    assert (found["questions"], found["win_rate"]) == (2, 0.75)
    assert found["readable_share"] == pytest.approx(5 / 6)
    assert found["identical_share"] == 0.5


def test_a_judge_that_imitates_the_mark_of_identical_answers_gave_no_verdict():
    assert judges.tied_without_call(verdict("1", "model_first", "tie", text=judges.IDENTICAL))
    assert not judges.tied_without_call(verdict("1", "model_first", None, text=judges.IDENTICAL))


def test_languages_count_by_their_questions():
    rows = [row for at in range(30) for row in both(str(at), "model", "model", language="da")]
    rows += [row for at in range(10) for row in both(str(at), "reference", "reference", language="de")]
    found = rates(rows)
    assert (found["da"]["win_rate"], found["de"]["win_rate"]) == (1, 0)
    assert found["all"]["win_rate"] == found["all"]["length_controlled"] == 0.75


def test_no_verdicts_give_no_rates():
    assert winrate.win_rates([], repetitions=100, seed=0) == []


def test_standard_error_of_clusters_by_hand():
    scores, clusters = np.array([1.0, 1, 0, 0]), np.array([7, 7, 9, 9])
    assert winrate.standard_error(scores, clusters) == pytest.approx(0.5)  # sqrt(2/1 * (1 + 1)) / 4
    assert winrate.standard_error(scores, np.arange(4)) == pytest.approx(np.std(scores, ddof=1) / 2)
    assert winrate.standard_error(scores, np.zeros(4, int)) is None


def test_translations_of_one_question_do_not_narrow_the_interval():
    rng = np.random.default_rng(0)
    scores = rng.choice([0.0, 0.5, 1.0], 60)
    shape = {"repetitions": 400, "seed": 3}
    one = winrate.summarize(scores, np.zeros(60), np.arange(60), np.zeros(60, int), **shape)
    copies = np.repeat(np.arange(4), 60)
    four = winrate.summarize(np.tile(scores, 4), np.zeros(240), np.tile(np.arange(60), 4), copies, **shape)
    assert four["standard_error"] == pytest.approx(one["standard_error"])
    assert four["interval_95"] == pytest.approx(one["interval_95"])
    low, high = one["interval_95"]
    assert high - low == pytest.approx(2 * 1.96 * one["standard_error"], rel=0.15)


def test_few_questions_have_no_interval():
    few = rates([row for at in range(9) for row in both(str(at), "model", "tie")])["da"]
    enough = rates([row for at in range(10) for row in both(str(at), "model", "tie")])["da"]
    assert (few["win_rate"], few["interval_95"], few["lc_interval_95"]) == (0.75, None, None)
    assert enough["interval_95"] == [0.75, 0.75]


def test_winning_everything_is_not_certainty():
    won = rates([row for at in range(40) for row in both(str(at), "model", "model")])["da"]
    assert (won["win_rate"], won["length_controlled"]) == (1, 1)
    assert won["interval_95"] == won["lc_interval_95"] == pytest.approx([0.912378, 1])  # 40 / (40 + 1.96^2)
    lost = rates([row for at in range(40) for row in both(str(at), "reference", "reference")])["da"]
    assert lost["interval_95"] == pytest.approx([0, 0.087622], abs=1e-6)


def test_one_question_has_no_standard_error():
    assert rates(both("1", "model", "model"))["da"]["standard_error"] is None


def test_intervals_do_not_depend_on_the_other_languages():
    rng = np.random.default_rng(0)
    outcomes = rng.choice(["model", "reference", "tie"], (40, 2))
    danish = [row for at, pair in enumerate(outcomes) for row in both(str(at), *pair)]
    german = [row for at in range(20) for row in both(str(at), "model", "tie", language="de")]
    assert rates(danish)["da"] == rates(danish + german)["da"]
    assert rates(danish)["da"] == rates(danish)["da"]
    assert rates(danish)["da"]["interval_95"] != rates(danish, seed=1)["da"]["interval_95"]


def test_reference_length_control_equals_a_direct_fit():
    from scipy.optimize import minimize

    rng = np.random.default_rng(1)
    for at in range(100):
        size = int(rng.integers(5, 80))
        difference = rng.normal(rng.normal(0, 100), 10 ** rng.uniform(0, 3), size)
        scores = rng.choice([0, 0.25, 0.5, 0.75, 1], size)
        if at % 3 == 0:
            scores = (difference > np.median(difference)).astype(float)  # length decides everything
        length = np.tanh(difference / np.std(difference))

        def loss(parameters, length=length, scores=scores):
            logit = parameters[0] + parameters[1] * length
            return (np.logaddexp(0, logit) - scores * logit).sum() + parameters[1] ** 2

        theta, phi = minimize(loss, [0, 0], method="BFGS", options={"gtol": 1e-9}).x
        found = winrate.fit_reference(scores, difference, np.ones((1, size)))
        assert np.ravel(found) == pytest.approx([theta, phi], abs=1e-5)
        rate = winrate.length_controlled_reference(scores, difference)
        assert rate == pytest.approx([1 / (1 + np.exp(-theta))], abs=1e-6)


def test_weights_are_repetitions():
    rng = np.random.default_rng(2)
    scores, difference = rng.choice([0, 0.5, 1], 20), rng.normal(0, 50, 20)
    weights = rng.integers(0, 4, (1, 20)).astype(float)
    again = weights[0].astype(int)
    assert winrate.length_controlled_reference(scores, difference, weights) == pytest.approx(
        winrate.length_controlled_reference(np.repeat(scores, again), np.repeat(difference, again))
    )


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_all_wins_or_all_losses_have_their_limit_as_rate(rate):
    assert winrate.length_controlled_reference(np.full(5, rate), np.arange(5.0)) == [rate]


def test_equal_lengths_leave_the_raw_rate():
    scores = np.array([1, 1, 0.5, 0])
    assert winrate.length_controlled_reference(scores, np.full(4, 12.0)) == pytest.approx([0.625])


def test_length_control_removes_a_simulated_length_bias():
    rng = np.random.default_rng(4)
    difference = rng.normal(300, 400, 4000)  # the model writes more
    chance = 1 / (1 + np.exp(-1.5 * np.tanh(difference / difference.std())))  # and only length is rewarded
    scores = (rng.random(4000) < chance).astype(float)
    assert scores.mean() > 0.65
    assert winrate.length_controlled_reference(scores, difference)[0] == pytest.approx(0.5, abs=0.03)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng, inside, trials = np.random.default_rng(5), 0, 300
    for trial in range(trials):
        scores = rng.choice([0, 0.25, 0.5, 1], 100, p=[0.25, 0.2, 0.15, 0.4])  # mean .525
        groups = np.zeros(100, int)
        low, high = winrate.summarize(scores, groups, np.arange(100), groups, repetitions=300, seed=trial)[
            "interval_95"
        ]
        inside += low <= 0.525 <= high
    assert 0.91 <= inside / trials <= 0.98
