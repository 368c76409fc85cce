"""Runs: a report says what changed since the last run of its line, which the parameters alone do not tell."""

import html
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from croco import dataset, report, runs
from croco.storage import Gc, Verify
from croco.store import Store, open_store
from croco.writer import Writer
from tests import chromium, reported
from tests.conftest import DatasetOf
from tests.reported import HOSTILE, pair, wrote

COMMITS = {letter: letter * 40 for letter in "abcdef"}
DATE = r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"
SINCE = f"Since the last run under croco that differed from this one, of {DATE}, "


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def ran(folder: Path, count: int = 20_000, source: str = "a", policy: str = "b", made: str = "1") -> dict[str, Any]:
    """What `prepare`, `benchmark` of both models and `train` leave of a run."""
    began = {"id": "lab/policy", "revision": COMMITS.get(policy, policy)}
    sha256 = made * 64
    folders = {name: folder / name for name in ("prompts", "training", "benchmarks_base", "benchmarks_tuned")}
    prepared = Writer(folders["prompts"], "prompts", stage="prepare", version=1, config={"count": count, "seed": 0})
    prompt = {"prompt_id": "p0", "language": "en", "messages": [{"role": "user", "content": f"Why {count}?"}],
              "reference": None, "source_dataset": None, "domain": None, "split": "train"}  # fmt: skip
    prepared.add([prompt])
    identity = {"id": "lab/data", "revision": COMMITS.get(source, source)}
    prepared.finish([dataset.Count("prompts", "en", 1, 1)], metrics={"source": identity})
    trained = Writer(folders["training"], None, stage="train", version=1, config={"beta": 0.1})
    (trained.out / "metrics.jsonl").write_text(f'{{"step": 1, "loss": 0.{made}}}\n', encoding="utf-8")
    trained.attach(trained.out / "metrics.jsonl")
    trained.finish([], models={"base": began}, metrics={"merged_sha256": sha256})
    for side, model in (("base", began), ("tuned", {"id": "merged", "sha256": sha256})):
        scored = Writer(folders[f"benchmarks_{side}"], "benchmarks", stage="benchmark", version=1, config={"names": []})
        scored.add([reported.score("mcc", 50.0 + int(made), 1.0)])
        scored.finish([dataset.Count("benchmarks", "da", 1, 1)], models={"policy": model})
    return {**folders, "prompts": [folders["prompts"]]}


