"""The toy models: real Hugging Face classes, trained here, saved as ordinary local folders.

policy      Qwen3ForCausalLM, 0.7M parameters: answers questions in the language asked in, and translates a little
translator  the policy trained further: English to the other languages, through TranslateGemma's message form
judge       the policy trained further: writes two scores and a verdict
reward      Qwen3ForSequenceClassification on the policy's backbone: trained on English preferences only
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from croco.toy.examples import Preference, Turn, draw_judgement, draw_policy_turn
from croco.toy.world import LANGUAGES

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PAD, SYSTEM, USER, ASSISTANT, END = "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TRANSLATOR_TEMPLATE = (
    "{% set m = messages[0] %}"
    "{% if messages | length != 1 or m['role'] != 'user' or m['content'] is string or m['content'] | length != 1"
    " or m['content'][0]['type'] != 'text' %}"
    "{{ raise_exception('expected one user message with one entry of type text') }}{% endif %}"
    "{% set t = m['content'][0] %}"
    "{{ '<|' + t['source_lang_code'] + '|><|' + t['target_lang_code'] + '|>' + t['text'] + '<|end|>' }}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MAX_LENGTH = 512
IGNORED = -100  # the label PyTorch's cross-entropy leaves out


def message(turn: Turn) -> dict[str, Any]:
    """Return the user message of an example, in TranslateGemma's form where it asks for a translation."""
    if turn.translate is None:
        return {"role": "user", "content": turn.user}
    source, target = turn.translate
    entry = {"type": "text", "source_lang_code": source, "target_lang_code": target, "text": turn.user}
    return {"role": "user", "content": [entry]}


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer whose vocabulary holds every word of the world whole."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(seed)
    turns = [draw(rng) for _ in range(6000) for draw in (draw_policy_turn, draw_judgement)]
    trainer = trainers.BpeTrainer(
        vocab_size=4096,  # never reached: merging stops when every word is one token
        min_frequency=1,
        special_tokens=[PAD, SYSTEM, USER, ASSISTANT, END, *(f"<|{language}|>" for language in LANGUAGES)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator((text for turn in turns for text in turn[:2]), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        model_max_length=MAX_LENGTH,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_policy(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Return an untrained policy: three layers of 128."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def build_reward_model(policy: PreTrainedModel) -> PreTrainedModel:
    """Return an untrained reward model: the policy's backbone with a head of one number."""
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    config = Qwen3Config.from_dict({**policy.config.to_dict(), "num_labels": 1})
    model = Qwen3ForSequenceClassification(config)
    model.model.load_state_dict(policy.model.state_dict())
    return model


def render(tokenizer: PreTrainedTokenizerFast, turn: Turn) -> tuple[str, str]:
    """Return the prompt through the chat template, and the completion with its end mark."""
    template = CHAT_TEMPLATE if turn.translate is None else TRANSLATOR_TEMPLATE
    prompt = tokenizer.apply_chat_template(
        [message(turn)], chat_template=template, tokenize=False, add_generation_prompt=True
    )
    return str(prompt), turn.assistant + END


def language_model_batches(
    tokenizer: PreTrainedTokenizerFast, draw: Callable[[random.Random], Turn], rng: random.Random, batch: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield tokens and labels, both [batch, time], of examples of like length; labels hold the completion only."""
    while True:
        rendered = [render(tokenizer, draw(rng)) for _ in range(16 * batch)]
        prompts, completions = (tokenizer(list(texts))["input_ids"] for texts in zip(*rendered, strict=True))
        rows = sorted(zip(prompts, completions, strict=True), key=lambda row: len(row[0]) + len(row[1]))
        buckets = [rows[start : start + batch] for start in range(0, len(rows), batch)]
        for bucket in rng.sample(buckets, len(buckets)):
            labels = pad([[IGNORED] * len(prompt) + completion for prompt, completion in bucket], IGNORED)
            tokens = pad([prompt + completion for prompt, completion in bucket], tokenizer.pad_token_id)
            yield tokens, labels


def pad(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Return the rows as one tensor [batch, time], filled up on the right."""
    import torch

    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def completion_loss(model: PreTrainedModel, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the labels; logits are computed only where there is a label, to save time.

    Rows are padded on the right and attention is causal, so no mask is needed.
    """
    import torch

    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    labelled = targets != IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[labelled]), targets[labelled])


def fit(
    model: PreTrainedModel, loss_of: Callable[[], torch.Tensor], steps: int, peak: float, name: str
) -> PreTrainedModel:
    """Train `model` for `steps` steps of AdamW under a one-cycle schedule and return it, ready for use."""
    import torch
    from tqdm import tqdm

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=peak, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps, pct_start=0.1)
    model.train()
    line = 1 if name == "judge" else 0  # it trains beside the others
    with tqdm(range(steps), desc=f"toy {name}", mininterval=1, position=line) as bar:
        for _ in bar:
            loss = loss_of()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return model.eval()


def fit_language_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    draw: Callable[[random.Random], Turn],
    *,
    seed: int,
    steps: int,
    peak: float,
    batch: int,
    name: str,
) -> PreTrainedModel:
    """Train on the completions of drawn examples."""
    batches = language_model_batches(tokenizer, draw, random.Random(seed), batch)
    return fit(model, lambda: completion_loss(model, *next(batches)), steps, peak, name)


def fit_reward_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    draw: Callable[[random.Random], Preference],
    *,
    seed: int,
    steps: int,
    peak: float,
    batch: int,
) -> PreTrainedModel:
    """Train on preferences (Bradley-Terry) with the embeddings frozen, so that what is learned carries over."""
    import torch

    rng = random.Random(seed)
    model.get_input_embeddings().requires_grad_(False)

    def loss_of() -> torch.Tensor:
        pairs = [draw(rng) for _ in range(batch)]
        texts = [
            (pair.question, answer)
            for answers in ("chosen", "rejected")
            for pair in pairs
            for answer in [getattr(pair, answers)]
        ]
        chosen, rejected = rewards(model, tokenizer, texts).chunk(2)
        return -torch.nn.functional.logsigmoid(chosen - rejected).mean()

    return fit(model, loss_of, steps, peak, "reward")


def rewards(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[tuple[str, str]]
) -> torch.Tensor:
    """Return the reward of each (question, answer), shape [len(texts)]; the last token before the padding gives it."""
    chats = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in texts]
    rows = tokenizer([str(tokenizer.apply_chat_template(chat, tokenize=False)) for chat in chats])["input_ids"]
    return model(input_ids=pad(rows, tokenizer.pad_token_id)).logits[:, 0]


def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, turns: Sequence[Turn], temperature: float = 0.0
) -> list[str]:
    """Return one reply to each example's user message; greedy at temperature 0."""
    prompts = [render(tokenizer, turn)[0] for turn in turns]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    output: torch.Tensor = model.generate(**inputs, max_new_tokens=80, **sampling)  # type: ignore[operator]
    return list(tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model (float32), tokenizer, chat template and generation config to `folder`."""
    from transformers import GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    if model.can_generate():
        model.generation_config = GenerationConfig(
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
