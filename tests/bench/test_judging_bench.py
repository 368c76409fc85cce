"""The bench of judging at a tiny size. No time is asserted."""

from pathlib import Path

import pytest

from bench import judging, quick


def test_every_eighth_question_has_the_same_answer_twice() -> None:
    matches = judging.compared(16, ["da", "de"])

    same = [(match.language, match.question_id) for match in matches if match.model == match.reference]
    assert same == [("da", "0007"), ("da", "0015"), ("de", "0007"), ("de", "0015")]
    assert {256 <= len(match.model.split()) <= 1024 for match in matches} == {True}


@pytest.mark.engine
def test_both_orders_are_asked_and_hardly_more_is_computed_than_they_need(tmp_path: Path) -> None:
    figures, detail = quick.run("judging", tmp_path)
    for suffix in ("", ", memory short"):
        assert 1 <= figures[f"tokens computed{suffix}"] <= 1.02
    amounts = {run["side"]: run["amount"] for run in detail["enough"]["runs"]}
    assert amounts == {"ours": 2 * 16, "released": 16}
