"""Packed: both answers of a preference pair in one sequence, so that their prompt is computed once.

TRL gives the model a pair as two sequences, prompt + chosen and prompt + rejected, padded to one length. Here the
model's layers get [common beginning][rest of chosen][rest of rejected] instead, pair after pair in a single row: a rest
sees the beginning and itself, its positions go on from the beginning's, and nothing is padded. The hidden states go
back to where TRL looks for them, so log-probabilities, loss and metrics stay its own. What is computed is the same, but
for rounding: of P + 2C tokens instead of 2(P + C), for a prompt of P and answers of C.

Attention needs no mask of its own on a GPU, where flash kernels have the lower-right causal one (not run there yet); on
a CPU, one of C x (P + C) is written out, once for all layers.

Source: prefix sharing for DPO, arXiv 2410.20305.
"""

from collections.abc import Mapping
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, device

    from croco.train import TrainConfig

ARCHITECTURES = ("cohere2", "llama", "mistral", "qwen2", "qwen3")
"""Model types that a test holds against TRL's own forward pass: EuroLLM is a llama, Tiny Aya a cohere2."""
ATTENTION, PLAIN = "croco_packed", "sdpa"
"""Names among transformers' attention functions."""
TOLERANCE: Mapping[bool, float] = {False: 1e-3, True: 0.1}
"""Nats by which a token's log-probability may differ between the two forms, on average over an answer; whether on a
GPU, in bfloat16 (ours; float32: 4e-7 was measured on random models, and .02 to .7 with wrong masks)."""


def obstacle(base: Path, config: "TrainConfig") -> str | None:
    """Why a model is trained on pairs as TRL has them; None where packing computes the same."""
    from transformers import AutoConfig

    if not (config.packed and config.method == "dpo"):
        return "not asked for" if config.method == "dpo" else f"{config.method} has no pairs"
    model = AutoConfig.from_pretrained(base, trust_remote_code=False)
    if model.model_type not in ARCHITECTURES:
        return f"found a model of type {model.model_type}; expected one of {', '.join(ARCHITECTURES)}"
    sliding = "sliding_attention" in (getattr(model, "layer_types", None) or ["sliding_attention"])
    window = getattr(model, "sliding_window", None) if sliding else None
    if window and window < config.max_length:
        return f"found an attention window of {window} tokens; expected max_length ({config.max_length}) or more"
    if model.attention_dropout or (config.lora_dropout and not config.disable_dropout):
        return "found dropout; expected none, as what is dropped in the prompt would be for both answers"
    return None


def install(model: Any) -> None:
    """Have a causal language model compute batches of pairs, [chosen of all, rejected of all], packed."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _attention)
    model.set_attn_implementation(ATTENTION)
    layers = model.base_model.forward

    @wraps(layers)
    def forward(input_ids: "Tensor", attention_mask: "Tensor", **options: Any) -> Any:
        ids, positions, places, lengths = pack(input_ids, attention_mask)
        masks = [_mask(common, rejected, ids.device) for common, _chosen, rejected in lengths]
        output = layers(input_ids=ids, position_ids=positions, pairs=lengths, masks=masks, **options)
        states = output.last_hidden_state[0].index_select(0, places.flatten())  # faster backward than [0, places]
        output.last_hidden_state = states.view(*places.shape, -1)
        return output

    model.base_model.forward = forward


def check(model: Any, pair: Mapping[str, list[int]], gpu: bool) -> float:
    """Nats by which log-probabilities of a pair's answers differ between its packed and TRL's form: mean over tokens of
    the answer where they differ more.

    Raises: ValueError beyond TOLERANCE: attention kernels of this machine do not do what they should.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    layers, weight = model.base_model, model.get_output_embeddings().weight.float()
    start, texts = len(pair["prompt_ids"]), [pair["prompt_ids"] + pair[name] for name in ("chosen_ids", "rejected_ids")]
    rows = [torch.tensor(text, device=weight.device) for text in texts]
    ids, mask = (pad_sequence(each, batch_first=True) for each in (rows, [torch.ones_like(row) for row in rows]))
    training = model.training
    model.eval()
    with torch.inference_mode():
        packed = layers.forward(ids, mask, use_cache=False).last_hidden_state
        model.set_attn_implementation(PLAIN)
        plain = layers.forward.__wrapped__(ids, attention_mask=mask, use_cache=False).last_hidden_state
        model.set_attn_implementation(ATTENTION)
        apart = []
        for row, *both in zip(rows, packed, plain, strict=True):
            one, other = (_likely(weight, states[start - 1 : len(row) - 1], row[start:]) for states in both)
            apart.append((one - other).abs().mean())
    model.train(training)
    difference = torch.stack(apart).max().item()
    if not difference <= TOLERANCE[gpu]:
        raise ValueError(
            f"packed: found log-probabilities {difference:.3g} nats a token from those of a pair that is not packed; "
            f"expected {TOLERANCE[gpu]} at most; train with --no-packed (in the pipeline: packed false)"
        )
    return difference


