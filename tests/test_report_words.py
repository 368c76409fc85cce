"""The report's words, texts and charts: no stronger than the intervals, and safe to print."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from croco.page import attached, evaluations, excerpts, plots, summary, wording
from tests import reported
from tests.conftest import DatasetOf
from tests.reported import rate, score, verdict


def win_rates(dataset_of: DatasetOf, *rates: Mapping[str, Any]) -> dict[str, Any]:
    return evaluations.win_rates(
        dataset_of("verdicts", [verdict("model_first", "tie")], metrics={"win_rates": list(rates)})
    )


def test_a_win_rate_is_above_parity_only_with_its_whole_interval(dataset_of: DatasetOf) -> None:
    found = win_rates(
        dataset_of,
        rate("all", 0.55, [0.52, 0.58], length_controlled=0.51, lc_interval_95=[0.48, 0.54]),
        rate("da", 0.6, [0.5, 0.7]),
        rate("de", 0.4, [0.3, 0.49]),
        rate("fr", float("nan"), None),
    )
    assert [row["verdict"] for row in found["languages"]] == ["no evidence", "lower", "unknown", "higher"]
    said = summary.summarize({**dict.fromkeys(summary.SECTIONS), "win_rates": found})[0]
    assert said["verdict"] == "mixed"
    assert said["text"].replace("\u00a0", " ") == (
        "model against reference, all languages: 55.0 % (95 % interval 52.0 to 58.0 %, n = 100 questions): above "
        "parity. With answer length accounted for as the paper's code does: 51.0 % (95 % interval 48.0 to 54.0 %): no "
        "evidence either way. By language, corrected for their number: below parity in German; no evidence either way "
        "in Danish; no interval in French. On 100.0 % of the questions (95 % interval 20.7 to 100.0 %, n = 1) both "
        "orders agree."
    )


def test_a_win_rate_in_percent_is_refused(dataset_of: DatasetOf) -> None:
    with pytest.raises(ValueError, match="expected shares between 0 and 1"):
        win_rates(dataset_of, rate("da", 55.0, [52.0, 58.0]))


def test_a_win_rate_that_holms_correction_takes_back_is_no_evidence(dataset_of: DatasetOf) -> None:
    danish = rate("da", 0.56, [0.51, 0.61], verdict_holm="no evidence")
    german = rate("de", 0.60, [0.55, 0.65], verdict_holm="higher")
    french = rate("fr", 0.50, [0.45, 0.55], verdict_holm="higher")  # never more than its interval allows
    found = win_rates(dataset_of, danish, german, french)["languages"]
    assert [row["verdict"] for row in found] == ["higher", "higher", "no evidence"]
    assert [wording.marked(row) for row in found] == ["no evidence", "higher", "no evidence"]


def test_the_summary_says_no_more_of_euroeval_than_the_paired_intervals(dataset_of: DatasetOf) -> None:
    base = [score("mcc", 50.0, 1.0), score("f1", 50.0, 1.0), score("mcc", 50.0, 1.0, "fr"), score("mcc", 50.0, 1, "it")]
    tuned = [score("mcc", 53.0, 1.2), score("f1", 50.5, 1.2), score("mcc", 45.0, 1.2, "fr"), score("mcc", 60, 1, "it")]
    found = evaluations.benchmarks(dataset_of("benchmarks", base, "b0"), dataset_of("benchmarks", tuned, "b1"))
    means = evaluations.benchmark_languages(found)
    numbers = {**dict.fromkeys(summary.SECTIONS), "benchmarks": found, "benchmark_languages": means}
    (said, _) = summary.summarize(numbers)
    assert said["verdict"] == "mixed"
    assert said["text"].replace("\u00a0", " ") == (
        "The mean of 3 data sets changed by +2.67 points (no interval). By language: higher in Danish; lower in "
        "French; no interval in Italian. Each by itself, of 3 scores with an interval 1 are higher and 1 lower; fewer "
        "than one would be either had nothing changed."
    )


def test_the_summary_names_the_checks_that_a_model_did_not_pass(tmp_path: Path) -> None:
    texts = []
    for name, more in (("refused", {}), ("promoted", {"promote": True, "reasons": [], "name": "croco", "last": "v3"})):
        found = attached.decision(reported.decided(tmp_path / name, "Danish: -2 points", **more))
        (said, _) = summary.summarize({**dict.fromkeys(summary.SECTIONS), "promotion": found})
        texts.append((said["verdict"], said["text"]))
    assert texts == [
        ("refused", "Not promoted: 1 of 2 checks against its base passed, and not EuroEval in Danish."),
        ("promoted", "Promoted: the tuned model passed all 2 checks against its base and croco v3."),
    ]


def test_a_zero_has_no_sign_whatever_it_was_rounded_from() -> None:
    assert [wording.number(value) for value in (-0.004, 0.0, -1.5, None)] == ["0.00", "0.00", "−1.50", "not measured"]
    assert [wording.signed(value) for value in (-0.04, 0.04, -0.06, 2.0)] == ["0.0", "0.0", "−0.1", "+2.0"]


def test_a_share_is_never_rounded_to_a_whole_that_it_is_not() -> None:
    assert [wording.share(value) for value in (1.0, 0.99999, 0.9994, 0.5, 0.0001, 0.0)] == [
        "100.0 %", "> 99.9 %", "99.9 %", "50.0 %", "< 0.1 %", "0.0 %",
    ]  # fmt: skip


def test_excerpts_are_the_same_ids_in_every_language_whatever_the_order() -> None:
    keys = [(language, f"q{number}") for language in ("da", "en") for number in range(50)]
    found = excerpts.choose(keys, 3, seed=0)
    assert found == excerpts.choose(reversed(keys), 3, seed=0)
    assert {key for language, key in found if language == "da"} == {key for language, key in found if language == "en"}
    assert len(found) == 6
    assert found != excerpts.choose(keys, 3, seed=1)


def test_broken_utf8_shows_as_text() -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 3], np.int32)), pa.py_buffer(b"a\xffb")]
    )
    turns = pa.StructArray.from_arrays([pa.array(["user"]), broken], ["role", "content"])
    messages = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), turns)
    assert excerpts.plain(broken) == ["a\\xffb"]
    assert excerpts.plain(messages) == [[{"role": "user", "content": "a\\xffb"}]]


def test_a_chart_names_itself_and_escapes_its_labels() -> None:
    mark = plots.Mark("second", 1.0, 0.5, None, "one")
    drawn = plots.intervals("<b>", [("</title><script>", "1 → 2", [mark])], low=-1, high=2, parity=0)
    assert drawn.startswith('<svg class="intervals" viewBox="0 0 340 60" role="img"><title>&lt;b&gt;</title><desc>')
    assert "<script" not in drawn


def test_a_constant_curve_and_a_single_value_can_be_drawn() -> None:
    assert "polyline" in plots.lines("loss", [(1, 0.0)], [])
    assert "polyline" in plots.histogram("rewards", [0.0, 1.0], [3], of="answers")
    assert "no finite value" in plots.lines("loss", [(1, None)], [])
