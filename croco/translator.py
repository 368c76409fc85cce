"""Translator: texts -> their translations into one language, by segments, each of which is generated once.

How `translate` uses it, and what the reasons mean that it gives, is in croco/translate.py.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

from croco import chat
from croco.engine import Generate, Sampling
from croco.segments import Part, letters, split

COPIED_WORDS = 5
"""Words from which on a copy is held against a text (ours)."""
RENDERED = 2**15
"""Prompts kept as token ids, some kB each: more than a shard has, for each is asked for when its text is cut, when the
cut is checked, and when it is sent (ours)."""

Plan = list[Part] | str
"""The parts of a text, or the reason why it cannot be translated."""


def google(text: str, target: str) -> list[dict[str, Any]]:
    """The message of Google's TranslateGemma: exactly one entry, which its chat template turns into instructions."""
    entry = {"type": "text", "source_lang_code": "en", "target_lang_code": target, "text": text}
    return [{"role": "user", "content": [entry]}]


def infomaniak(text: str, target: str) -> list[dict[str, Any]]:
    """The message of Infomaniak-AI/vllm-translategemma: one string with delimited fields."""
    return [{"role": "user", "content": f"<<<source>>>en<<<target>>>{target}<<<text>>>{text}"}]


FORMATS = {"google": google, "infomaniak": infomaniak}


class Translator:
    """Plans texts, translates what all of them need in one go, and puts them together again; one target language."""

    def __init__(self, target: str, tokenizer: Any, *, format: str, max_prompt: int, max_model_len: int) -> None:
        """`max_prompt`: tokens a segment's prompt may have; `max_model_len`: with its translation."""
        self.target, self.tokenizer, self.format = target, tokenizer, FORMATS[format]
        self.max_prompt, self.max_model_len = max_prompt, max_model_len
        self.ids: Callable[[str], list[int]] = functools.lru_cache(RENDERED)(self._ids)
        """Segment -> the rendered prompt that asks for its translation."""
        self.answers: dict[str, str] = {}
        """Segment -> its translation."""
        self.unfinished: set[str] = set()
        """Segments whose translation did not end."""

    def _ids(self, segment: str) -> list[int]:
        return chat.prompt_ids(self.tokenizer, self.format(segment, self.target))

    def fits(self, piece: str) -> bool:
        return not letters(piece) or len(self.ids(piece.strip())) <= self.max_prompt

    def plan(self, text: str) -> Plan:
        if chat.special_token_in(self.tokenizer, [], text):
            return "special_token"
        parts = split(text, self.fits)
        return parts if all(self.fits(part) for part, prose in parts if prose) else "uncuttable"

    def translate(self, plans: Iterable[Plan], generate: Generate) -> int:
        """Learn the translations that `plans` need and that are not known yet, each distinct segment's once; how many
        distinct segments of theirs have one.

        The longest are asked for first: they take longest, and begun last they would run on alone.
        """
        needed = list(dict.fromkeys(part for plan in plans for part in _prose(plan)))
        new = [segment for segment in needed if segment not in self.answers and segment not in self.unfinished]
        new.sort(key=lambda segment: len(self.ids(segment)), reverse=True)
        prompts = [self.ids(segment) for segment in new]
        sampling = [Sampling(temperature=0.0, max_tokens=self.max_model_len - len(ids)) for ids in prompts]
        for segment, (answer,) in zip(new, generate(prompts, sampling), strict=True):
            if answer.finish_reason == "stop":
                self.answers[segment] = answer.text.strip()
            else:
                self.unfinished.add(segment)
        return sum(segment in self.answers for segment in needed)

    def reason(self, *plans: Plan) -> str | None:
        """Why one of the texts could not be translated; None if all of them were."""
        unable = [plan for plan in plans if isinstance(plan, str)]
        return next(filter(None, unable or map(self._failure, plans)), None)

    def _failure(self, plan: Plan) -> str | None:
        segments = _prose(plan)
        if not self.unfinished.isdisjoint(segments):
            return "unfinished"
        if not all(self.answers[segment] for segment in segments):
            return "empty_translation"
        copied = " ".join(segment for segment in segments if _words(segment) == _words(self.answers[segment]))
        mostly = 2 * letters(copied) > sum(map(letters, segments))
        return "untranslated" if mostly and len(_words(copied)) >= COPIED_WORDS else None

    def join(self, plan: Plan) -> str:
        """The text of a plan that gives no reason to drop it."""
        return "".join(self.answers[part] if prose else part for part, prose in _parts(plan))

    def prose(self, plans: Iterable[Plan]) -> str:
        """What the translator wrote for `plans`, and nothing that was kept as it is."""
        return "\n".join(self.answers[part] for plan in plans for part in _prose(plan))


def _parts(plan: Plan) -> list[Part]:
    return [] if isinstance(plan, str) else plan


def _prose(plan: Plan) -> list[str]:
    return [part for part, prose in _parts(plan) if prose]


def _words(text: str) -> list[str]:
    return text.casefold().split()
