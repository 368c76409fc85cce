"""The bench of DPO: its limits by hand, then all of it at a tiny size. No time is asserted."""

from pathlib import Path

import pytest

from bench import dpo, quick


def test_the_limit_counts_padded_tokens_four_times_against_ours_three_times() -> None:
    layers = dpo.Work(layers=7)
    for prompt, answer, limit in ((512, 128, 8 * 640 / (3 * 768)), (512, 256, 2), (256, 256, 16 / 9)):
        sizes = [(prompt, answer, answer)] * 3
        assert layers.padded(sizes, checkpointing=True) / layers.packed(sizes) == pytest.approx(limit)
        assert layers.packed(sizes) == 1.5 * layers.packed(sizes, reference=False) == 3 * 7 * 3 * (prompt + 2 * answer)
    # 2 x (4 + 3) and 2 x (2 + 2) padded tokens; 4 + 3 + 1 and 2 + 1 + 2 of ours
    sizes = [(4, 3, 1), (2, 1, 2)]
    assert layers.padded(sizes, checkpointing=False) / layers.packed(sizes) == 22 / 13


@pytest.mark.parametrize(
    ("part", "packed", "padded", "again"),
    [
        ({"adapters": 1}, 3 * (4 + 3 + 1), 3 * 2 * 7, 2 * 7),  # no adapter in the reference's pass
        ({"vocabulary": 1}, 3 * (3 + 1), 3 * (3 + 1), 0),  # by the real answers alone, and not computed again
        # half of every token with every other one, but not of one answer with the other
        ({"attention": 2}, 4 * (16 + 2 * 4 * (3 + 1) + 9 + 1), 4 * 2 * 49, 2 * 49),
    ],
)
def test_the_limit_by_hand(part: dict[str, int], packed: int, padded: int, again: int) -> None:
    work, sizes = dpo.Work(layers=0, **part), [(4, 3, 1)]
    assert work.packed(sizes) == packed
    assert work.padded(sizes, checkpointing=False) == padded
    assert work.padded(sizes, checkpointing=True) == padded + again


@pytest.mark.engine
def test_a_models_work_by_hand(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(dpo.policy(tmp_path / "policy", 2, 128))
    tuned = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    # width 128, of keys and values 64; feed-forward 384
    layer = 2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 384
    adapter = 16 * (2 * 256 + 2 * 192 + 3 * 512)
    assert dpo.Work.of(tuned) == dpo.Work(2 * layer, 2 * adapter, 128 * dpo.VOCABULARY, 2 * 2 * 128)


@pytest.mark.engine
def test_all_sides_come_to_the_same_losses_and_memory_does_not_hold_the_logits(tmp_path: Path) -> None:
    figures, detail = quick.run("dpo", tmp_path)
    for case in ("512/128", "about 512/256"):
        assert figures[f"{case}: largest difference of losses"] < 1e-5
        runs = detail[case]["runs"]
        sides = ["ours", "released", "stock", *(["sampled"] if case == dpo.SAMPLED else [])]
        assert [(run["side"], run["amount"]) for run in runs] == [(side, 2) for side in sides]
        ratio = runs[1]["seconds"] / runs[0]["seconds"]
        assert figures[f"{case}: pairs a second"] == pytest.approx(ratio)
    sampled = {run["side"]: run["seconds"] for run in detail[dpo.SAMPLED]["runs"]}
    assert figures[f"{dpo.SAMPLED}: reference from sampling, to ours"] == pytest.approx(
        sampled["ours"] / sampled["sampled"]
    )
    # held, logits and their gradients would be 2 or more
    assert figures["what a vocabulary of 131,072 for 32,768 adds to the peak"] < 0.01
