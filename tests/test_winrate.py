"""Win rates: hand-computed values, and a simulation with a known truth."""

import numpy as np
import pytest

from croco import evidence, judges, winrate


def verdict(question_id, order, verdict, language="da", chars=(10, 10), text="[[A]]", kind=("hard_prompt", "math")):
    return {
        "question_id": question_id,
        "language": language,
        "order": order,
        "verdict": verdict,
        "model_chars": chars[0],
        "reference_chars": chars[1],
        "category": kind[0],
        "subcategory": kind[1],
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


def test_a_p_value_is_twice_the_share_of_samples_beyond_parity():
    values = np.array([0.4] * 3 + [0.6] * 96)
    assert winrate.p_value(values, 0.58, 50) == pytest.approx(2 * (3 + 1) / (99 + 1))
    assert winrate.p_value(np.full(99, 0.5), 0.5, 50) == 1
    assert winrate.p_value(np.ones(9999), 1.0, 10) == 2 * 0.5**10  # ten heads of ten


def test_a_rate_differs_from_parity_where_its_interval_leaves_it_out():
    rng, found = np.random.default_rng(9), []
    for trial in range(40):
        scores, groups = rng.choice([0, 0.5, 1], 60, p=[0.3, 0.2, 0.5]), np.zeros(60, int)
        row = winrate.summarize(scores, rng.normal(50, 100, 60), np.arange(60), groups, repetitions=400, seed=trial)
        for prefix in winrate.RATES.values():
            low, high = row[f"{prefix}interval_95"]
            found.append((row[f"{prefix}p_value"], low > 0.5 or high < 0.5))
    assert {left_out for p, left_out in found if p < 0.04} == {True}
    assert {left_out for p, left_out in found if p > 0.06} == {False}


def language(code, wins, losses):
    pairs = [("model", "model")] * wins + [("reference", "reference")] * losses
    return [row for at, pair in enumerate(pairs) for row in both(f"{code}{at}", *pair, language=code)]


def test_what_one_language_shows_is_not_enough_among_many():
    twelve = [row for at in range(11) for row in language(f"l{at}", 20, 20)] + language("da", 27, 13)
    alone, among = rates(language("da", 27, 13), repetitions=2000)["da"], rates(twelve, repetitions=2000)["da"]
    assert alone["p_holm"] == alone["p_value"] == among["p_value"] < 0.05
    assert alone["verdict_holm"] == evidence.HIGHER
    assert among["p_holm"] == pytest.approx(min(12 * among["p_value"], 1))
    assert among["verdict_holm"] == evidence.NO_EVIDENCE
    assert rates(twelve)["all"]["p_holm"] == rates(twelve)["all"]["p_value"]


def test_identical_models_show_no_evidence_of_a_change():
    same = [
        row
        for code in ("da", "de", "fr")
        for at in range(20)
        for row in both(str(at), "tie", "tie", language=code, text=judges.IDENTICAL, chars=(at, at))
    ]
    for row in rates(same).values():
        for rate, prefix in winrate.RATES.items():
            assert (row[rate], row[f"{prefix}standard_error"], row[f"{prefix}interval_95"]) == (0.5, 0, [0.5, 0.5])
            assert (row[f"{prefix}p_holm"], row[f"{prefix}verdict_holm"]) == (1, evidence.NO_EVIDENCE)
            assert evidence.verdict(*row[f"{prefix}interval_95"], winrate.PARITY) == evidence.NO_EVIDENCE


def test_few_questions_are_not_tested_and_have_no_alpaca_rate():
    few = rates(language("da", 5, 4))["da"]
    assert [few[f"{prefix}verdict_holm"] for prefix in winrate.RATES.values()] == [evidence.UNKNOWN] * 3
    assert few["alpaca_length_controlled"] is None
    assert few["length_controlled"] == pytest.approx(5 / 9)


def test_alpacas_rate_over_languages_weighs_them_by_their_questions():
    rng = np.random.default_rng(11)
    groups, difference = np.repeat([0, 1], [60, 20]), rng.normal(0, 100, 80)
    scores = (rng.random(80) < np.where(groups, 0.3, 0.8)).astype(float)
    shape = {"repetitions": 200, "seed": 0}
    whole = winrate.summarize(scores, difference, np.arange(80), groups, **shape)
    parts = [
        winrate.summarize(scores[groups == at], difference[groups == at], np.arange(n), np.zeros(n, int), **shape)
        for at, n in enumerate((60, 20))
    ]
    rate = "alpaca_length_controlled"
    assert whole[rate] == pytest.approx(0.75 * parts[0][rate] + 0.25 * parts[1][rate])
    errors = [0.75 * parts[0]["alpaca_standard_error"], 0.25 * parts[1]["alpaca_standard_error"]]
    assert whole["alpaca_standard_error"] == pytest.approx(np.hypot(*errors), rel=0.02)


def test_alpacas_interval_is_not_pulled_to_parity_as_its_rate_is():
    rng = np.random.default_rng(0)
    scores, groups = (rng.choice([0, 0.5, 1], 498) + rng.choice([0, 0.5, 1], 498)) / 2, np.zeros(498, int)
    difference = (rng.integers(100, 3000, 498) - rng.integers(100, 3000, 498)).astype(float)
    row = winrate.summarize(scores, difference, np.arange(498), groups, repetitions=2000, seed=0)
    assert row["alpaca_length_controlled"] == 0.5
    assert row["length_controlled"] > 0.51
    low, high = row["alpaca_interval_95"]
    assert (low, high) == pytest.approx(row["lc_interval_95"], abs=0.003)
    assert low < 0.5 < high


def test_an_interval_holds_its_rate():
    values = np.linspace(0.51, 0.61, 101)
    assert winrate.interval(values, 0.5, 30) == pytest.approx([0.5, 0.6075])
    assert winrate.interval(values, 0.55, 30) == pytest.approx([0.5125, 0.6075])


def test_subcategories_are_counted_over_languages_by_what_the_questions_say():
    kinds = {"math": ("hard_prompt", "math"), "coding": ("hard_prompt", "coding"), "poem": ("creative_writing", "")}
    rows = [
        row
        for code in ("da", "de")
        for name, kind in kinds.items()
        for at in range(12)
        for row in both(f"{name}{at}", "reference" if name == "math" else "model", "model", language=code, kind=kind)
    ]
    rows += both("odd", "model", None, kind=("hard_prompt", "unread"))
    found = {row["subcategory"]: row for row in winrate.by_subcategory(rows, repetitions=200, seed=0)}
    assert list(found) == ["coding", "creative_writing", "math"]
    assert [(row["questions"], row["win_rate"]) for row in found.values()] == [(24, 1), (24, 1), (24, 0.5)]
    assert found["coding"]["p_holm"] == pytest.approx(3 * found["coding"]["p_value"])
    assert winrate.by_subcategory([row | {"category": "", "subcategory": ""} for row in rows], 200, 0) == []
