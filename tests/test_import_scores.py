"""Import: the paper's scored JSONL becomes datasets that `pair` takes; what cannot be placed is refused with counts."""

import json
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
    rows = [answer("hej", f"svar {i}", i + 0.5) for i in range(4)] + [
        answer("farvel", f"nej {i}", -i - 1) for i in range(4)
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
        -1.0,
        "d",
    )


@pytest.mark.filterwarnings("ignore:pools have")
def test_a_failed_score_is_counted_and_pair_counts_its_answer_as_unscored(tmp_path: Path) -> None:
    rows = [answer("hej", "a", -999.0), answer("hej", "b", 1.5), answer("farvel", "c", -999), answer("hej", "d", 1)]
    import_scores.run(**files(tmp_path, rows))
    out = tmp_path / "out"
    scores = dataset.read(out / "scores", "scores").to_pylist()
    assert [(row["sample_index"], row["reward"]) for row in scores] == [(1, 1.5), (2, 1.0)]
    assert dataset.load_manifest(out / "scores").counts == [dataset.Count("scores", "da", 4, 2, {"failed_score": 2})]
    assert dataset.load_manifest(out / "samples").counts == [dataset.Count("answers", "da", 4, 4)]
    names = ("prompts", "samples", "scores")
    manifest = pair.run(**{name: [out / name] for name in names}, out=tmp_path / "pairs")  # type: ignore[arg-type]
    (answers,) = [count for count in manifest.counts if (count.unit, count.language) == ("answers", "da")]
    assert (answers.rows_in, answers.dropped) == (4, {"unscored": 2})


def test_an_answer_without_text_is_counted_and_dropped_with_its_score(tmp_path: Path) -> None:
    rows = [answer("hej", "", 3), answer("hej", " \n", -999.0), answer("hej", "b", 1), answer("hej", "c", -999.0)]
    import_scores.run(**files(tmp_path, rows))
    out = tmp_path / "out"
    samples = dataset.read(out / "samples", "samples").to_pylist()
    assert [(row["sample_index"], row["text"]) for row in samples] == [(2, "b"), (3, "c")]
    assert dataset.load_manifest(out / "samples").counts == [dataset.Count("answers", "da", 4, 2, {"empty": 2})]
    assert dataset.load_manifest(out / "scores").counts == [dataset.Count("scores", "da", 2, 1, {"failed_score": 1})]


def test_a_score_of_exactly_0_is_kept_with_a_warning(tmp_path: Path) -> None:
    rows = [answer("hej", "a", 0.0), answer("hej", "b", 0), answer("hej", "c", 0.25)]
    with pytest.warns(UserWarning, match=r"found \{'da': 2\} of exactly 0.0, .* they are kept"):
        manifest = import_scores.run(**files(tmp_path, rows))
    assert manifest.counts == [dataset.Count("scores", "da", 3, 3)] and len(manifest.warnings) == 1


def test_a_language_without_answers_is_refused(tmp_path: Path) -> None:
    for content in ("", "\n \n"):
        arguments = files(tmp_path, [])
        (tmp_path / "da_scored.jsonl").write_text(content)
        with pytest.raises(ValueError, match=r"da_scored.jsonl: found no line; expected one JSON object"):
            import_scores.run(**arguments)
    with pytest.raises(ValueError, match=r"da.jsonl: found no line; expected one JSON object"):
        import_scores.run(**files(tmp_path, [answer("hej", "a", 1)], originals=()))


def test_a_language_whose_every_score_failed_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found no scores to write; .* \{'failed_score': 1\}"):
        import_scores.run(**files(tmp_path, [answer("hej", "a", -999.0)]))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name in ("da_scored.jsonl", "en.jsonl"):
        arguments = files(tmp_path, [answer("hej", "a", 1)])
        (tmp_path / name).unlink()
        with pytest.raises(FileNotFoundError, match=rf"{name}: found no file; expected one JSON object"):
            import_scores.run(**arguments)


def test_blank_lines_are_no_answers_but_keep_their_numbers(tmp_path: Path) -> None:
    arguments = files(tmp_path, [])
    lines = [json.dumps(answer("hej", "a", 1)), "", json.dumps(answer("hej", "b", 2)), "  "]
    (tmp_path / "da_scored.jsonl").write_text("\n".join(lines) + "\n")
    assert import_scores.run(**arguments).rows == 2
    (tmp_path / "da_scored.jsonl").write_text("\n".join([*lines, json.dumps(answer("hej", "c", None))]))
    with pytest.raises(ValueError, match=r"da_scored.jsonl:5: found reward_score None"):
        import_scores.run(**arguments)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_blank_line_among_originals_is_refused(tmp_path: Path, at: int) -> None:
    arguments = files(tmp_path, [answer("hej", "a", 1)])
    for name in ("da.jsonl", "en.jsonl"):
        lines = (tmp_path / name).read_text().splitlines()
        (tmp_path / name).write_text("\n".join([*lines[:at], " ", *lines[at:]]) + "\n")
    with pytest.raises(ValueError, match=rf"da.jsonl:{at + 1}: found a blank line; expected none"):
        import_scores.run(**arguments)


@pytest.mark.parametrize("name", ["domain", "source_dataset"])
def test_an_originals_facts_are_text_or_null(tmp_path: Path, name: str) -> None:
    arguments = files(tmp_path, [answer("hej", "a", 1)])
    jsonl(tmp_path / "da.jsonl", [original("hej") | {name: None}, original("farvel") | {name: ["x"]}])
    with pytest.raises(ValueError, match=rf"da.jsonl:2: found \{{'{name}': \['x'\]\}}; expected text or null"):
        import_scores.run(**arguments)


def test_bytes_that_are_not_utf_8_name_their_line(tmp_path: Path) -> None:
    arguments = files(tmp_path, [answer("hej", "a", 1)])
    with (tmp_path / "da_scored.jsonl").open("ab") as file:
        file.write(b'{"messages": "\xff"}\n')
    with pytest.raises(ValueError, match=r"da_scored.jsonl:2: found bytes that are not UTF-8"):
        import_scores.run(**arguments)


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
        ([answer("hej", "a", float("nan"))], ("hej", "x"), r"scored.jsonl:1: found reward_score nan"),
        ([answer("hej", "a", 10**400)], ("hej", "x"), r"scored.jsonl:1: found reward_score 1000"),
        ([{"no": 1}], ("hej", "x"), r"scored.jsonl:1: found no list of messages"),
        ([{"messages": ["hej"]}], ("hej", "x"), r"scored.jsonl:1: found no list of messages"),
        (["hej"], ("hej", "x"), r"scored.jsonl:1: found no list of messages"),
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
    with pytest.raises(ValueError, match=r"da_scored.jsonl:2: found malformed JSON .* expected JSON"):
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
