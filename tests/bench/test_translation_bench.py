"""The bench of translation: its data and arithmetic by hand, then all of it at a small size. No time is asserted."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import translation
from bench.measuring import Setting


def test_a_tenth_of_the_messages_is_repeated_and_no_question_is() -> None:
    data = translation.conversations(20)
    texts = [turn["content"] for turns in data for turn in turns]
    assert (len(texts), len(set(texts))) == (40, 36)
    assert len({turns[0]["content"] for turns in data}) == 20


def test_what_cannot_be_spared_is_each_distinct_prompt_without_what_all_share_and_that_once() -> None:
    def request(prompt: list[int], output: int) -> Any:
        return SimpleNamespace(prompt_token_ids=prompt, outputs=[SimpleNamespace(token_ids=[7] * output)])

    requests = [request([1, 1, 1, 5], 3), request([1, 1, 1, 6, 7], 4), request([1, 1, 1, 5], 3)]
    assert translation.tokens(requests, shared=3) == (4 + 3 + 5 + 4 + 4 + 3, 3 + (1 + 3) + (2 + 4))


@pytest.mark.engine
def test_both_sides_translate_everything_and_alike(tmp_path: Path, toy: Path) -> None:
    found = translation.run(Setting(toy, tmp_path, quick=True))
    speed, same_engine, alike = found.figures
    assert [row["side"] for row in found.detail["runs"]] == ["ours", "reference", "same engine"]
    assert {row["amount"] for row in found.detail["runs"]} == {60 * 2 * 2}
    assert (alike.value, found.detail["compared"]) == (1.0, 60 * 2 * 2)
    assert speed.limit and speed.limit > 10 / 9, "a tenth need not be translated again, and more is shared"
    assert (speed.at_least, same_engine.at_least) == (1.3, None)
