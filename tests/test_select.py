"""Select: references or the best of n become SFT rows, and what has neither is counted."""

import math
from pathlib import Path
from typing import Any

import pytest
from conftest import DatasetOf

from croco import dataset, select
from croco.index import Index
from croco.select import SelectConfig
from croco.writer import Writer

PROMPT = {"source_dataset": None, "domain": None, "split": "train"}


def prompt(prompt_id: str, language: str, reference: str | None = None) -> dict[str, Any]:
    turns = [{"role": "user", "content": f"{prompt_id} {language}"}]
    return PROMPT | {"prompt_id": prompt_id, "language": language, "messages": turns, "reference": reference}


def scored(
    dataset_of: DatasetOf, rewards: dict[tuple[str, str], list[float]], cut: tuple[str, str, int]
) -> dict[str, list[Path]]:
    keys = [
        {"prompt_id": p, "language": code, "sample_index": i}
        for (p, code), row in rewards.items()
        for i in range(len(row))
    ]
    samples = [
        k | {"text": f"{k['language']} {k['sample_index']}", "token_ids": [], "seed": 0, "identified": k["language"],
             "finish_reason": "length" if tuple(k.values()) == cut else "stop"}
        for k in keys
    ]  # fmt: skip
    scores = [k | {"reward": rewards[k["prompt_id"], k["language"]][k["sample_index"]]} for k in keys]
    return {
        "prompts": [dataset_of("prompts", [prompt(p, code) for p, code in rewards])],
        "samples": [dataset_of("samples", samples)],
        "scores": [dataset_of("scores", scores)],
    }


def test_references_become_completions_and_missing_ones_are_counted(dataset_of: DatasetOf, tmp_path: Path) -> None:
    prompts = dataset_of("prompts", [prompt("p", "da", "svar"), prompt("q", "da"), prompt("p", "en", "answer")])
    manifest = select.run(prompts=[prompts], out=tmp_path / "sft")
    rows = dataset.read(tmp_path / "sft", "sft").to_pylist()
    assert [(r["prompt_id"], r["language"], r["completion"], r["reward"]) for r in rows] == [
        ("p", "da", "svar", None), ("p", "en", "answer", None),
    ]  # fmt: skip
    assert manifest.counts[0].dropped == {"no_reference": 1}


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({}, [("p", "da", "da 1", 2.0), ("p", "de", "de 0", 3.0)]),  # da 0 is cut; of the equal de the first
        ({"cut_may_win": True}, [("p", "da", "da 0", 9.0), ("p", "de", "de 0", 3.0)]),
        ({"pool": "all"}, [("p", "de", "de 0", 3.0)]),
    ],
)
def test_the_best_answer_wins(
    dataset_of: DatasetOf, tmp_path: Path, knobs: dict[str, Any], expected: list[tuple]
) -> None:
    inputs = scored(dataset_of, {("p", "da"): [9.0, 2.0, 1.0], ("p", "de"): [3.0, 3.0, 0.0]}, cut=("p", "da", 0))
    select.run(**inputs, out=tmp_path / "sft", config=SelectConfig(completion="best", **knobs))
    rows = dataset.read(tmp_path / "sft", "sft").to_pylist()
    assert [(r["prompt_id"], r["language"], r["completion"], r["reward"]) for r in rows] == expected
    assert rows[0]["prompt"] == [{"role": "user", "content": f"p {expected[0][1]}"}]


def test_what_the_best_is_chosen_from_is_counted(dataset_of: DatasetOf, tmp_path: Path) -> None:
    inputs = scored(dataset_of, {("p", "da"): [1.0, math.nan], ("q", "da"): [math.nan]}, cut=("p", "da", 0))
    with pytest.raises(ValueError, match=r"found no rows to write.*'none_choosable': 1"):
        select.run(**inputs, out=tmp_path / "sft", config=SelectConfig(completion="best"))
    manifest = select.run(**inputs, out=tmp_path / "sft", config=SelectConfig(completion="best", cut_may_win=True))
    assert [(c.unit, c.rows_in, c.rows_out, c.dropped) for c in manifest.counts] == [
        ("rows", 2, 1, {"none_scored": 1}),
        ("answers", 3, 1, {"reward_not_finite": 2}),
    ]


def test_best_without_scores_is_refused(dataset_of: DatasetOf, tmp_path: Path) -> None:
    prompts = dataset_of("prompts", [prompt("p", "da", "svar")])
    with pytest.raises(ValueError, match="found 'best' with 0 samples and 0 scores"):
        select.run(prompts=[prompts], out=tmp_path / "sft", config=SelectConfig(completion="best"))


@pytest.mark.parametrize("pool", ["language", "all"])
def test_a_slab_a_prompt_gives_the_same_bytes(dataset_of: DatasetOf, tmp_path: Path, pool: str) -> None:
    rewards = {
        (f"p{n}", code): [float((7 * n + 3 * i + (code == "de")) % 5) for i in range(3)]
        for n in range(10)
        for code in ("da", "de")
    }
    inputs, config = scored(dataset_of, rewards, cut=("p0", "da", 0)), SelectConfig(completion="best", pool=pool)
    whole = select.run(**inputs, out=tmp_path / "whole", config=config)
    index = Index(dataset.read(inputs["prompts"], "prompts", ["prompt_id", "language"]), 2**40)
    assert index.slabs == 10
    every = [path for paths in inputs.values() for path in paths]
    writer = Writer(tmp_path / "dealt", "sft", stage="select", version=select.VERSION, config=config, inputs=every)
    assert writer.finish(select.best(writer, index, **inputs, config=config)).digest == whole.digest


def test_a_part_of_the_answers_or_references_can_be_asked_for(dataset_of: DatasetOf, tmp_path: Path) -> None:
    inputs = scored(dataset_of, {("p", "da"): [1.0, 2.0, 9.0], ("p", "de"): [3.0, 0.0]}, cut=("q", "da", 0))
    config = SelectConfig(completion="best", languages=("da",), n=2)
    manifest = select.run(**inputs, out=tmp_path / "best", config=config)
    assert [row["completion"] for row in dataset.read(tmp_path / "best", "sft").to_pylist()] == ["da 1"]
    assert {count.language: count.dropped for count in manifest.counts if count.unit == "answers"} == {
        "da": {"left_out": 1}, "de": {"left_out": 2},
    }  # fmt: skip
    prompts = dataset_of("prompts", [prompt("p", "da", "svar"), prompt("p", "en", "answer")], "references")
    select.run(prompts=[prompts], out=tmp_path / "sft", config=SelectConfig(languages=("en",)))
    assert [row["completion"] for row in dataset.read(tmp_path / "sft", "sft").to_pylist()] == ["answer"]
