"""The bench of DPO: its limits by hand, then all of it at a tiny size. No time is asserted."""

from pathlib import Path

import pytest

from bench import dpo, quick


def test_the_limit_counts_padded_tokens_four_times_against_ours_three_times() -> None:
    assert dpo.limit([(512, 256, 256)], checkpointing=True) == 8 * 768 / (3 * 1024) == 2
    assert dpo.limit([(512, 256, 256)] * 3, checkpointing=False) == 1.5
    # 2 x (4 + 3) and 2 x (2 + 2) padded tokens; 4 + 3 + 1 and 2 + 1 + 2 of ours
    assert dpo.limit([(4, 3, 1), (2, 1, 2)], checkpointing=True) == 4 * 22 / (3 * 13)


@pytest.mark.engine
def test_all_sides_come_to_the_same_losses_and_memory_does_not_hold_the_logits(tmp_path: Path) -> None:
    figures, detail = quick.run("dpo", tmp_path)
    for case in ("512/128", "about 512/256"):
        assert figures[f"{case}: largest difference of losses"] < 1e-5
        runs = detail[case]["runs"]
        assert [(run["side"], run["amount"]) for run in runs] == [(side, 2) for side in ("ours", "released", "stock")]
        ratio = runs[1]["seconds"] / runs[0]["seconds"]
        assert figures[f"{case}: pairs a second"] == pytest.approx(ratio)
    # held, logits and their gradients would be 2 or more
    assert figures["what a vocabulary of 131,072 for 32,768 adds to the peak"] < 0.01
