"""Memory: whether a model fits on the GPUs it is given, estimated from its config and the heads of its weights.

Serving (vLLM): weights + the KV cache of one sequence as long as the stage allows + 2 GiB a GPU, in nine tenths of
the GPUs together: vLLM starts with no less, and with no more it answers one request at a time.
Training (LoRA, a copy of the model on each GPU): weights + what a micro-batch of pairs needs: its logits three times
in float32 (log-softmax, its gradient, the reference's) and a hidden state a layer (gradient checkpointing) + 2 GiB.
Both rules are ours, meant to find what cannot fit, not to say what is best.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croco import models

GIB = 2**30
SHARE = 0.9
"""Of a GPU that vLLM takes (croco.engine)."""
WORKSPACE = 2 * GIB
"""Bytes a GPU, for activations, graphs and the CUDA context (ours)."""
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2}
"""Bytes of a number by safetensors' name of its type; every other takes one."""


@dataclass(frozen=True)
class Model:
    """What of a model takes memory."""

    weights: int
    """Bytes once loaded: floating-point numbers of more than 16 bits are loaded as bfloat16."""
    config: Mapping[str, Any]
    """Of its text part."""

    @property
    def context(self) -> int | None:
        """Tokens; None where the config does not say."""
        return self.config.get("max_position_embeddings")

    def cache(self, tokens: int) -> int | None:
        """Bytes of the KV cache of one sequence in 16 bits; None where the config does not say.

        A layer with a sliding window keeps no more than that; one of linear attention next to nothing.
        """
        about = self.config
        layers, heads = about.get("num_hidden_layers"), about.get("num_attention_heads")
        width = about.get("head_dim") or (heads and about.get("hidden_size", 0) // heads)
        if not (layers and heads and width):
            return None
        window = about.get("sliding_window") or tokens
        kinds = about.get("layer_types") or ["full_attention"] * layers
        kept = {"full_attention": tokens, "sliding_attention": min(window, tokens)}
        return 2 * 2 * (about.get("num_key_value_heads") or heads) * width * sum(kept.get(kind, 0) for kind in kinds)


def read(model: str, revision: str | None = None) -> Model:
    """A model of a folder or the hub; of its weights only the heads are read.

    Raises: FileNotFoundError for a folder without config.json or weights; ConnectionError as `models.reaching_hub`.
    """
    if models.is_local(model):
        files = sorted(Path(model).glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(f"{model}: found no *.safetensors; expected a whole model with its weights")
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        numbers: dict[Any, int] = {}
        for file in files:
            for kind, number in _numbers(file).items():
                numbers[kind] = numbers.get(kind, 0) + number
    else:
        from huggingface_hub import HfApi, hf_hub_download

        with models.reaching_hub(model):
            file = Path(hf_hub_download(model, "config.json", revision=revision))
            config = json.loads(file.read_text(encoding="utf-8"))
            numbers = {**HfApi().get_safetensors_metadata(model, revision=revision).parameter_count}
    weights = sum(number * min(BYTES.get(kind, 1), 2 if "F" in kind else 8) for kind, number in numbers.items())
    return Model(weights, config.get("text_config") or config)


def _numbers(file: Path) -> dict[str, int]:
    """How many numbers of each type a safetensors file holds."""
    with file.open("rb") as content:
        (size,) = struct.unpack("<Q", content.read(8))
        head = json.loads(content.read(size))
    numbers: dict[str, int] = {}
    for name, tensor in head.items():
        if name != "__metadata__":
            numbers[tensor["dtype"]] = numbers.get(tensor["dtype"], 0) + math.prod(tensor["shape"])
    return numbers


def serving(model: Model, gpus: int, gigabytes: int, tokens: int | None) -> str:
    """What vLLM needs of `gpus` GPUs of so many GiB, and that it is there. Raises: ValueError if it is not."""
    length = tokens or model.context
    cache = model.cache(length) if length else None
    said = "KV cache not counted: its config does not say" if cache is None else f"KV cache of {length} tokens"
    need, room = model.weights + (cache or 0) + gpus * WORKSPACE, SHARE * gpus * gigabytes * GIB
    return _fits(need, room, f"weights {_gib(model.weights)}, {said} {_gib(cache or 0)}", gpus, gigabytes)


def training(model: Model, gigabytes: int, micro_batch: int, tokens: int) -> str:
    """What a process needs of its GPU, and that it is there. Raises: ValueError if it is not."""
    about, batch = model.config, 2 * micro_batch * tokens
    logits = 3 * 4 * batch * about.get("vocab_size", 0)
    states = 2 * batch * about.get("hidden_size", 0) * about.get("num_hidden_layers", 0)
    need = model.weights + logits + states + WORKSPACE
    parts = f"weights {_gib(model.weights)}, {micro_batch} pairs of {tokens} tokens {_gib(logits + states)}"
    return _fits(need, SHARE * gigabytes * GIB, parts, 1, gigabytes)


def _fits(need: float, room: float, parts: str, gpus: int, gigabytes: int) -> str:
    text = f"{_gib(need)} ({parts}, {_gib(gpus * WORKSPACE)} to work in) of {_gib(room)} on {gpus} x {gigabytes} GiB"
    if need > room:
        raise ValueError(
            f"found a need of {text}; expected it to fit; take more or larger GPUs (--profile), a smaller model, or "
            "fewer tokens"
        )
    return text


def _gib(number: float) -> str:
    return f"{number / GIB:.1f} GiB"
