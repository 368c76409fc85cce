"""Datasets: contracts, the conservation law, and everything a reader refuses."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import DatasetOf

from croco import __main__, dataset, rows, show
from croco.dataset import Count, Tally
from croco.writer import Writer

SCORE = {"prompt_id": "p", "language": "da", "sample_index": 0, "reward": 0.5}


@pytest.fixture
def scores(dataset_of: DatasetOf) -> Path:
    return dataset_of("scores", [SCORE, SCORE | {"sample_index": 1}])


def test_what_is_written_is_read_back(scores: Path) -> None:
    table = dataset.read([scores, scores], "scores")
    assert table.schema == rows.CONTRACTS["scores"].schema
    assert table["sample_index"].to_pylist() == [0, 1, 0, 1]
    assert dataset.read(scores, "scores", columns=["reward"]).column_names == ["reward"]


def test_the_same_rows_have_the_same_digest_wherever_they_are_written(tmp_path: Path) -> None:
    digests = []
    for name in "ab":
        writer = Writer(tmp_path / name, "scores", stage="test", version=1, config={"name": name})
        writer.add([SCORE])
        digests.append(writer.finish([Count("scores", "da", 1, 1)]).digest)
    assert digests[0] == digests[1] == dataset.load_manifest(tmp_path / "a").digest


def test_a_missing_manifest_is_refused_and_the_writing_stage_named(scores: Path) -> None:
    (scores / "manifest.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"manifest.json: found no manifest; expected .* of scores; `python -m croco score`"
    ):
        dataset.read(scores, "scores")


def test_a_truncated_parquet_file_is_refused(scores: Path) -> None:
    part = scores / "part-00000.parquet"
    size = part.stat().st_size
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(
        ValueError, match=rf"part-00000.parquet: found {size - 10} bytes.*expected {size} bytes.*run the stage again"
    ):
        dataset.read(scores, "scores")


def test_a_wrong_checksum_is_refused_even_after_a_good_read(scores: Path) -> None:
    dataset.read(scores, "scores")
    part = scores / "part-00000.parquet"
    content = bytearray(part.read_bytes())
    content[20] ^= 1
    part.write_bytes(content)
    with pytest.raises(ValueError, match="sha256"):
        dataset.read(scores, "scores")


def test_a_missing_part_is_refused(scores: Path) -> None:
    (scores / "part-00000.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"part-00000.parquet: found no"):
        dataset.read(scores, "scores")


def test_another_contract_is_refused(scores: Path) -> None:
    with pytest.raises(ValueError, match=r"found a dataset of scores; expected a finished dataset of samples"):
        dataset.read(scores, "samples")


@pytest.mark.parametrize(("edit", "words"), [
    (lambda m: m | {"files": []}, "was edited"),
    (lambda m: {"digest": "x"}, "expected a manifest"),
    (lambda m: m | {"counts": [{"unit": "u", "language": None, "rows_in": 2, "rows_out": 1}]}, "1 are unaccounted"),
])  # fmt: skip
def test_an_edited_manifest_is_refused(scores: Path, edit: Any, words: str) -> None:
    path = scores / "manifest.json"
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=words):
        dataset.load_manifest(scores)


def test_a_manifest_that_is_not_json_is_refused(scores: Path) -> None:
    (scores / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json: found JSONDecodeError.*expected a manifest"):
        dataset.load_manifest(scores)


def test_rows_that_vanish_break_the_law() -> None:
    tally = Tally("answers")
    tally.take("da", 5)
    tally.keep("da", 2)
    tally.drop("da", "cut", 2)
    with pytest.raises(
        ValueError, match=r"answers \(da\): found 5 in, 2 out and {'cut': 2} dropped; .* 1 are unaccounted for"
    ):
        tally.counts()
    tally.drop("da", "empty")
    assert tally.counts() == [Count("answers", "da", 5, 2, {"cut": 2, "empty": 1})]


def test_counted_rows_must_be_the_rows_written(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "out", "scores", stage="test", version=1, config={})
    writer.add([SCORE])
    with pytest.raises(ValueError, match="found 2 scores counted; expected the 1 written"):
        writer.finish([Count("scores", "da", 2, 2)])
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_dataset_without_rows_is_an_error_that_says_where_they_went(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "out", "scores", stage="test", version=1, config={})
    with pytest.raises(ValueError, match=r"found no scores to write; expected at least one; dropped: {'over_long': 3}"):
        writer.finish([Count("scores", "da", 3, 0, {"over_long": 3})])


def test_a_killed_stage_leaves_nothing_a_reader_takes(scores: Path) -> None:
    writer = Writer(scores, "scores", stage="test", version=1, config={})  # starting again removes what was finished
    writer.add([SCORE])
    with pytest.raises(FileNotFoundError):
        dataset.read(scores, "scores")


@pytest.mark.parametrize(("row", "words"), [
    ({"prompt_id": "p"}, "null"),
    (SCORE | {"reward": None}, "scores.reward: found 1 null values; expected none"),
])  # fmt: skip
def test_rows_that_break_their_contract_are_refused(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    writer = Writer(tmp_path / "out", "scores", stage="test", version=1, config={})
    with pytest.raises(ValueError, match=words):
        writer.add([row])


def test_a_dataset_of_an_older_version_says_what_it_lacks(scores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contract = rows.CONTRACTS["scores"]
    newer = contract.schema.append(pa.field("spread", pa.float32()))
    monkeypatch.setitem(rows.CONTRACTS, "scores", dataclasses.replace(contract, schema=newer))
    with pytest.raises(ValueError, match=r"part-.*found no column spread; expected it in scores; .* score` again"):
        dataset.read(scores, "scores")
    assert len(dataset.read(scores, "scores", ["reward"])) == dataset.load_manifest(scores).rows


def test_surplus_columns_are_refused() -> None:
    table = pa.Table.from_pylist([SCORE | {"extra": 1}])
    with pytest.raises(ValueError, match=r"scores: found columns .*extra.*; expected"):
        rows.conform(table, "scores")


def test_a_key_twice_is_refused(scores: Path) -> None:
    with pytest.raises(ValueError, match=r"scores: found 2 rows with .*'prompt_id': 'p'"):
        dataset.unique(dataset.read([scores, scores], "scores"), "scores")


def test_ids_splits_and_seeds_depend_on_their_parts_alone() -> None:
    turns = [{"role": "user", "content": "hej"}]
    assert rows.prompt_id_of(turns) == rows.prompt_id_of([dict(turns[0], other=1)]) != rows.prompt_id_of([])
    assert rows.fraction_of("a", 1) == rows.fraction_of("a", 1) != rows.fraction_of("a1")
    assert 0 <= rows.seed_of("x") < 2**31
    assert sum(rows.fraction_of("split", n) < 0.1 for n in range(5000)) == pytest.approx(500, abs=60)


def test_show_prints_the_manifest_and_no_control_character(
    dataset_of: DatasetOf, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = {"text": "\x1b[2J\u202e", "token_ids": [1], "finish_reason": "stop", "seed": 1, "identified": None}
    path = dataset_of("samples", [{**{k: SCORE[k] for k in ("prompt_id", "language", "sample_index")}, **hostile}])
    show.run(path)
    printed = capsys.readouterr().out
    assert "1 samples written by test" in printed and "\\u001b[2J" in printed
    assert printed.isascii() and "\x1b" not in printed


def test_the_command_line_says_a_mistake_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["show", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"croco show: {tmp_path}/manifest.json: found no manifest; expected")
    assert __main__.main(["nothing"]) == 2 and "found stage 'nothing'" in capsys.readouterr().err
    assert __main__.main([]) == 0 and "prepare" in capsys.readouterr().out
