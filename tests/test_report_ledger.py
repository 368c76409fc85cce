"""The report's ledger: what it took, summed over tasks, and what nobody counted said to be missing."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from croco import dataset, report
from croco.dataset import Spent
from croco.page import ledger, wording
from tests import reported
from tests.conftest import DatasetOf
from tests.reported import numbers_of, wrote

START = Spent(None, seconds=10, gpu_seconds=20, run_seconds=10, bytes_read=100)
DANISH = Spent("da", 5, 50, 60, 120, 60, bytes_written=1000, shards_computed=2)
FOUND = Spent("da", 7, 70, 40, 80, 0, bytes_read=2000, shards_reused=3)
GERMAN = Spent("de", 1, 10, 30, 60, 30, shards_computed=1)


@pytest.fixture
def everything(dataset_of: DatasetOf, tmp_path: Path) -> dict[str, Any]:
    return reported.everything(dataset_of, tmp_path)


def test_the_ledger_sums_a_stage_over_its_tasks_by_language() -> None:
    found = ledger.collect([("samples", wrote("sample", DANISH, START)), ("samples", wrote("sample", FOUND, GERMAN))])
    names = [field.name for field in dataclasses.fields(Spent)][1:]
    (stage,) = found["stages"]
    assert (stage["input"], stage["stage"], stage["at_least"]) == ("samples", "sample", [])
    rows = {row["language"]: [row[name] for name in names] for row in stage["languages"]}
    assert list(rows) == ["da", "de", None]
    assert rows["da"] == [12, 120, 100, 200, 60, 2000, 1000, 2, 3]
    assert rows["de"] == [1, 10, 30, 60, 30, 0, 0, 1, 0]
    assert rows[None] == [None, None, 10, 20, 10, 100, 0, 0, 0]
    assert [stage[name] for name in names] == [13, 130, 140, 280, 100, 2100, 1000, 3, 3]
    assert found["languages"] == stage["languages"]
    assert [found["total"][name] for name in names] == [13, 130, 140, 280, 100, 2100, 1000, 3, 3]


def test_stages_and_both_models_of_a_stage_have_rows_of_their_own_in_the_order_of_the_flow() -> None:
    answers = {"contract": "answers"}
    found = ledger.collect(
        [
            ("samples", wrote("sample", DANISH, START)),
            ("answers, base", wrote("answer", FOUND, START, **answers)),
            ("answers, tuned", wrote("answer", GERMAN, START, **answers)),
        ]
    )
    assert [wording.step(row) for row in found["stages"]] == ["sample", "answer, base", "answer, tuned"]
    assert [row["tokens_out"] for row in found["stages"]] == [50, 70, 10]
    assert [(row["language"], row["tokens_out"], row["seconds"]) for row in found["languages"]] == [
        ("da", 120, 100), ("de", 10, 30), (None, None, 30),
    ]  # fmt: skip


def said(row: dict[str, Any]) -> list[str]:
    return [ledger.tokens(row, name) for name in ledger.TOKENS]


def test_tokens_that_nobody_counted_are_missing_from_a_total_that_says_so() -> None:
    uncounted = wrote("train", Spent(None, seconds=5), contract=None, models={"base": {"id": "m"}})
    scored = wrote("score", Spent("da", 900, 0, 60), Spent("de", None, 0, 60), START, contract="scores")
    found = ledger.collect([("scores", scored), ("training", uncounted)])
    score, training = found["stages"]
    assert said(score) == ["at least 900", "0"]
    assert [(row["language"], *said(row)) for row in score["languages"]] == [
        ("da", "900", "0"), ("de", "unknown", "0"), (None, "–", "–"),
    ]  # fmt: skip
    assert (said(training), said(training["languages"][0])) == (["unknown"] * 2, ["unknown"] * 2)
    assert (training["tokens_in"], training["at_least"]) == (None, ["tokens_in", "tokens_out"])
    assert said(found["total"]) == ["at least 900", "at least 0"]


def test_rows_that_no_model_made_lack_no_tokens() -> None:
    nothing: dict[str, Any] = {"models": {}}
    paired = ("pairs", wrote("pair", Spent("da", seconds=1), START, contract="pairs", **nothing))
    prepared = ("prompts", wrote("prepare", START, contract="prompts", **nothing))
    found = ledger.collect([prepared, ("samples", wrote("sample", DANISH, START)), paired])
    assert [said(row) for row in found["stages"]] == [["–", "–"], ["5", "50"], ["–", "–"]]
    assert said(found["total"]) == ["5", "50"]
    imported = ("samples", wrote("import-scores", START, **nothing))  # whoever made them, a model did
    assert said(ledger.collect([prepared, imported])["total"]) == ["unknown", "unknown"]


def test_a_task_that_had_no_work_leaves_its_stages_tokens_known() -> None:
    found = ledger.collect([("samples", wrote("sample", START)), ("samples", wrote("sample", DANISH, START))])
    assert said(found["stages"][0]) == ["5", "50"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.01, "< 0.1 s"), (0.44, "0.4 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"),
     (247, "4 min 07 s"), (3599.7, "1 h 00 min"), (3600 + 4 * 60 + 29, "1 h 04 min"), (7.2e6, "2,000 h 00 min")],
)  # fmt: skip
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert ledger.duration(seconds) == text.replace(" ", "\u00a0")


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (512, "512 B"), (999, "999 B"), (1000, "1.0 kB"), (1.25e6, "1.2 MB"), (999_960, "1.0 MB"),
     (3.4e9, "3.4 GB"), (5.6e12, "5.6 TB"), (2e15, "2,000.0 TB")],
)  # fmt: skip
def test_bytes_have_decimal_units(number: int, text: str) -> None:
    assert ledger.size(number) == text.replace(" ", "\u00a0")


def test_the_plain_words_say_gpu_hours_and_what_was_reused() -> None:
    spent = Spent(None, 1, 1, 18_000, 36_360, 130, shards_computed=12, shards_reused=1400)
    (words, rest) = ledger.took(dataclasses.asdict(spent)).replace("\u00a0", " ").split(". The ")
    assert words == "Making what is reported here took 10.1 GPU hours (5 h 00 min of work), whichever run did it"
    assert rest == (
        "runs that wrote it worked for 2 min 10 s; of 1,412 shards of work they found 1,400 done and computed 12."
    )
    assert ledger.took(dataclasses.asdict(Spent(None, seconds=3, run_seconds=3))).replace("\u00a0", " ") == (
        "Making what is reported here took no GPU time (3.0 s of work), whichever run did it. "
        "The runs that wrote it worked for 3.0 s."
    )
    assert ledger.gpu_hours(60) == "less than 0.1 GPU hours"


def changed(directory: Path, out: Path, **spent: Any) -> Path:
    """The same data set, but for what it took."""
    shutil.copytree(directory, out)
    manifest = dataset.load_manifest(directory)
    path = out / dataset.MANIFEST
    path.write_text(dataclasses.replace(manifest, ledger=[Spent(**spent)]).to_json(), encoding="utf-8")
    return out


def test_the_page_the_markdown_and_the_json_show_the_ledger(everything: dict[str, Any], tmp_path: Path) -> None:
    spent = {"language": "da", "tokens_in": 1234, "seconds": 3840, "gpu_seconds": 7680, "run_seconds": 2}
    moved = {"bytes_read": 1_500_000, "bytes_written": 700, "shards_computed": 4, "shards_reused": 5}
    samples = changed(everything["samples"][0], tmp_path / "changed", **spent, **moved)
    numbers = numbers_of(tmp_path / "out", samples=[samples])
    row = {**spent, "tokens_out": None, **moved, "at_least": ["tokens_out"]}
    assert numbers["ledger"]["languages"] == [row]
    assert numbers["ledger"]["total"] == {name: value for name, value in row.items() if name != "language"}
    cells = ["2 h 08 min", "1 h 04 min", "1,234", "unknown", "2.0 s", "1.5 MB", "700 B", "4", "5"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    page = page[page.index('<section id="ledger"') :]
    heads = re.findall(
        r'<th scope="row">([^<]*)</th>((?:\s*<td class="n">[^<]*</td>)*)', page[: page.index("</section>")]
    )
    assert [name for name, _ in heads] == ["test", "All stages", "Danish", "Danish"]
    assert all(re.findall(">([^<]+)</td>", found) == cells for _, found in heads)
    assert "took 2.1 GPU hours (1 h 04 min of work)" in page
    lines = (tmp_path / "out" / "report.md").read_text(encoding="utf-8").splitlines()
    table = lines[lines.index("## What it took") :]
    assert "took 2.1 GPU hours (1 h 04 min of work)" in table[2]
    row_of = [
        f"| {name} | {' | '.join(cells)} |" for name in ("test", "all stages", "test, Danish", "all stages, Danish")
    ]
    assert (table[8:10], table[15:17]) == (row_of[:2], row_of[2:])


def test_a_run_that_found_everything_done_shows_the_same_page(everything: dict[str, Any], tmp_path: Path) -> None:
    def again(given: Any, name: str) -> Any:
        if isinstance(given, list):
            return [again(part, f"{name}-{at}") for at, part in enumerate(given)]
        spent = {"language": None, "seconds": 60.0, "run_seconds": 0.1, "shards_reused": 2}
        return changed(given, tmp_path / "again" / name, **spent)

    second = {name: again(given, name) for name, given in everything.items()}
    for name, inputs in {"first": everything, "second": second}.items():
        report.run(out=tmp_path / name, store=str(tmp_path / "store"), **inputs)
    report.run(out=tmp_path / "without a store", **second)
    for page in ("report.html", "report.md", "report.json"):
        first, restored, made = (tmp_path / name / page for name in ("first", "second", "without a store"))
        assert first.read_bytes() == restored.read_bytes() != made.read_bytes()
    ledger = json.loads((tmp_path / "without a store" / "report.json").read_text(encoding="utf-8"))["ledger"]
    assert (ledger["total"]["shards_computed"], ledger["total"]["shards_reused"]) == (0, 22)
