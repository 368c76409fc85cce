"""Packed pairs: what they are by hand, and that TRL computes from them what it does from padded ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_train import job_of, pair

from croco import packed, trainer
from croco.train import TrainConfig

ROWS = [
    *[pair(number) for number in range(5)],
    pair(5, chosen="Aldrig igen!", rejected="Aldrig i livet"),
    pair(6, chosen="Yes", rejected="Yes, of course."),
]
"""Of many lengths; the last answers begin alike."""


def model(out: Path, architecture: str = "qwen3", **other: Any) -> Path:
    """A tiny random model with weights drawn wide, of two layers; where windows are, the first has one."""
    import tiny
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tiny.tokenizer()
    cohere = {"layer_types": ["sliding_attention", "full_attention"], "logit_scale": 1.0}
    special = cohere if architecture == "cohere2" else {}
    config = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2,
        "max_position_embeddings": tiny.CONTEXT, "sliding_window": tiny.CONTEXT, "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, **special,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **{**config, **other}))
    made.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def built(out: Path, policy: Path, *, packed: bool, **config: Any) -> Any:
    """TRL's trainer with an adapter that is no longer nought, so that losses are not all ln 2."""
    import torch

    made = trainer.build(out, {**job_of(out, ROWS, policy, global_batch=7, **config), "packed": packed})
    torch.manual_seed(1)
    for name, weights in made.model.named_parameters():
        if "lora_B" in name:
            weights.data.normal_(std=0.2)
    return made


def step(made: Any) -> tuple[list[float], dict[str, Any]]:
    """(the loss of each micro-batch, gradients by name) of one pass over the data, in its order."""
    losses = []
    made.model.train()
    for batch in made.get_eval_dataloader(made.train_dataset):
        loss = made.compute_loss(made.model, batch)
        loss.backward()
        losses.append(loss.item())
    return losses, {name: each.grad for name, each in made.model.named_parameters() if each.grad is not None}


def difference(one: tuple[list[float], dict[str, Any]], other: tuple[list[float], dict[str, Any]]) -> list[float]:
    """Between two steps: the largest of losses, and of gradients against their norm."""
    assert one[1].keys() == other[1].keys() and len(one[0]) == len(other[0])
    apart = [((one[1][name] - other[1][name]).norm() / one[1][name].norm()).item() for name in one[1]]
    return [max(abs(a - b) for a, b in zip(one[0], other[0], strict=True)), max(apart)]