def _likely(weight: "Tensor", states: "Tensor", ids: "Tensor") -> "Tensor":
    """Log-probabilities [tokens] of `ids`, some at a time: those of every word would be gigabytes."""
    import torch
    from torch.nn.functional import cross_entropy, linear

    some = zip(states.split(256), ids.split(256), strict=True)
    return -torch.cat([cross_entropy(linear(part.float(), weight), of, reduction="none") for part, of in some])


def pack(
    input_ids: "Tensor", attention_mask: "Tensor"
) -> tuple["Tensor", "Tensor", "Tensor", list[tuple[int, int, int]]]:
    """Ids and positions [1, packed], places of tokens in it [2 x pairs, time], and lengths of each pair's three parts.

    Args:
        input_ids: [2 x pairs, time], padded on the right.
        attention_mask: The same, 1 on tokens and 0 on padding.
    """
    import torch

    ids, real = (torch.stack(each.chunk(2), dim=1) for each in (input_ids, attention_mask.bool()))  # [pairs, 2, time]
    time = torch.arange(ids.shape[2], device=ids.device)
    same = (ids[:, 0] == ids[:, 1]) & real.all(dim=1)
    common = same.cumprod(dim=1).sum(dim=1)  # [pairs]
    shared = time < common[:, None]
    kept = torch.stack([real[:, 0], real[:, 1] & ~shared], dim=1)
    place = kept.flatten().cumsum(dim=0).sub(1).view_as(ids)
    places = torch.cat([place[:, 0], torch.where(shared, place[:, 0], place[:, 1])])
    rests = real.sum(dim=2) - common[:, None]
    lengths = [(start, chosen, rejected) for start, chosen, rejected in torch.cat([common[:, None], rests], 1).tolist()]
    return ids[kept][None], time.expand_as(ids)[kept][None], places, lengths


def _mask(common: int, rejected: int, device: "device") -> "Tensor":
    """What the rest of rejected sees of the beginning and itself: [rejected, common + rejected]."""
    import torch
    from torch.nn.attention.bias import causal_lower_right

    if device.type == "cuda":
        return causal_lower_right(rejected, common + rejected)
    return torch.ones(rejected, common + rejected, dtype=torch.bool, device=device).tril(common)


def _attention(
    module: Any,
    query: "Tensor",
    key: "Tensor",
    value: "Tensor",
    attention_mask: None,
    *,
    pairs: list[tuple[int, int, int]],
    masks: list["Tensor"],
    scaling: float,
    **_: Any,
) -> tuple["Tensor", None]:
    """Attention over packed pairs: query [1, heads, packed, width] -> [1, packed, heads, width]."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    attend: Any = partial(scaled_dot_product_attention, scale=scaling, enable_gqa=True)
    found = []
    sizes = [size for common, chosen, rejected in pairs for size in (common + chosen, rejected)]
    q, k, v = (each.split(sizes, dim=2) for each in (query, key, value))
    for number, ((common, _chosen, rejected), mask) in enumerate(zip(pairs, masks, strict=True)):
        first, rest = 2 * number, 2 * number + 1
        found.append(attend(q[first], k[first], v[first], is_causal=True))
        if rejected:
            seen = (torch.cat([each[first][:, :, :common], each[rest]], dim=2) for each in (k, v))
            found.append(attend(q[rest], *seen, attn_mask=mask))
    return torch.cat([each.transpose(1, 2) for each in found], dim=1), None
