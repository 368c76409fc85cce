"""Engine: vLLM, for text and for rewards, on GPUs and (the CPU build) on a laptop.

Stages take an engine as an argument of type `Generate` or `Classify`, so a test passes a function. Importing this
module imports nothing heavy.
"""

import dataclasses
import functools
import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from croco import chat


@dataclass(frozen=True)
class Sampling:
    """How one prompt is answered; part of the keys of stored verdicts and answers."""

    n: int = 1
    """Answers a prompt; one request, so the prompt is prefilled once. Answer i has seed `seed + i`."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    max_tokens: int = 4096
    """Tokens an answer may have; one that gets there, or to the end of the context, has finish_reason `length`."""
    seed: int | None = None


@dataclass(frozen=True)
class Completion:
    """One answer: `finish_reason` is `stop` (the model ended it) or `length` (it was cut)."""

    text: str
    """Without special tokens."""
    token_ids: list[int]
    """As generated, end of turn included."""
    finish_reason: str
    logprob: float | None = None
    """Log-probability of all `token_ids` after the prompt, in nats, whatever the temperature; None unless wanted."""


Generate = Callable[[Sequence[list[int]], Sequence[Sampling]], list[list[Completion]]]
"""Prompts as token ids and a Sampling for each -> for each prompt its n completions, in order."""

Classify = Callable[[Sequence[list[int]]], list[float]]
"""Conversations as token ids -> one reward (raw logit) each, in order."""


class Generator:
    """A loaded language model; a `Generate` that counts its tokens."""

    def __init__(self, llm: Any, tokenizer: Any, gpus: int = 0, *, logprob: bool = False) -> None:
        """`gpus`: how many it occupies; 0 on a CPU. `logprob`: whether to say how likely each answer was, which takes
        some 200 bytes a token until a call is done."""
        self.llm, self.tokenizer, self.gpus = llm, tokenizer, gpus
        self.max_model_len: int = llm.model_config.max_model_len
        self.tokens_in, self.tokens_out = 0, 0
        self.also: dict[str, Any] = {"logprobs": 0, "flat_logprobs": True} if logprob else {}  # of drawn tokens alone

    def __call__(self, prompts: Sequence[list[int]], sampling: Sequence[Sampling]) -> list[list[Completion]]:
        from vllm import SamplingParams

        outputs = self.llm.generate(
            [{"prompt_token_ids": ids} for ids in prompts],
            [SamplingParams(**dataclasses.asdict(s), **self.also) for s in sampling],
            use_tqdm=_progress(),
        )
        completions = [[_completion(output) for output in request.outputs] for request in outputs]
        self.tokens_in += sum(map(len, prompts))
        self.tokens_out += sum(len(answer.token_ids) for answers in completions for answer in answers)
        return completions


class Classifier:
    """A loaded reward model (sequence classification, one label); a `Classify` that counts its tokens."""

    tokens_out = 0

    def __init__(self, llm: Any, tokenizer: Any, gpus: int = 0) -> None:
        """`gpus`: how many it occupies; 0 on a CPU."""
        self.llm, self.tokenizer, self.gpus = llm, tokenizer, gpus
        self.max_model_len: int = llm.model_config.max_model_len
        self.tokens_in = 0

    def __call__(self, conversations: Sequence[list[int]]) -> list[float]:
        if not conversations:
            return []  # vLLM refuses an empty list
        from vllm import PoolingParams

        outputs = self.llm.classify(
            [{"prompt_token_ids": ids} for ids in conversations],
            pooling_params=PoolingParams(use_activation=False),  # the default squashes rewards through a sigmoid
            use_tqdm=_progress(),
        )
        self.tokens_in += sum(map(len, conversations))
        return [float(output.outputs.probs[0]) for output in outputs]


def _completion(output: Any) -> Completion:
    if output.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM: found finish_reason {output.finish_reason!r}; expected stop or length")
    return Completion(output.text, list(output.token_ids), output.finish_reason, output.cumulative_logprob)


def _progress() -> Callable[..., Any]:
    """A progress bar that goes when its call is done: a stage that works by parts shows its own around it."""
    from tqdm import tqdm

    return functools.partial(tqdm, leave=False)


def load_generator(
    model: str, revision: str | None = None, *, max_model_len: int | None = None, gpus: int = 1, logprob: bool = False
) -> Generator:
    """The language model of a local folder or hub id; `gpus` > 1 splits it over that many (tensor parallel)."""
    tokenizer = chat.load_tokenizer(model, revision)
    llm = _llm(model, revision, max_model_len=max_model_len, gpus=gpus)
    return Generator(llm, tokenizer, gpus * on_gpus(), logprob=logprob)


def load_classifier(
    model: str, revision: str | None = None, *, max_model_len: int | None = None, gpus: int = 1
) -> Classifier:
    """The reward model of a local folder or hub id. Raises: ValueError if it is not one (see `check_reward`)."""
    check_reward(model, revision)
    tokenizer = chat.load_tokenizer(model, revision)
    llm = _llm(model, revision, max_model_len=max_model_len, gpus=gpus, runner="pooling")
    return Classifier(llm, tokenizer, gpus * on_gpus())


def plain_rewards(model: str, revision: str | None, conversations: Sequence[list[int]]) -> list[float]:
    """Rewards by a transformers forward of one conversation at a time, to hold vLLM's against; a `Classify`.

    Call it before an engine is loaded: on a GPU both together would not fit. The weights are gone when it returns.
    """
    check_reward(model, revision)
    import torch
    from transformers import AutoModelForSequenceClassification

    reward = AutoModelForSequenceClassification.from_pretrained(
        model,
        revision=revision,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=getattr(torch, dtype()),
        device_map="auto" if torch.cuda.is_available() else None,
    )
    with torch.inference_mode():
        logits = [reward(torch.tensor([ids], device=reward.device)).logits for ids in conversations]
    rewards = [float(row[0, 0]) for row in logits]
    del reward
    torch.cuda.empty_cache()
    return rewards


def context(model: str, revision: str | None = None) -> int:
    """Tokens that fit into the model's context, by its config."""
    return int(_config(model, revision).get_text_config().max_position_embeddings)


