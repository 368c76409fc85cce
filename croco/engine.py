"""Engine: vLLM, for text and for rewards, on GPUs and (the CPU build) on a laptop.

Stages take an engine as an argument of type `Generate` or `Classify`, so a test passes a function. Importing this
module imports nothing heavy.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from croco import chat


@dataclass(frozen=True)
class Sampling:
    """How one prompt is answered."""

    n: int = 1
    """Answers a prompt; one request, so the prompt is prefilled once. Answer i has seed `seed + i`."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    presence_penalty: float = 0.0
    max_tokens: int = 4096
    """Tokens an answer may have; one that gets there has finish_reason `length`."""
    seed: int | None = None


@dataclass(frozen=True)
class Completion:
    """One answer: `finish_reason` is `stop` (the model ended it) or `length` (it was cut)."""

    text: str
    token_ids: list[int]
    finish_reason: str


Generate = Callable[[Sequence[list[int]], Sequence[Sampling]], list[list[Completion]]]
"""Prompts as token ids and a Sampling for each -> for each prompt its n completions, in order."""

Classify = Callable[[Sequence[list[int]]], list[float]]
"""Conversations as token ids -> one reward (raw logit) each, in order."""


class Generator:
    """A loaded language model; a `Generate`."""

    def __init__(self, llm: Any, tokenizer: Any) -> None:
        self.llm, self.tokenizer = llm, tokenizer
        self.max_model_len: int = llm.model_config.max_model_len

    def __call__(self, prompts: Sequence[list[int]], sampling: Sequence[Sampling]) -> list[list[Completion]]:
        from vllm import SamplingParams

        params = [
            SamplingParams(
                n=s.n,
                temperature=s.temperature,
                top_p=s.top_p,
                top_k=s.top_k,
                presence_penalty=s.presence_penalty,
                max_tokens=s.max_tokens,
                seed=s.seed,
            )
            for s in sampling
        ]
        outputs = self.llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=True)
        return [
            [
                Completion(c.text, list(c.token_ids), str(c.finish_reason))
                for c in sorted(o.outputs, key=lambda c: c.index)
            ]
            for o in outputs
        ]


class Classifier:
    """A loaded reward model (sequence classification, one label); a `Classify`."""

    def __init__(self, llm: Any, tokenizer: Any) -> None:
        self.llm, self.tokenizer = llm, tokenizer
        self.max_model_len: int = llm.model_config.max_model_len

    def __call__(self, conversations: Sequence[list[int]]) -> list[float]:
        from vllm import PoolingParams

        outputs = self.llm.classify(
            [{"prompt_token_ids": ids} for ids in conversations],
            pooling_params=PoolingParams(use_activation=False),  # the default squashes rewards through a sigmoid
            use_tqdm=True,
        )
        return [float(output.outputs.probs[0]) for output in outputs]


def load_generator(
    model: str, revision: str | None = None, *, max_model_len: int | None = None, gpus: int = 1
) -> Generator:
    """The language model of a local folder or hub id; `gpus` > 1 splits it over that many (tensor parallel)."""
    tokenizer = chat.load_tokenizer(model, revision)
    return Generator(_llm(model, revision, max_model_len=max_model_len, gpus=gpus), tokenizer)


def load_classifier(
    model: str, revision: str | None = None, *, max_model_len: int | None = None, gpus: int = 1
) -> Classifier:
    """The reward model of a local folder or hub id."""
    tokenizer = chat.load_tokenizer(model, revision)
    return Classifier(_llm(model, revision, max_model_len=max_model_len, gpus=gpus, runner="pooling"), tokenizer)


def _llm(model: str, revision: str | None, *, max_model_len: int | None, gpus: int, runner: str = "generate") -> Any:
    settings = _environment()
    from vllm import LLM

    return LLM(
        model,
        runner=runner,
        revision=revision,
        tokenizer_revision=revision,
        trust_remote_code=False,
        max_model_len=max_model_len,
        tensor_parallel_size=gpus,
        enable_prefix_caching=True,
        **settings,
    )


def _environment() -> dict[str, Any]:
    """Prepare the process for vLLM; the settings that differ between a GPU and a CPU (ours, measured)."""
    if os.environ.get("VLLM_PORT", "").startswith("tcp:"):
        del os.environ["VLLM_PORT"]  # a Kubernetes Service named vllm injects it, and vLLM reads it as a number
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    import torch

    if torch.cuda.is_available():
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        return {"dtype": "bfloat16", "gpu_memory_utilization": 0.9}
    # One process starts in 3 s instead of 20. A partial prefill crashes where a request has its own seed.
    # float32 gives the same text whatever the batch.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    return {
        "dtype": "float32",
        "gpu_memory_utilization": 0.3,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": 8192,
        "enforce_eager": True,
    }
