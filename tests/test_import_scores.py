"""Import: the paper's scored JSONL becomes datasets that `pair` takes; what cannot be placed is refused with counts."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from croco import dataset, import_scores, pair
from croco.import_scores import ImportConfig


def jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def original(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "domain": "d", "source_dataset": "s"}


def answer(prompt: str, text: str, reward: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}],
        "reward_score": reward,
    }


def files(tmp_path: Path, scored: Sequence[Any], originals: Sequence[str] = ("hej", "farvel")) -> dict[str, Any]:
    return {
        "original": [
            f"da={jsonl(tmp_path / 'da.jsonl', [original(t) for t in originals])}",
            f"en={jsonl(tmp_path / 'en.jsonl', [original(t.upper()) for t in originals])}",
        ],
        "scored": [f"da={jsonl(tmp_path / 'da_scored.jsonl', scored)}"],
        "out": tmp_path / "out",
    }


@pytest.mark.filterwarnings("ignore:pools have")
def test_scored_files_become_pairs(tmp_path: Path) -> None:
    rows = [answer("hej", f"svar {i}", float(i)) for i in range(4)] + [
        answer("farvel", f"nej {i}", -i) for i in range(4)
    ]
    import_scores.run(**files(tmp_path, rows), config=ImportConfig(eval_share=0))
    prompts = dataset.read(tmp_path / "out" / "prompts", "prompts").to_pylist()
    assert [(p["language"], p["messages"][0]["content"]) for p in prompts] == [
        ("da", "hej"), ("da", "farvel"), ("en", "HEJ"), ("en", "FARVEL"),
    ]  # fmt: skip
    assert prompts[0]["prompt_id"] == prompts[2]["prompt_id"] != prompts[1]["prompt_id"]
    names = ("prompts", "samples", "scores")
    pair.run(**{name: [tmp_path / "out" / name] for name in names}, out=tmp_path / "pairs")  # type: ignore[arg-type]
    pairs = {row["prompt"][0]["content"]: row for row in dataset.read(tmp_path / "pairs", "pairs").to_pylist()}
    assert (pairs["hej"]["chosen"], pairs["hej"]["rejected"]) == ("svar 3", "svar 0")
    assert (pairs["farvel"]["chosen"], pairs["farvel"]["chosen_reward"], pairs["farvel"]["domain"]) == (
        "nej 0",
        0.0,
        "d",
    )


def test_a_failed_score_of_the_released_code_is_no_number(tmp_path: Path) -> None:
    import_scores.run(**files(tmp_path, [answer("hej", "a", -999.0), answer("hej", "b", 1.5)]))
    rewards = dataset.read(tmp_path / "out" / "scores", "scores")["reward"].to_pylist()
    assert math.isnan(rewards[0]) and rewards[1] == 1.5


@pytest.mark.parametrize(
    ("scored", "originals", "words"),
    [
        (
            [answer("hej", "a", 1), answer("hov", "b", 1)],
            ("hej", "x"),
            r"scored.jsonl:2: found 1 answers .* in no line .* 0",
        ),
        (
            [answer("hej", "a", 1)] * 3,
            ("hej", "hej"),
            r"scored.jsonl:1: found 0 answers .* and 3 whose prompt is in several",
        ),
        ([answer("hej", "a", None)], ("hej", "x"), r"scored.jsonl:1: found reward_score None; expected a number"),
        ([{"no": 1}], ("hej", "x"), r"scored.jsonl:1: found no list of messages"),
        (
            [{"messages": [{"role": "user", "content": "hej"}], "reward_score": 1}],
            ("hej", "x"),
            "found no assistant turn",
        ),
    ],
)
def test_what_cannot_be_placed_is_refused(
    tmp_path: Path, scored: list[Any], originals: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        import_scores.run(**files(tmp_path, scored, originals))


def test_malformed_json_names_its_line(tmp_path: Path) -> None:
    arguments = files(tmp_path, [answer("hej", "a", 1)])
    with (tmp_path / "da_scored.jsonl").open("a") as file:
        file.write('{"messages": [\n')
    with pytest.raises(ValueError, match=r"da_scored.jsonl:2: found .* expected one JSON object a line"):
        import_scores.run(**arguments)


def test_files_that_are_not_parallel_are_refused(tmp_path: Path) -> None:
    arguments = files(tmp_path, [answer("hej", "a", 1)])
    jsonl(tmp_path / "en.jsonl", [original("HEJ")])
    with pytest.raises(ValueError, match=r"found \{'da': 2, 'en': 1\} lines; expected the same number"):
        import_scores.run(**arguments)


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("original", ["da"], "expected LANG=FILE"),
        ("scored", ["xx=f"], "found 'xx'"),
        ("scored", ["en=f", "en=g"], "each once"),
    ],
)
def test_wrong_flags_are_refused(tmp_path: Path, flag: str, value: list[str], words: str) -> None:
    arguments = files(tmp_path, [answer("hej", "a", 1)]) | {flag: value}
    with pytest.raises(ValueError, match=words):
        import_scores.run(**arguments)