def on_gpus() -> bool:
    """Whether engines run on GPUs."""
    import torch

    return bool(torch.cuda.is_available())


def dtype() -> Literal["bfloat16", "float32"]:
    """What weights are computed in: bfloat16 on a GPU; on a CPU float32, the same text whatever the batch."""
    return "bfloat16" if on_gpus() else "float32"


def _config(model: str, revision: str | None) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)


def check_reward(model: str, revision: str | None) -> None:
    """Raises: ValueError for a model that would get a head of random weights, or has more labels than one."""
    config = _config(model, revision)
    names = config.architectures or []
    if config.num_labels != 1 or not any(name.endswith("ForSequenceClassification") for name in names):
        raise ValueError(
            f"{model}: found {names} with {config.num_labels} labels; expected a reward model, "
            "...ForSequenceClassification with one label"
        )


def _llm(
    model: str,
    revision: str | None,
    *,
    max_model_len: int | None,
    gpus: int,
    runner: Literal["generate", "pooling"] = "generate",
) -> Any:
    length = max_model_len or context(model, revision)
    options = settings(length)
    from vllm import LLM

    gc.collect()  # an engine that is no longer used, and goes while another runs, takes its process groups with it

    return LLM(
        model,
        runner=runner,
        revision=revision,
        tokenizer_revision=revision,
        trust_remote_code=False,
        load_format="safetensors",
        dtype=dtype(),
        max_model_len=length,
        tensor_parallel_size=gpus,
        enable_prefix_caching=True,
        **options,
    )


def settings(length: int) -> dict[str, Any]:
    """Prepare the process for vLLM; the settings that differ between a GPU and a CPU (ours, measured)."""
    if os.environ.get("VLLM_PORT", "").startswith("tcp:"):
        del os.environ["VLLM_PORT"]  # a Kubernetes Service named vllm injects it, and vLLM reads it as a number
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    if dtype() == "bfloat16":
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        return {"gpu_memory_utilization": 0.9}
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its warnings are about the settings below
    # One process starts in 3 s instead of 20. A partial prefill crashes where a request has its own seed; without it
    # a batch must have room for the longest prompt. Batches of 8192 tokens, which a cache does not hold, were a seventh
    # slower in scoring than those of 2048.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    return {
        "kv_cache_memory_bytes": 2**30,
        "block_size": 32,  # the smallest: what of a shared prefix does not fill a block is computed again
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(2048, length),
        "enforce_eager": True,
    }
