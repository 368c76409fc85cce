"""Drawn: texts of random words, a tokenizer that has each as a token, models of random weights, and a count of tokens.

What an engine computes follows from how long texts are and what they share, not from what words or weights are.
"""

import random
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import tiny

WORDS = ["".join(pair) for pair in product((a + b for a in "bdfgklmnprstvz" for b in "aeiou"), repeat=2)][:2000]


def text(rng: random.Random, length: int) -> str:
    """`length` words, and as many tokens."""
    return "".join(f" {word}" for word in rng.choices(WORDS, k=length))


def model(out: Path, *, reward: bool, layers: int, width: int, context: int, also: Sequence[str] = ()) -> Path:
    """A Qwen3 of random weights with its tokenizer, which knows WORDS and the words of the texts `also`."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification

    labels: dict[str, Any] = {"num_labels": 1} if reward else {}
    tokens = _tokenizer([*(f" {word}" for word in WORDS), *also], context)
    config = Qwen3Config(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=0.1,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
        **labels,
    )
    torch.manual_seed(0)
    (Qwen3ForSequenceClassification if reward else Qwen3ForCausalLM)(config).save_pretrained(out)
    tokens.save_pretrained(out)
    return out


def _tokenizer(texts: Sequence[str], context: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bytewise = Tokenizer(models.BPE())
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = [tiny.PAD, tiny.START, tiny.END]
    bytewise.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=2 * len(WORDS) + 1000,
            initial_alphabet=alphabet,
            special_tokens=special,
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bytewise,
        pad_token=tiny.PAD,
        eos_token=tiny.END,
        additional_special_tokens=[tiny.START],
        model_max_length=context,
        chat_template=tiny.CHATML,
        clean_up_tokenization_spaces=False,
    )


class Computed:
    """What an engine computes, read where its scheduler decides: tokens of prompts not found in the prefix cache, of
    replies, and all that is computed again after a request had to give up its memory."""

    def __init__(self, llm: Any) -> None:
        self.tokens = 0
        scheduler = llm.llm_engine.engine_core.engine_core.scheduler
        schedule = scheduler.schedule

        def counted(*args: Any, **options: Any) -> Any:
            output = schedule(*args, **options)
            self.tokens += output.total_num_scheduled_tokens
            return output

        scheduler.schedule = counted

    def take(self) -> int:
        """The tokens since it was last asked."""
        tokens, self.tokens = self.tokens, 0
        return tokens


def prefixes(sequences: Iterable[Sequence[int]]) -> int:
    """Distinct beginnings of all sequences, the nodes of their trie: what a cache by single tokens would compute."""
    found, last = 0, list[int]()
    for ids in sorted(map(list, sequences)):
        same = next((at for at, (a, b) in enumerate(zip(last, ids, strict=False)) if a != b), min(len(last), len(ids)))
        found, last = found + len(ids) - same, ids
    return found


def llm(model: Path, dtype: Any = "float32", **options: Any) -> Any:
    """vLLM, in float32 as everywhere on a CPU."""
    from vllm import LLM

    return LLM(str(model), dtype=dtype, **options)


def kv_bytes(model: Path, tokens: int) -> int:
    """Memory for the keys and values of so many tokens."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    return int(tokens * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 2 * 4)
