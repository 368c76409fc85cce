"""The report's numbers: counted over every row, alike however many tasks wrote them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from croco import judges
from croco.dataset import Count
from croco.page import attached, distributions, evaluations, findings
from tests.conftest import DatasetOf
from tests.reported import answers, dealt, numbers_of, pair, score, scores, trained, verdict, wrote


def test_language_fidelity_is_counted_over_the_questions_both_answered(dataset_of: DatasetOf) -> None:
    base = dataset_of("answers", answers("base", {"q0": "da", "q1": "da", "q2": "da", "q3": "da", "q4": "da"}), "a0")
    tuned = dataset_of("answers", answers("tuned", {"q0": "da", "q1": "en", "q2": None, "q3": "da", "q9": "da"}), "a1")
    found = distributions.answered(base, tuned)
    (row,) = found["languages"]
    assert (row["base"]["value"], row["tuned"]["value"], row["change"]["value"]) == (1.0, 0.5, -0.5)
    assert row["change"]["n"] == 4
    assert found["left_out"] == {"base": 1, "tuned": 1}
    assert row["verdict"] == "no evidence"  # 2 of 4 may be chance


def test_a_region_asks_for_its_language(dataset_of: DatasetOf) -> None:
    rows = [row | {"language": "pt-PT"} for row in answers("base", {"q0": "pt", "q1": "es"})]
    (row,) = distributions.answered(dataset_of("answers", rows), None)["languages"]
    assert row["base"]["value"] == 0.5


def test_rewards_are_counted_per_language_and_over_all(dataset_of: DatasetOf) -> None:
    rewards = {("da", "p0"): [0.0, 2.0], ("da", "p1"): [4.0], ("en", "p0"): [10.0, 10.0]}
    found, pairs = distributions.rewards([dataset_of("scores", scores(rewards))], None, 5)
    assert pairs is None and found is not None
    assert found["edges"] == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    danish, english, everything = found["languages"]
    assert (danish["value"], danish["n"], danish["clusters"], danish["histogram"]) == (2.0, 3, 2, [1, 1, 1, 0, 0])
    assert (english["value"], english["low"], english["histogram"]) == (10.0, None, [0, 0, 0, 0, 2])
    assert (everything["language"], everything["n"], everything["clusters"]) == ("all", 5, 2)
    assert everything["value"] == pytest.approx(26 / 5)


def test_the_language_mix_counts_chosen_and_rejected(dataset_of: DatasetOf) -> None:
    rows = [pair(0, ("en", 3.0), ("da", 1.0)), pair(1, ("en", 2.0), ("en", 1.0)), pair(2, ("da", 9.0), ("da", 1.0))]
    _, found = distributions.rewards([], dataset_of("pairs", rows), 5)
    assert found is not None
    assert {row["language"]: (row["chosen"]["value"], row["rejected"]["value"]) for row in found["mix"]} == {
        "da": (pytest.approx(1 / 3), pytest.approx(2 / 3)),
        "en": (pytest.approx(2 / 3), pytest.approx(1 / 3)),
    }
    assert found["across_languages"]["value"] == pytest.approx(1 / 3)
    assert {row["language"]: row["value"] for row in found["margins"]} == {"da": 8.0, "en": 1.5, "all": 11 / 3}
    assert [sum(row["chosen"]) for row in found["picked"]] == [1, 2]


def test_a_reward_that_is_no_number_is_refused(dataset_of: DatasetOf) -> None:
    bad = dataset_of("scores", scores({("da", "p0"): [1.0, float("nan")]}))
    with pytest.raises(ValueError, match="found a value that is not finite"):
        distributions.rewards([bad], None, 5)


def test_a_broken_line_of_the_training_log_is_named(tmp_path: Path) -> None:
    directory = trained(tmp_path / "training", ['{"step": 1, "loss": 0.7}', '{"loss": 0.6}'])
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: found .*expected a JSON object with a step"):
        attached.training(directory)


def test_a_training_log_that_was_changed_is_refused(tmp_path: Path) -> None:
    directory = trained(tmp_path / "training", ['{"step": 1, "loss": 0.7}'])
    (directory / "metrics.jsonl").write_text('{"step": 1, "loss": 0.1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="not the one its manifest lists"):
        attached.training(directory)


def test_the_numbers_do_not_depend_on_how_many_tasks_shared_a_stage(dataset_of: DatasetOf, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    keys = [(code, f"p{number}") for code in ("da", "en") for number in range(20)]
    scored = scores({key: generator.normal(size=8).astype(np.float32).tolist() for key in keys})
    sampled = [
        {name: row[name] for name in ("prompt_id", "language", "sample_index")}
        | {"text": "ja", "token_ids": [1], "finish_reason": "stop", "seed": 1}
        | {"identified": "da" if row["reward"] > 0 else "en"}
        for row in scored
    ]
    one, three = (
        numbers_of(
            tmp_path / f"out-{tasks}",
            samples=dealt(dataset_of, sampled, "samples", tasks),
            scores=dealt(dataset_of, scored, "scores", tasks),
        )
        for tasks in (1, 3)
    )
    assert [len(entry.pop("parts")) for found in (one, three) for entry in found["provenance"]] == [1, 1, 3, 3]
    assert one.pop("ledger") != three.pop("ledger")
    assert one == three


def test_the_flow_has_a_row_for_each_language_of_a_stage(tmp_path: Path) -> None:
    tasks = [
        ("samples", wrote("sample", counts=[Count("samples", "da", 8, 7, {"empty": 1}), Count("samples", "en", 4, 4)])),
        ("samples", wrote("sample", counts=[Count("samples", "da", 4, 2, {"empty": 1, "no_end": 1})])),
    ]
    assert findings.flow(tasks) == [
        {"input": "samples", "stage": "sample", "unit": "samples", "language": code, "rows_in": taken, "rows_out": kept,
         "dropped": dropped}
        for code, taken, kept, dropped in [("da", 12, 9, {"empty": 2, "no_end": 1}), ("en", 4, 4, {})]
    ]  # fmt: skip


def test_fidelity_of_translations_counts_every_prompt_once(dataset_of: DatasetOf) -> None:
    counts = [Count("prompts", "da", 10, 10), Count("prompts", "de", 4, 4), Count("references", "da", 10, 2, {"x": 8})]
    first = wrote("translate", counts=counts, metrics={"language_fidelity": {"da": 0.8, "de": 1.0}})
    second = wrote(
        "translate",
        counts=[Count("prompts", "da", 40, 40)],
        metrics={"language_fidelity": {"da": 0.5}, "with_prose": {"da": 30}},  # 10 prompts are code alone
    )
    danish, german = distributions.translated([first, second])
    assert (danish["language"], danish["value"], danish["n"]) == ("da", (8 + 15) / 40, 40)
    assert (german["language"], german["value"], german["n"]) == ("de", 1.0, 4)
    assert danish["low"] < 23 / 40 < danish["high"]


def test_a_fidelity_that_is_not_one_of_whole_prompts_is_refused() -> None:
    edited = wrote("translate", counts=[Count("prompts", "da", 10, 10)], metrics={"language_fidelity": {"da": 0.55}})
    with pytest.raises(ValueError, match=r"translate: found 0\.55 of 10 prompts identified as da; expected a whole"):
        distributions.translated([edited])


def test_what_several_tasks_warn_of_is_said_once() -> None:
    tasks = [("samples", wrote("sample", warnings=said)) for said in (["slow", "hot"], ["slow"])]
    assert findings.warnings(tasks) == [{"input": "samples", "text": text} for text in ("slow", "hot")]


# EuroEval and the judge


def test_a_change_is_paired_by_iteration_and_euroevals_own_half_width_is_kept(dataset_of: DatasetOf) -> None:
    base, tuned = (
        dataset_of("benchmarks", [score("mcc", 50.0, 1.0)], "b0"),
        dataset_of("benchmarks", [score("mcc", 53.0, 1.2)], "b1"),
    )
    (row,) = evaluations.benchmarks(base, tuned)
    error = 0.2 * (4 / 3) ** 0.5  # iterations changed by 2.8, 3.0 and 3.2
    assert (row["change"], row["standard_error"]) == (pytest.approx(3), pytest.approx(error))
    assert (row["low"], row["high"]) == (pytest.approx(3 - 4.302653 * error), pytest.approx(3 + 4.302653 * error))
    assert row["verdict"] == "higher"
    assert row["base"] == {"score": 50.0, "half_width_95": pytest.approx(1.131607), "n": 3}


def test_a_language_counts_each_data_set_by_its_first_metric(dataset_of: DatasetOf) -> None:
    def rows(gain: float, spread: float) -> list[dict[str, Any]]:
        first, second = score("mcc", 50 + gain, spread), score("accuracy", 50 + 9 * gain, spread)
        other = score("f1", 50 + 3 * gain, spread) | {"benchmark": "sst5"}
        return [first, second, other]

    base = dataset_of("benchmarks", rows(0.0, 1.0), "b0")
    found = evaluations.benchmarks(base, dataset_of("benchmarks", rows(1.0, 1.2), "b1"))
    assert [(row["benchmark"], row["metric"], row["main"]) for row in found] == [
        ("scala", "mcc", True), ("scala", "accuracy", False), ("sst5", "f1", True),
    ]  # fmt: skip
    (danish,) = evaluations.benchmark_languages(found)
    assert (danish["language"], danish["n"], danish["value"]) == ("da", 2, pytest.approx(2))
    assert danish["standard_error"] == pytest.approx(0.2 * (4 / 3) ** 0.5 / 2**0.5)
    assert (danish["untold"], danish["left_out"]) == ([], [])


def test_what_cannot_be_told_of_a_data_set_is_said_and_leaves_its_language_without_an_interval(
    dataset_of: DatasetOf,
) -> None:
    fewer = score("f1", 55.0, 1.0) | {"benchmark": "sst5", "iterations": [55.0]}
    alone = score("f1", 55.0, 1.0) | {"benchmark": "mmlu"}
    base = [score("mcc", 50.0, 1.0), score("f1", 50.0, 1.0) | {"benchmark": "sst5"}, alone]
    tuned = [score("mcc", 53.0, 1.2), fewer]
    found = evaluations.benchmarks(dataset_of("benchmarks", base, "b0"), dataset_of("benchmarks", tuned, "b1"))
    assert {row["benchmark"]: (row["change"], row["verdict"]) for row in found} == {
        "scala": (3.0, "higher"), "sst5": (5.0, "unknown"), "mmlu": (None, None),
    }  # fmt: skip
    (danish,) = evaluations.benchmark_languages(found)
    assert (danish["value"], danish["low"], danish["verdict"]) == (4.0, None, "unknown")
    assert (danish["untold"], danish["left_out"]) == (["sst5"], ["mmlu"])


def test_the_same_model_twice_has_not_changed(dataset_of: DatasetOf) -> None:
    same = [score("mcc", 50.0, 1.0), score("mcc", 40.0, 2.0, "de")]
    found = evaluations.benchmarks(dataset_of("benchmarks", same, "b0"), dataset_of("benchmarks", same, "b1"))
    for row in [*found, *evaluations.benchmark_languages(found)]:
        assert (row["low"], row["high"], row["verdict"]) == (0, 0, "no evidence")


def test_the_judge_is_measured_over_questions(dataset_of: DatasetOf) -> None:
    said = {"q0": ("model", "model"), "q1": ("model", "reference"), "q2": ("tie", "tie"), "q3": ("model", None)}
    rows = [
        verdict(order, word, judges.IDENTICAL if question == "q2" else "A. [[A]]") | {"question_id": question}
        for question, words in said.items()
        for order, word in zip(("model_first", "reference_first"), words, strict=True)
    ]
    (found,) = evaluations.judging(dataset_of("verdicts", rows))
    measured = {
        name: (found[name]["value"], found[name]["n"], found[name]["clusters"]) for name in found if name != "language"
    }
    assert measured == {
        "readable": (7 / 8, 8, 4), "consistent": (2 / 3, 3, 3), "ties": (2 / 6, 6, 3), "identical": (1 / 3, 3, 3),
        "model_chars": (4, 3, 3), "reference_chars": (4, 3, 3),
    }  # fmt: skip
    assert found["consistent"]["low"] < 0.3 < 0.9 < found["consistent"]["high"]


def test_a_question_in_two_languages_is_one_cluster_of_all(dataset_of: DatasetOf) -> None:
    rows = [
        verdict(order, "model") | {"language": code}
        for code in ("da", "de")
        for order in ("model_first", "reference_first")
    ]
    found = {row["language"]: row["consistent"] for row in evaluations.judging(dataset_of("verdicts", rows))}
    assert {code: (one["n"], one["clusters"]) for code, one in found.items()} == {
        "da": (1, 1),
        "de": (1, 1),
        "all": (2, 1),
    }
