"""The bench of sampling: its numbers by hand, then all of it at a tiny size. No time is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import objectstore
import pytest
import sampling
import tiny

from croco.store import open_store


def test_ratios_are_of_runs_in_the_same_round() -> None:
    def run(number: int, side: str, seconds: float) -> dict[str, object]:
        return {"round": number, "side": side, "tokens": 1200, "seconds": seconds}

    runs = [run(0, "plain", 3), run(0, "folder", 4), run(1, "folder", 6), run(1, "plain", 6), run(2, "plain", 2)]
    summary = sampling.summarize([*runs, run(2, "folder", 4)])

    assert summary["plain"]["tokens_per_second"] == {"median": 400, "low": 200, "high": 600}
    assert summary["folder"]["tokens_per_second"] == {"median": 300, "low": 200, "high": 300}
    assert summary["folder"]["ratio"] == {"median": 0.75, "low": 0.5, "high": 1.0}
    row = ["folder", "300", "200", "300", "0.750", "0.500", "1.000"]
    assert sampling.table(summary).splitlines()[2].split() == row


@pytest.mark.engine
def test_every_side_answers_the_same_prompts_in_every_round(tmp_path: Path, s3: objectstore.S3) -> None:
    chats = [[{"role": "user", "content": f"Count to {n}"}, {"role": "assistant", "content": "1"}] for n in range(4)]
    source, out = tmp_path / "instructions.jsonl", tmp_path / "bench" / "sampling.json"
    source.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in chats))
    flags = {
        "--policy": tiny.policy(tmp_path / "policy"), "--source": source, "--out": out, "--store": s3.location,
        "--prompts": 4, "--n": 2, "--max-tokens": 8, "--shard-prompts": 2, "--repetitions": 2,
    }  # fmt: skip
    command = [sys.executable, sampling.__file__, *(str(part) for flag in flags.items() for part in flag)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(out.read_text())
    sides = [(row["round"], row["side"]) for row in found["runs"]]
    assert sides == [(0, "plain"), (0, "folder"), (0, "s3"), (1, "folder"), (1, "s3"), (1, "plain")]
    (tokens,) = {row["tokens"] for row in found["runs"]}
    assert 0 < tokens <= 4 * 2 * 8
    assert found["summary"] == sampling.summarize(found["runs"])
    assert set(found["machine"]) == {"cpu", "cores", "threads", "gpu", "python", "libraries"}
    assert found["machine"]["libraries"].keys() >= {"croco", "pyarrow", "torch"}
    assert (found["prompts"], found["config"]["n"], found["target"]) == (4, 2, 0.97)
    said = run.stdout.splitlines()
    assert [line.split()[0] for line in said] == ["side", "plain", "folder", "s3", "folder:", "s3:"]
    assert list(open_store(s3.location).entries()) == [], "what was measured is removed from a store that others use"
