"""The bench of sampling at a tiny size. No time is asserted."""

import json
from pathlib import Path

import pytest

from bench import sampling
from bench.measuring import Setting


@pytest.mark.engine
def test_every_side_answers_the_same_prompts_in_every_round(tmp_path: Path) -> None:
    toy, work = tmp_path / "toy", tmp_path / "work"
    toy.mkdir()
    chats = [[{"role": "user", "content": f"Count to {n}"}, {"role": "assistant", "content": "1"}] for n in range(8)]
    (toy / "instructions.jsonl").write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in chats))
    work.mkdir()
    found = sampling.run(Setting(toy, work, quick=True))

    assert [row["side"] for row in found.detail["runs"]] == [sampling.PLAIN, sampling.TOLD, "folder", "S3"]
    amounts = {row["side"]: row["amount"] for row in found.detail["runs"]}
    assert amounts["folder"] == amounts["S3"] == amounts[sampling.TOLD]
    assert all(0 < amount <= 4 * 64 * 40 for amount in amounts.values())
    figures = [(figure.unit, figure.at_least) for figure in found.figures]
    assert figures == [("x reference", None), *[("x reference", 0.97), ("share", 0.97)] * 2]
    assert all(0 < figure.value < 1 for figure in found.figures if figure.unit == "share")
    assert (found.detail["prompts"], found.detail["config"]["n"]) == (4, 64)
