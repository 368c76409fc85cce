"""The bench of sampling at a tiny size. No time is asserted."""

import json
from pathlib import Path

import pytest

from bench import sampling
from bench.measuring import Setting


@pytest.mark.engine
def test_a_rival_answers_what_the_stage_does_at_every_shard(tmp_path: Path) -> None:
    toy, work = tmp_path / "toy", tmp_path / "work"
    toy.mkdir()
    chats = [[{"role": "user", "content": f"Count to {n}"}, {"role": "assistant", "content": "1"}] for n in range(8)]
    (toy / "instructions.jsonl").write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in chats))
    work.mkdir()
    found = sampling.run(Setting(toy, work, quick=True))

    runs = {(row["side"], row["round"]): row for row in found.detail["runs"]}
    rivals = {"folder": sampling.PLAIN, "S3": sampling.TOLD}
    sides = [side for name, rival in rivals.items() for side in (name, f"{name}, generate alone", rival)]
    assert list(runs) == [(side, number) for side in sides for number in (0, 1)]
    for name, rival in rivals.items():
        stage, alone, other = ([runs[side, n] for n in (0, 1)] for side in (name, f"{name}, generate alone", rival))
        assert [row["amount"] for row in stage] == [row["amount"] for row in alone]
        beside = [row["seconds"] - call["seconds"] for row, call in zip(stage, alone, strict=True)]
        assert beside[0] == pytest.approx(beside[1]) and beside[0] > 0  # what is once a run is shared out
        assert all(0 < row["amount"] <= 64 * 40 and row["seconds"] > 0 for row in other)
    with_seeds = [runs["S3", number]["amount"] for number in (0, 1)]
    assert with_seeds == [runs[sampling.TOLD, number]["amount"] for number in (0, 1)]  # seeds fix the answers
    figures = [(figure.unit, figure.at_least) for figure in found.figures]
    assert figures == [("x reference", 0.97), ("share", 0.97), ("share", 0.97), ("x reference", None)]
    assert all(0 < figure.value < 1 for figure in found.figures if figure.unit == "share")
    assert (found.detail["prompts"], found.detail["config"]["n"]) == (2, 64)
