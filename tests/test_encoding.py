"""Encoding: which rows become token ids, which, and what is counted of the others."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from croco import dataset, encoding


class Letters:
    """A tokenizer of one token a character, and one for `~~`, so that an answer may merge with its prompt's end."""

    all_special_tokens = ("<end>",)
    bos_token_id = eos_token_id = None

    def __init__(self) -> None:
        self.rendered: list[str] = []

    def apply_chat_template(self, turns: Sequence[Any], *, add_generation_prompt: bool, return_dict: bool) -> list[int]:
        text = "".join(f"{turn['role'][0]}~{turn['content']}." for turn in turns) + "a~" * add_generation_prompt
        self.rendered.append(text)
        return [ord(character) for character in text.replace("~~", "≈")]


def pair(language: str, chosen: str, rejected: str) -> dict[str, Any]:
    prompt = [{"role": "user", "content": "hi"}]  # u~hi.a~ is 7 tokens
    return {"prompt_language": language, "prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_rows_that_cannot_be_trained_on_are_counted_and_the_others_are_whole() -> None:
    data = [
        pair("en", "abc", "d"),
        pair("da", "abcd", "d"),  # 7 + 4 + 1 = 12 tokens
        pair("da", "a", "abcd"),
        pair("en", "a", "<end>"),
        pair("da", "~a", "d"),
        pair("da", "a", "~d"),
    ]
    tally = dataset.Tally("pairs")
    assert list(encoding.encode(data, Letters(), "dpo", 11, tally)) == [
        {
            "prompt_ids": [ord(c) for c in "u~hi.a~"],
            "chosen_ids": [ord(c) for c in "abc."],
            "rejected_ids": [ord(c) for c in "d."],
        }
    ]
    assert tally.counts() == [
        dataset.Count("pairs", "da", 4, 0, {"over_long": 2, "prompt_not_prefix": 2}),
        dataset.Count("pairs", "en", 2, 1, {"special_token": 1}),
    ]


def test_answers_as_they_were_sampled_go_before_their_text_where_both_are_known() -> None:
    sampled = {"chosen_ids": [1, 2], "rejected_ids": [3], "chosen_logprob": -2.5, "rejected_logprob": -0.5}
    data = [pair("en", "a", "b") | sampled, pair("en", "a", "b") | sampled | {"rejected_ids": None}]
    first, second = encoding.encode(data, Letters(), "dpo", 11, dataset.Tally("pairs"))
    prompt = [ord(c) for c in "u~hi.a~"]
    assert first == {
        "prompt_ids": prompt, "chosen_ids": [1, 2], "rejected_ids": [3],
        "ref_chosen_logps": -2.5, "ref_rejected_logps": -0.5,
    }  # fmt: skip
    assert (second["chosen_ids"], second["rejected_ids"]) == ([ord("a"), ord(".")], [ord("b"), ord(".")])
    assert math.isnan(second["ref_chosen_logps"]) and math.isnan(second["ref_rejected_logps"])


def test_a_pairs_prompt_is_rendered_once() -> None:
    tokenizer = Letters()
    list(encoding.encode([pair("en", "a", "b")], tokenizer, "dpo", 11, dataset.Tally("pairs")))
    assert tokenizer.rendered == ["u~hi.a~", "u~hi.a~a.", "u~hi.a~b."]


def test_sft_rows_have_no_label_on_the_prompt() -> None:
    row = {"language": "en", "prompt": [{"role": "user", "content": "hi"}], "completion": "ok"}
    [encoded] = encoding.encode([row], Letters(), "sft", 10, dataset.Tally("rows"))
    assert encoded == {
        "input_ids": [ord(c) for c in "u~hi.a~ok."],
        "labels": [-100] * 7 + [ord(c) for c in "ok."],
    }


@pytest.mark.parametrize(
    ("row", "tokens"),
    [
        ({"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5, 6]}, 8),  # its prompt twice
        ({"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4], "ref_chosen_logps": -1.0}, 6),
        ({"input_ids": [1, 2, 3], "labels": [-100, -100, 3]}, 3),
    ],
)
def test_tokens_are_those_a_pass_reads(row: dict[str, Any], tokens: int, tmp_path: Path) -> None:
    assert encoding.write(tmp_path / "ids.arrow", iter([row] * 1001)) == 1001
    assert encoding.tokens_in(tmp_path / "ids.arrow") == 1001 * tokens


def test_rows_are_read_in_the_order_of_their_keys_and_an_unknown_split_is_refused(
    dataset_of: Callable[..., Path],
) -> None:
    def row(name: str, split: str) -> dict[str, Any]:
        turns = [{"role": "user", "content": "hi"}]
        return {
            "prompt_id": name,
            "language": "en",
            "prompt": turns,
            "completion": "ok",
            "reward": None,
            "split": split,
        }

    found = encoding.read([dataset_of("sft", [row("b", "train"), row("a", "eval")])], "sft")
    assert found["prompt_id"].to_pylist() == ["a", "b"]
    with pytest.raises(ValueError, match=r"sft.split: found \['test'\]; expected train or eval"):
        encoding.read([dataset_of("sft", [row("a", "train"), row("b", "test")], name="wrong")], "sft")
