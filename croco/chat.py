"""Chat: the one place where a conversation becomes token ids.

Every engine and trainer gets ids from here, never text, so that sampling, scoring and training see the same tokens:
one BOS at most, the prompt a prefix of prompt + completion, and no special token smuggled in by user text.
"""

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]


def load_tokenizer(model: str, revision: str | None = None) -> Any:
    """The tokenizer of a local folder or hub id. Raises: ValueError if it has no chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise ValueError(f"{model}: found no chat template; expected an instruction-tuned model's tokenizer")
    return tokenizer


def template_sha256(tokenizer: Any) -> str:
    """Identity of the chat template, for manifests: two stages that disagree on it do not see the same prompts."""
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()


@functools.lru_cache(maxsize=16)
def _special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Matches any special token: those with a role (BOS, EOS, ...), and turn marks, which some tokenizers only add."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    tokens = dict.fromkeys([*tokenizer.all_special_tokens, *(token.content for token in added if token.special)])
    return re.compile("|".join(re.escape(token) for token in tokens) or r"(?!)")


def special_token_in(tokenizer: Any, messages: Sequence[Message], *texts: str) -> str | None:
    """The first special token spelled out in any turn or text; None where there is none."""
    pattern = _special_tokens(tokenizer)
    contents = [turn["content"] for turn in messages]
    for text in [*(part["text"] if isinstance(part, dict) else part for c in contents for part in _parts(c)), *texts]:
        if found := pattern.search(text):
            return found.group()
    return None


def _parts(content: Any) -> Sequence[Any]:
    return content if isinstance(content, list) else [content]


def prompt_ids(tokenizer: Any, messages: Sequence[Message], **template: Any) -> list[int]:
    """Ids of `messages`, which end with a user turn, up to where the assistant's answer begins.

    `template` holds the chat template's own switches, such as enable_thinking=False.
    """
    return _render(tokenizer, messages, add_generation_prompt=True, **template)


def conversation_ids(tokenizer: Any, messages: Sequence[Message], answer: str) -> list[int]:
    """Ids of `messages` and the assistant's `answer`, as a reward model reads them."""
    return _render(tokenizer, [*messages, {"role": "assistant", "content": answer}], add_generation_prompt=False)


def completion_ids(tokenizer: Any, messages: Sequence[Message], *answers: str) -> tuple[list[int], ...] | None:
    """(prompt ids, completion ids of each answer) of a training row; completions end with the template's end of turn.

    None if the prompt's ids are no prefix of a whole conversation's (TRL #5213, #6105): the model would be trained on
    other tokens than it is asked with. The template may rewrite what was answered, or the answer's first characters
    merge with the prompt's last token.
    """
    prompt = prompt_ids(tokenizer, messages)
    whole = [conversation_ids(tokenizer, messages, answer) for answer in answers]
    if any(ids[: len(prompt)] != prompt for ids in whole):
        return None
    return prompt, *(ids[len(prompt) :] for ids in whole)


def _render(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool, **template: Any) -> list[int]:
    if token := special_token_in(tokenizer, messages):
        raise ValueError(f"message: found the special token {token!r} in its text; expected plain text")
    ids = tokenizer.apply_chat_template(
        [dict(turn) for turn in messages],
        add_generation_prompt=add_generation_prompt,
        return_dict=False,
        **template,
    )
    _check_bos(tokenizer, ids)
    return list(ids)


def _check_bos(tokenizer: Any, ids: Sequence[int]) -> None:
    """Raises: ValueError for a BOS that is doubled, misplaced, or missing where the tokenizer itself would add one."""
    bos = tokenizer.bos_token_id
    if bos is None or bos == tokenizer.eos_token_id:
        return
    places = [place for place, token in enumerate(ids) if token == bos]
    wanted = [[0]] if tokenizer("x").input_ids[0] == bos else [[], [0]]
    if places not in wanted:
        raise ValueError(
            f"chat template: found BOS ({tokenizer.bos_token!r}) at places {places}; "
            f"expected {' or '.join(map(str, wanted))}"
        )
