"""Tiny random models in local folders: real Hugging Face classes, made in a second, so that engines run for real.

The weights are drawn wide (standard deviation .2), so that tokens and rewards differ by amounts a test can see.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

PAD, START, END, BOS = "<|pad|>", "<|im_start|>", "<|im_end|>", "<s>"
CONTEXT = 512
"""Tokens; a byte is one token."""
CHATML = (
    "{{ bos_token or '' }}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Letters:
    """A stand-in for a tokenizer that needs no library: a character is a token, `!` is special."""

    all_special_tokens: ClassVar = ["!"]
    all_special_ids: ClassVar = [ord("!")]
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}
    bos_token_id = None
    chat_template = "role:content;"

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool, return_dict: bool
    ) -> list[int]:
        text = "".join(f"{turn['role']}:{turn['content']};" for turn in messages)
        return [ord(letter) for letter in text + "assistant:" * add_generation_prompt]

    @staticmethod
    def decode(ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


def tokenizer(*, bos: bool = False, template: str = CHATML) -> Any:
    """A byte-level tokenizer with ChatML turns; with `bos`, its post-processor adds a BOS as Llama's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = [PAD, START, END, BOS]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE({token: at for at, token in enumerate([*special, *alphabet])}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytewise.decoder = decoders.ByteLevel()
    if bos:
        bytewise.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bytewise,
        pad_token=PAD,
        eos_token=END,
        bos_token=BOS if bos else None,
        additional_special_tokens=[START],
        model_max_length=CONTEXT,
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def policy(out: Path, *, seed: int = 0, bos: bool = False) -> Path:
    """A Qwen3ForCausalLM of two layers of 64 and its tokenizer in folder `out`."""
    from transformers import Qwen3ForCausalLM

    return _save(out, Qwen3ForCausalLM, tokenizer(bos=bos), seed)


def reward(out: Path, *, seed: int = 0) -> Path:
    """A Qwen3ForSequenceClassification with one label, of the policy's size, and its tokenizer in folder `out`."""
    from transformers import Qwen3ForSequenceClassification

    return _save(out, Qwen3ForSequenceClassification, tokenizer(), seed, num_labels=1)


def _save(out: Path, architecture: Any, tokens: Any, seed: int, **config: Any) -> Path:
    import torch
    from transformers import Qwen3Config

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = architecture(
            Qwen3Config(
                vocab_size=len(tokens),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=32,
                max_position_embeddings=CONTEXT,
                tie_word_embeddings=True,
                initializer_range=0.2,
                bos_token_id=tokens.bos_token_id,
                eos_token_id=tokens.eos_token_id,
                pad_token_id=tokens.pad_token_id,
                **config,
            )
        )
    model.save_pretrained(out)
    tokens.save_pretrained(out)
    return out