def pages(out: Path, store: Store, inputs: Mapping[str, Any], **more: Any) -> tuple[dict[str, Any], str, str]:
    """A report's `changes`, its page and its Markdown, as people read them."""
    report.run(out=out, store=store.location, **inputs, **more)
    numbers = json.loads((out / "report.json").read_text(encoding="utf-8"))
    page, text = ((out / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    return numbers["changes"], html.unescape(page), html.unescape(text).replace("\\", "")


def test_a_report_says_what_is_other_than_in_the_last_run(store: Store, tmp_path: Path) -> None:
    first, page, text = pages(tmp_path / "one", store, ran(tmp_path / "1"))
    nothing = "There is no earlier run under this name, croco."
    assert first == {"line": "croco", "text": nothing, "changes": []}
    assert nothing in page and nothing in text
    second = ran(tmp_path / "2", count=30_000, source="c", policy="d", made="2")
    found, page, text = pages(tmp_path / "two", store, second)
    assert re.fullmatch(f"{SINCE}this changed:", found["text"])
    assert [row["text"] for row in found["changes"]] == [
        "source revision aaaaaaaaaaaa → cccccccccccc (prepare)",
        "policy revision bbbbbbbbbbbb → dddddddddddd (train, benchmark base)",
        "count 20,000 → 30,000 (prepare)",
    ]
    assert found["changes"][1]["before"] == [COMMITS["b"]] and found["changes"][1]["after"] == [COMMITS["d"]]
    summary = page[page.index('<section id="summary"') : page.index('<section id="benchmarks"')]
    for row in found["changes"]:
        assert f"<li>{row['text']}</li>" in summary
        assert f"\n- {row['text']}\n" in text
    assert "There is no earlier run" not in page + text


def test_models_that_a_run_made_are_no_difference(store: Store, tmp_path: Path) -> None:
    pages(tmp_path / "one", store, ran(tmp_path / "1"))
    found, page, text = pages(tmp_path / "two", store, ran(tmp_path / "2", made="2"))
    assert re.fullmatch(f"{SINCE}nothing changed but the models that were made\\.", found["text"])
    assert found["changes"] == []
    assert found["text"] in page[page.index('<section id="provenance"') :] and found["text"] in text
    found, *_ = pages(tmp_path / "three", store, ran(tmp_path / "3", made="2"), config=report.ReportConfig(title="New"))
    assert re.fullmatch(f"{SINCE}nothing changed\\.", found["text"])


def test_a_run_that_does_not_differ_takes_its_report_from_the_store(store: Store, tmp_path: Path) -> None:
    inputs = ran(tmp_path / "1")
    pages(tmp_path / "one", store, inputs)
    other, *_ = pages(tmp_path / "two", store, ran(tmp_path / "2", count=2, made="2"))
    again, *_ = pages(tmp_path / "three", store, inputs)
    assert again["text"] == "There is no earlier run under this name, croco."
    assert (tmp_path / "one" / "report.html").read_bytes() == (tmp_path / "three" / "report.html").read_bytes()
    found, *_ = pages(tmp_path / "four", store, ran(tmp_path / "4", count=3, made="3"))
    texts = [row["text"] for row in (*other["changes"], *found["changes"])]
    assert texts == ["count 20,000 → 2 (prepare)", "count 20,000 → 3 (prepare)"]  # of the run before each


def test_each_line_has_its_own_last_run(store: Store, tmp_path: Path) -> None:
    pages(tmp_path / "one", store, ran(tmp_path / "1"))
    inputs = ran(tmp_path / "2", count=2)
    danish, *_ = pages(tmp_path / "two", store, inputs, line="croco-da")
    unnamed, *_ = pages(tmp_path / "three", store, inputs, line="")
    assert danish["text"] == "There is no earlier run under this name, croco-da."
    assert [row["text"] for row in unnamed["changes"]] == ["count 20,000 → 2 (prepare)"]
    with pytest.raises(ValueError, match=r"found '\.\./croco'; expected 2 to 63 lower-case letters"):
        report.run(out=tmp_path / "four", line="../croco", **inputs)


def test_without_a_store_nothing_is_said_of_other_runs(dataset_of: DatasetOf, tmp_path: Path) -> None:
    report.run(out=tmp_path / "out", pairs=dataset_of("pairs", [pair(0, ("da", 1.0), ("da", 0.0))]))
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["changes"] is None
    assert "earlier run" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_hostile_values_of_either_run_are_only_text(store: Store, tmp_path: Path) -> None:
    pages(tmp_path / "one", store, ran(tmp_path / "1", policy=HOSTILE + "first"))
    report.run(out=tmp_path / "two", store=store.location, **ran(tmp_path / "2", policy=HOSTILE + "second", made="2"))
    page, text = ((tmp_path / "two" / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    shown = page[page.index("What changed since the last run") : page.index('<section id="benchmarks"')]
    assert "<script" not in page + text and "<img" not in page + text
    assert shown.count("&lt;script&gt;alert(1)&lt;/script&gt; {{ 7 * 7 }}") == 2
    assert shown.count("⟨U+202E⟩dehcated⟨U+202C⟩") == 2
    assert not re.search(r"(?<!\\)\]\(", text)


@pytest.mark.browser
def test_long_values_fit_a_phone(store: Store, tmp_path: Path) -> None:
    pages(tmp_path / "one", store, ran(tmp_path / "1", policy="x" * 1000))
    pages(tmp_path / "two", store, ran(tmp_path / "2", policy="y" * 1000, made="2"))
    with chromium.tab(tmp_path / "profile") as tab:
        tab.look(width=375, scheme="dark")
        tab.go(tmp_path / "two" / "report.html")
        assert "y" * 1000 in tab.run("document.querySelector('#summary').textContent")
        assert tab.run("document.documentElement.scrollWidth") == 375
        assert tab.faults() == []


@pytest.mark.parametrize("record", ["not JSON", [], {"version": 0}, {"version": 1, "made": [], "stages": {"train": 0}}])
def test_a_damaged_record_is_said_to_be_and_replaced(record: Any, store: Store, tmp_path: Path) -> None:
    if isinstance(record, str):
        (tmp_path / "store" / "runs").mkdir(parents=True)
        (tmp_path / "store" / "runs" / "croco.json").write_text(record)
    else:
        store.write("runs/croco.json", record)
    with pytest.warns(UserWarning, match="runs/croco.json: found .*; expected the record of a run"):
        found, page, _ = pages(tmp_path / "one", store, ran(tmp_path / "1"))
    assert found["text"] == "The record of the last run under croco is damaged: what changed since is not known."
    assert found["text"] in page
    found, *_ = pages(tmp_path / "two", store, ran(tmp_path / "2", count=2))
    assert [row["text"] for row in found["changes"]] == ["count 20,000 → 2 (prepare)"]


def test_a_report_that_is_not_made_leaves_the_record_as_it_was(store: Store, tmp_path: Path) -> None:
    pages(tmp_path / "one", store, ran(tmp_path / "1"))
    before = store.read("runs/croco.json")
    inputs = ran(tmp_path / "2", count=2)
    (inputs["training"] / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"metrics\.jsonl"):
        report.run(out=tmp_path / "two", store=store.location, **inputs)
    assert store.read("runs/croco.json") == before


def test_the_record_stays_when_what_is_unused_goes(store: Store, tmp_path: Path) -> None:
    pages(tmp_path / "one", store, ran(tmp_path / "1"))
    for file in (tmp_path / "store").rglob("*"):
        os.utime(file, (0, 0))
    Gc(store.location, days=30, delete=True).run(store)
    assert [entry.name for entry in store.entries()] == ["runs/croco.json"]
    Verify(store.location).run(store)


def test_tasks_that_share_a_stage_are_one_stage() -> None:
    def record(*shares: tuple[str, ...]) -> dict[str, Any]:
        made = [wrote("translate", config={"languages": list(share), "n": 1, "limit": None}) for share in shares]
        return runs.made_with([("prompts", manifest) for manifest in made])

    assert runs.differences(record(("nl", "da"), ("de",)), record(("da", "de", "nl"))) == []
    (row,) = runs.differences(record(("da", "nl")), record(("da",), ("nl",), ("fr",)))
    assert row["text"] == "languages da, nl → da, fr, nl (translate)"


def test_revisions_are_told_by_what_they_name_and_null_is_none() -> None:
    def record(revision: str, limit: int | None, image: str, vllm: str) -> dict[str, Any]:
        config = {"questions_revision": revision, "limit": limit}
        libraries, questions = {"image": image, "vllm": vllm}, {"id": "q", "revision": COMMITS["a"]}
        manifests = [wrote(stage, config=config, libraries=libraries, metrics={"questions": questions}, models={})
                     for stage in ("answer", "arena")]  # fmt: skip
        return runs.made_with(list(zip(("answers, base", "verdicts"), manifests, strict=True)))

    now = record(COMMITS["a"], 9, "croco-gpu 2", "0.12")
    assert [row["text"] for row in runs.differences(record("main", None, "croco-gpu 1", "0.11"), now)] == [
        "limit none → 9 (all stages)",
        "image croco-gpu 1 → croco-gpu 2 (all stages)",
        "vllm version 0.11 → 0.12 (all stages)",
    ]


def test_local_data_and_the_model_promoted_last_are_told() -> None:
    def record(data: str, last: str) -> dict[str, Any]:
        scored = wrote("benchmark", models={}, metrics={"local_data_sha256": {"scala": data * 64}})
        decided = wrote("promote", models={"last": {"sha256": last * 64}, "tuned": {"id": "m", "sha256": "9" * 64}})
        trained = wrote("train", models={}, metrics={"merged_sha256": "9" * 64})
        return runs.made_with([("training", trained), ("benchmarks, base", scored), ("decision", decided)])

    assert [row["text"] for row in runs.differences(record("1", "2"), record("3", "4"))] == [
        "data set scala 111111111111 → 333333333333 (benchmark base)",
        "model promoted last sha256 222222222222 → 444444444444 (promote)",
    ]


def test_a_stage_that_only_one_of_them_ran_is_one_line() -> None:
    one = runs.made_with([("samples", wrote("sample", config={"n": 4}))])
    both = runs.made_with([("samples", wrote("sample", config={"n": 4})), ("pairs", wrote("pair", config={"k": 2}))])
    assert [row["text"] for row in runs.differences(one, both)] == ["stage pair not run → run"]
    assert [row["text"] for row in runs.differences(both, one)] == ["stage pair run → not run"]
