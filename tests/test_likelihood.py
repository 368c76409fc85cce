"""Likelihood: the log-probability of a continuation, equal to what transformers gives for it alone."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from croco import likelihood
from croco.likelihood import Likelihood, Text, batches

draw = random.Random(0)
TEXTS: list[Text] = [
    ([draw.randrange(4, 250) for _ in range(contexts)], [draw.randrange(4, 250) for _ in range(continuations)])
    for contexts, continuations in [(2, 9), (30, 1), (11, 40), (1, 3), (17, 17), (5, 300), (40, 12)]
]
"""Of many lengths; one has more places than are computed at once."""
HEADS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "llama": {},
    "cohere2": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
    "gemma2": {"final_logit_softcapping": 3.0, "head_dim": 8},
}
"""Architectures, some of which do more to their logits than a matrix does."""


def continued(out: Path, architecture: str) -> Path:
    from test_packed import model

    return model(out, architecture, **HEADS[architecture])


def translating(out: Path, **other: Any) -> Path:
    """A tiny random M2M100, which is what NLLB is, without a tokenizer."""
    import torch
    from transformers import M2M100Config, M2M100ForConditionalGeneration

    size = {f"{side}_{what}": number for side in ("encoder", "decoder")
            for what, number in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 64))}  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = {"vocab_size": 260, "d_model": 32, "init_std": 0.2, "max_position_embeddings": 512, "pad_token_id": 1}
        made = M2M100ForConditionalGeneration(M2M100Config(**config, **size, **other))
    made.save_pretrained(out)
    return out


def alone(model: Path, texts: Sequence[Text]) -> list[float]:
    """By transformers' own loss, a text at a time, without padding."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    translates = likelihood.translates(str(model))
    loader: Any = AutoModelForSeq2SeqLM if translates else AutoModelForCausalLM
    plain, found = loader.from_pretrained(model, dtype=torch.float32).eval(), []
    with torch.inference_mode():
        for context, continuation in texts:
            if translates:
                loss = plain(input_ids=torch.tensor([context]), labels=torch.tensor([continuation])).loss
            else:
                labels = torch.tensor([[-100] * len(context) + continuation])
                loss = plain(input_ids=torch.tensor([context + continuation]), labels=labels).loss
            found.append(-loss.item() * len(continuation))
    return found


def sums(model: Path, texts: Sequence[Text], max_tokens: int = 400) -> list[float]:
    return [total for total, _ in likelihood.load(str(model), max_tokens=max_tokens)(texts)]


MAKERS: list[Callable[[Path], Path]] = [*((lambda out, name=name: continued(out, name)) for name in HEADS), translating]


@pytest.mark.engine
@pytest.mark.parametrize("make", MAKERS, ids=[*HEADS, "m2m100"])
def test_a_batch_gives_what_transformers_gives_for_each_text_alone(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    model = make(tmp_path / "model")
    scored = likelihood.load(str(model), max_tokens=400)
    assert max(len(a) + len(b) for a, b in TEXTS) > likelihood.PLACES

    found = scored(TEXTS)

    assert [number for _, number in found] == [len(continuation) for _, continuation in TEXTS]
    assert [total for total, _ in found] == pytest.approx(alone(model, TEXTS), abs=1e-3, rel=1e-6)
    per_token = [total / number for total, number in found]
    assert per_token == pytest.approx(
        [a / len(b) for a, (_, b) in zip(alone(model, TEXTS), TEXTS, strict=True)], abs=1e-4
    )
    assert scored.tokens_in == sum(len(a) + len(b) for a, b in TEXTS) and (scored.tokens_out, scored.gpus) == (0, 0)


@pytest.mark.engine
@pytest.mark.parametrize("make", [MAKERS[0], translating], ids=["qwen3", "m2m100"])
def test_a_sum_does_not_depend_on_order_or_batch(make: Callable[[Path], Path], tmp_path: Path) -> None:
    model = make(tmp_path / "model")
    expected = sums(model, TEXTS, max_tokens=1)

    assert sums(model, TEXTS, max_tokens=10_000) == pytest.approx(expected, abs=1e-4)
    assert sums(model, TEXTS[::-1], max_tokens=100)[::-1] == pytest.approx(expected, abs=1e-4)
    assert sums(model, []) == []


@pytest.mark.engine
@pytest.mark.parametrize("make", [MAKERS[0], translating], ids=["qwen3", "m2m100"])
def test_another_context_gives_another_sum(make: Callable[[Path], Path], tmp_path: Path) -> None:
    (context, continuation), model = TEXTS[2], make(tmp_path / "model")

    this, other, longer = sums(model, [(text, continuation) for text in (context, context[1:], [*context, 7])])

    assert abs(this - other) > 0.1 < abs(this - longer)


@pytest.mark.engine
def test_without_its_mask_an_encoder_would_see_padding(tmp_path: Path) -> None:
    import torch

    model = translating(tmp_path / "model")
    masked = likelihood.load(str(model), max_tokens=10_000)
    compute = masked._compute

    def unmasked(attention_mask: torch.Tensor, **inputs: Any) -> Any:
        return compute(attention_mask=torch.ones_like(attention_mask), **inputs)

    expected = [total for total, _ in masked(TEXTS)]
    masked._compute = unmasked
    found = [total for total, _ in masked(TEXTS)]

    apart = [abs(a - b) for a, b in zip(found, expected, strict=True)]
    longest = max(range(len(TEXTS)), key=lambda place: len(TEXTS[place][0]))
    assert apart[longest] < 1e-3, "it has no padding"
    assert all(difference > 0.01 for place, difference in enumerate(apart) if place != longest)


@pytest.mark.engine
def test_a_log_probability_that_is_no_number_is_refused(tmp_path: Path) -> None:
    import torch

    scored = likelihood.load(str(continued(tmp_path / "model", "qwen3")), max_tokens=400)
    with torch.no_grad():
        scored.model.model.norm.weight[0] = float("nan")
    with pytest.raises(ValueError, match="found log-probabilities that are not finite"):
        scored(TEXTS)


@pytest.mark.engine
def test_a_head_computes_in_float32_in_a_model_of_less(tmp_path: Path) -> None:
    import torch

    loaded = likelihood.load(str(continued(tmp_path / "model", "qwen3")), max_tokens=400)
    coarse = Likelihood(loaded.model.bfloat16(), 400)
    states = torch.ones(3, 32, dtype=torch.bfloat16) / 3
    with torch.inference_mode():
        coarse._states(input_ids=torch.tensor([[5]]))
        logits = coarse._logits(states)
    exact = states.double() @ loaded.model.lm_head.weight.double().T
    assert logits.dtype == torch.float32
    assert (logits - exact).abs().max() < 1e-5 < (exact.bfloat16() - exact).abs().max()


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 200))
def test_batches_hold_every_text_once_and_no_more_than_they_may(sizes: list[int], most: int) -> None:
    groups = list(batches(sizes, most))

    assert sorted(place for group in groups for place in group) == list(range(len(sizes)))
    assert all(len(group) == 1 or max(sizes[place] for place in group) * len(group) <= most for group in groups)


def test_batches_are_of_like_length_and_the_longest_first() -> None:
    assert list(batches([3, 9, 1, 8, 3], 15)) == [[1], [3], [0, 4, 2]]
