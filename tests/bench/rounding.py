"""Rounding: how far log-probabilities of sampling are from those that DPO's pass of the reference model computes.

What `sample --logprob` keeps and `train --sampled-reference` takes, against transformers' forward of the same token ids
by the same weights, for answers of the toy world's policy: in float32, and in bfloat16 as on a GPU, by a CPU's kernels.
How far bfloat16's own pass is from float32's is shown beside: neither of two that are rounded is the true one. A
difference of d nats between the two answers moves DPO's logit by beta d, a tenth of it.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from bench import drawn
from bench.measuring import Figure, Result, Setting
from croco import chat, engine
from croco.engine import Generator, Sampling
from croco.sources import read_json

CONTEXT, LONGEST = 512, 64
"""Tokens of prompt and answer, and of an answer, at most."""
DTYPES = ("float32", "bfloat16")

Answers = Sequence[tuple[list[int], engine.Completion]]
"""Prompts' token ids, and an answer to each."""


def sampled(setting: Setting, dtype: str) -> tuple[Answers, Generator]:
    """Answers that vLLM sampled with weights of `dtype`, and the engine, which has to outlive those that follow."""
    policy = setting.toy / "policy"
    generator = Generator(
        drawn.llm(policy, dtype=dtype, max_model_len=CONTEXT, **engine.settings(CONTEXT)),
        chat.load_tokenizer(str(policy)),
        logprob=True,
    )
    lines = [row for _, row in read_json(setting.toy / "instructions.jsonl")][: setting.of(64, 4)]
    prompts = [chat.prompt_ids(generator.tokenizer, line["messages"][:1]) for line in lines]
    asked = Sampling(n=setting.of(16, 4), temperature=0.7, max_tokens=LONGEST, seed=0)
    found = generator(prompts, [asked] * len(prompts))
    return [(ids, answer) for ids, answers in zip(prompts, found, strict=True) for answer in answers], generator


def computed(setting: Setting, answers: Answers, dtype: str) -> list[float]:
    """The same answers' log-probabilities by transformers with weights of `dtype`, in nats."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(setting.toy / "policy", dtype=getattr(torch, dtype))
    found = []
    with torch.inference_mode():
        for ids, answer in answers:
            logits = model(torch.tensor([ids + answer.token_ids])).logits[0, len(ids) - 1 : -1].float()
            found.append(logits.log_softmax(-1).gather(1, torch.tensor(answer.token_ids)[:, None]).sum().item())
    return found


def run(setting: Setting) -> Result:
    figures: list[Figure] = []
    kept: list[Generator] = []
    detail: dict[str, Any] = {}

    def apart(name: str, ones: Sequence[float], others: Sequence[float]) -> None:
        found = [abs(one - other) for one, other in zip(ones, others, strict=True)]
        note = "mean of all answers"
        figures.append(Figure(name, statistics.mean(found), "nats", low=min(found), high=max(found), note=note))

    for dtype in DTYPES:
        answers, generator = sampled(setting, dtype)
        kept.append(generator)
        told = [answer.logprob for _, answer in answers if answer.logprob is not None]
        passed = computed(setting, answers, dtype)
        apart(f"{dtype}: an answer's log-probability, sampling to the reference's pass", told, passed)
        if dtype != DTYPES[0]:
            exact = computed(setting, answers, DTYPES[0])
            apart(f"{dtype}: sampling to a pass in float32", told, exact)
            apart(f"{dtype}: the reference's pass to one in float32", passed, exact)
        tokens = [len(answer.token_ids) for _, answer in answers]
        detail[dtype] = {"answers": len(answers), "tokens": statistics.mean(tokens), "nats": statistics.mean(told)}
    return Result(figures, detail)
