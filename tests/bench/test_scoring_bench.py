"""The bench of scoring: its minimum and its counts by hand, then all of it at a tiny size. No time is asserted."""

from collections import Counter
from pathlib import Path

import pytest
import tiny

from bench import drawn, quick, scoring


def test_the_minimum_is_each_prompt_and_each_distinct_answer_once() -> None:
    asked = [
        {"prompt_id": name, "messages": [{"role": "user", "content": text}]} for name, text in [("p", "h"), ("q", "hi")]
    ]
    texts = [("p", "ja"), ("p", "nej"), ("p", "ja"), ("q", "ja")]
    samples = [{"prompt_id": name, "text": text} for name, text in texts]

    # user:h;assistant: has 17 letters, user:hi;assistant: 18; ja; nej; ja; have 3, 4 and 3
    assert scoring.minimum(tiny.Letters(), asked, samples) == 17 + 18 + 3 + 4 + 3


def test_prefixes_are_the_nodes_of_the_trie() -> None:
    assert drawn.prefixes([[1, 2, 3], [4, 2], [1, 2], [1, 2, 5, 6], [1, 2, 3]]) == 3 + 2 + 2
    assert drawn.prefixes([]) == 0


def test_prompts_end_anywhere_in_a_block_and_a_fifth_of_the_answers_are_copies() -> None:
    asked, samples = scoring.answered(8, 64)

    lengths = [prompt["messages"][0]["content"].count(" ") for prompt in asked]
    assert lengths == [448, 466, 484, 502, 520, 538, 556, 574]
    distinct = Counter(name for name, _ in {(row["prompt_id"], row["text"]) for row in samples})
    assert set(distinct.values()) == {52}
    assert len(samples) == 8 * 64
    assert {64 <= row["text"].count(" ") <= 448 for row in samples} == {True}


@pytest.mark.engine
def test_both_sides_give_the_same_rewards_and_ours_computes_less(tmp_path: Path) -> None:
    figures, detail = quick.run("scoring", tmp_path)
    assert figures["largest difference of rewards"] <= scoring.TOLERANCE
    for suffix in ("", ", shuffled, memory short"):
        assert 1 <= figures[f"tokens computed{suffix}"] < figures[f"tokens computed{suffix}, released"]
    assert [(run["round"], run["side"], run["amount"]) for run in detail["speed"]["runs"]] == [
        *((0, "ours", 64), (0, "released", 64)),
        *((1, "released", 64), (1, "ours", 64)),
    ]
    assert figures["tokens computed"] == detail["enough"]["computed"]["ours"]
