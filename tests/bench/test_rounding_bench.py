"""The bench of rounding, at a tiny size."""

import json
from pathlib import Path

import pytest
import tiny

from bench import quick


@pytest.mark.engine
def test_sampling_and_the_references_pass_differ_by_rounding_alone(tmp_path: Path) -> None:
    tiny.policy(tmp_path / "policy")
    chats = [[{"role": "user", "content": f"Count to {n}"}, {"role": "assistant", "content": "1"}] for n in range(4)]
    (tmp_path / "instructions.jsonl").write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in chats))
    figures, detail = quick.run("rounding", tmp_path)
    single, half, sampled, passed = figures.values()
    assert 0 <= single < 1e-4 < half < 10
    assert sampled > single and passed > single
    assert detail["float32"]["answers"] == 16 and detail["float32"]["nats"] < -10