@pytest.mark.engine
def test_a_pair_is_its_common_beginning_and_two_rests_and_its_tokens_are_found_again() -> None:
    import torch

    ids = torch.tensor([[5, 6, 7, 8, 0], [5, 6, 9, 0, 0], [5, 6, 7, 4, 3], [5, 6, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    row, positions, places, lengths = packed.pack(ids, mask)
    assert row.tolist() == [[5, 6, 7, 8, 4, 3, 5, 6, 9]]
    assert positions.tolist() == [[0, 1, 2, 3, 3, 4, 0, 1, 2]]
    assert lengths == [(3, 1, 2), (2, 1, 0)]  # the last rejected answer is how the chosen one begins
    assert torch.equal(row[0, places][mask.bool()], ids[mask.bool()])
    assert torch.equal(positions[0, places][mask.bool()], torch.arange(5).expand(4, 5)[mask.bool()])


@pytest.mark.engine
@pytest.mark.parametrize("architecture", packed.ARCHITECTURES)
def test_losses_metrics_and_gradients_are_those_of_padded_pairs(tmp_path: Path, architecture: str) -> None:
    policy = model(tmp_path / "policy", architecture)
    plain = built(tmp_path / "plain", policy, packed=False, micro_batch=1)
    expected = step(plain)
    assert max(expected[0]) - min(expected[0]) > 0.1
    for micro_batch in (1, 7):
        ours = built(tmp_path / f"packed-{micro_batch}", policy, packed=True, micro_batch=micro_batch)
        if micro_batch > 1:
            ours.model.gradient_checkpointing_enable()  # as on a GPU
        assert packed.check(ours.model.get_base_model(), ours.train_dataset[0], gpu=False) < 1e-5
        losses, gradients = step(ours)
        same = [sum(expected[0]) / 7] if micro_batch == 7 else expected[0]
        scaled = {name: gradient * micro_batch for name, gradient in gradients.items()}
        loss, gradient = difference((same, expected[1]), (losses, scaled))
        assert loss < 1e-5 and gradient < 1e-4
        for name in ("entropy", "mean_token_accuracy", "logits/chosen", "logps/rejected") if micro_batch == 1 else ():
            assert ours._metrics["train"][name] == pytest.approx(plain._metrics["train"][name], rel=1e-4, abs=1e-5)


def everything_before(query: Any, key: Any, value: Any, pairs: Any) -> Any:
    """Wrong: the rejected answer sees the chosen one."""
    from torch.nn.functional import scaled_dot_product_attention

    return scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


def itself_alone(query: Any, key: Any, value: Any, pairs: Any) -> Any:
    """Wrong: the rejected answer does not see the prompt."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    sizes = [size for common, chosen, rejected in pairs for size in (common + chosen, rejected)]
    parts = zip(*(each.split(sizes, dim=2) for each in (query, key, value)), strict=True)
    return torch.cat([scaled_dot_product_attention(*part, is_causal=True, enable_gqa=True) for part in parts], dim=2)


@pytest.mark.engine
@pytest.mark.parametrize("wrong", [everything_before, itself_alone])
def test_another_mask_would_show(tmp_path: Path, wrong: Callable[..., Any]) -> None:
    from transformers import AttentionInterface

    def attention(module: Any, query: Any, key: Any, value: Any, mask: Any, *, pairs: Any, **_: Any) -> Any:
        return wrong(query, key, value, pairs).transpose(1, 2).contiguous(), None

    policy = model(tmp_path / "policy")
    plain = step(built(tmp_path / "plain", policy, packed=False))
    ours = built(tmp_path / "packed", policy, packed=True)
    AttentionInterface.register(packed.ATTENTION, attention)  # until the next model is installed
    loss, gradient = difference(plain, step(ours))
    assert loss > 0.01 and gradient > 0.01
    with pytest.raises(
        ValueError, match=r"packed: found log-probabilities .* expected 0.001 at most; train with --no-"
    ):
        packed.check(ours.model.get_base_model(), ours.train_dataset[0], gpu=False)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("of_model", "of_config", "reason"),
    [
        ({}, {}, None),
        ({}, {"packed": False}, "not asked for"),
        ({}, {"method": "sft"}, "sft has no pairs"),
        ({"architecture": "gemma2"}, {}, "found a model of type gemma2; expected one of cohere2, llama, mistral, qwen"),
        ({"architecture": "cohere2"}, {"max_length": 512}, None),
        (
            {"architecture": "cohere2"},
            {},
            "found an attention window of 512 tokens; expected max_length (4096)",
        ),
        ({"architecture": "mistral"}, {}, "found an attention window of 512 tokens"),
        ({"architecture": "mistral", "sliding_window": None}, {}, None),
        ({"attention_dropout": 0.1}, {}, "found dropout; expected none"),
        ({}, {"disable_dropout": False}, "found dropout; expected none"),
        ({}, {"disable_dropout": False, "lora_dropout": 0.0}, None),
    ],
)
def test_pairs_are_packed_only_where_that_computes_the_same(
    tmp_path: Path, of_model: dict[str, Any], of_config: dict[str, Any], reason: str | None
) -> None:
    found = packed.obstacle(model(tmp_path / "policy", **of_model), TrainConfig(**of_config))
    assert (found or "").startswith(reason or "") and (found is None) == (reason is None)
