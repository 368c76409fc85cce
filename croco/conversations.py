"""Conversations: answers and the prompts they are to, a shard at a time, as a reward model reads them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from croco import chat, dataset
from croco.shards import split

THINK_END = "</think>"

Key = tuple[str, str]
"""(language, prompt_id)."""
Answer = tuple[str, str, str]
"""(language, prompt_id, text): what is scored once, however often it was sampled."""


class Shard(NamedTuple):
    """All answers to some prompts of a language, by prompt and sample."""

    language: str
    messages: Mapping[Key, Sequence[chat.Message]]
    rows: Sequence[Mapping[str, Any]]


class Answers:
    """The answers to score, a shard at a time.

    How many buckets a language has follows from its prompts, answered here or not. In memory are the texts of those
    files that hold answers of the shard at hand.
    """

    def __init__(self, prompts: Iterable[Path], samples: Sequence[Path], shard_prompts: int) -> None:
        """Raises: ValueError if a prompt is there twice, or an answer is to a prompt that is not there."""
        columns = ["prompt_id", "language", "messages"]
        self.prompts = dataset.unique(dataset.read(prompts, "prompts", columns), "prompts")
        self.place = {key: at for at, key in enumerate(_keys(self.prompts))}
        self.number = sum(dataset.load_manifest(directory).rows for directory in samples)
        self.paths = list(dataset.parts(samples, "samples"))
        given = [_read(path).group_by(["prompt_id", "language"]).aggregate([]) for path in self.paths]
        self.files = [at for at, table in enumerate(given) for _ in range(len(table))]
        self.given = pa.concat_tables([self.prompts.select(columns[:2]).slice(0, 0), *given])
        self.without = _check_prompts(set(self.place), set(_keys(self.given)))
        """How many prompts have no answer."""
        prompts_of = Counter(language for language, _ in self.place)
        self.parts = split(self.given, shard_prompts, of=prompts_of)
        self._texts: dict[Path, pa.Table] = {}

    def shard(self, number: int) -> Shard:
        """Raises: ValueError if one of its answers is there twice."""
        language, places = self.parts[number]
        names = self.given.take(places)["prompt_id"].unique().sort()
        paths = [self.paths[file] for file in sorted({self.files[place] for place in places})]
        texts, self._texts = self._texts, {}
        for path in paths:
            self._texts[path] = texts[path] if path in texts else _read(path, "sample_index", "text")
        table = pa.concat_tables(self._texts.values())
        table = table.filter(pc.and_(pc.equal(table["language"], language), pc.is_in(table["prompt_id"], names)))
        table = table.sort_by([("prompt_id", "ascending"), ("sample_index", "ascending")])
        keys = [(language, name) for name in names.to_pylist()]
        turns = self.prompts["messages"].take([self.place[key] for key in keys]).to_pylist()
        return Shard(language, dict(zip(keys, turns, strict=True)), dataset.unique(table, "samples").to_pylist())


def encode(
    answers: Iterable[Answer], messages: Mapping[Key, Sequence[chat.Message]], tokenizer: Any, limit: int
) -> dict[Answer, list[int] | str]:
    """Each distinct answer's conversation as token ids, or the reason it is not scored.

    Sorted, so that the answers to one prompt go to the engine side by side whatever order they came in, and share the
    prompt's prefix cache: shuffled, they cost 2.9 times the tokens when memory is short.
    """
    return {answer: _encode(answer, messages, tokenizer, limit) for answer in sorted(set(answers))}


def _encode(
    answer: Answer, messages: Mapping[Key, Sequence[chat.Message]], tokenizer: Any, limit: int
) -> list[int] | str:
    language, prompt_id, text = answer
    turns = messages[language, prompt_id]
    if chat.special_token_in(tokenizer, turns, text):
        return "special_token"
    if THINK_END in text and THINK_END in str(tokenizer.chat_template):
        return "think_tag"  # Qwen3's template takes what comes before it for reasoning: the tail would be scored
    ids = chat.conversation_ids(tokenizer, turns, text)
    return ids if len(ids) <= limit else "over_long"


def handful(encoded: Mapping[Answer, list[int] | str], number: int) -> list[list[int]]:
    """At most `number` conversations, from the shortest to the longest in even steps."""
    ordered = sorted((ids for ids in encoded.values() if not isinstance(ids, str)), key=len)
    places = np.linspace(0, len(ordered) - 1, min(number, len(ordered))).round().astype(int)
    return [ordered[place] for place in places]


def _check_prompts(prompts: set[Key], answered: set[Key]) -> int:
    """How many prompts have no answer. Raises: ValueError if answers are to prompts that are not there."""
    if missing := sorted(answered - prompts):
        raise ValueError(
            f"score: found answers to {len(missing)} of {len(answered)} prompts that --prompts does not hold, "
            f"{missing[0]} for one; expected every prompt; add the datasets that were sampled"
        )
    return len(prompts - answered)


def _read(path: Path, *columns: str) -> pa.Table:
    return pq.read_table(path, columns=["prompt_id", "language", *columns])


def _keys(table: pa.Table) -> list[Key]:
    return list(zip(table["language"].to_pylist(), table["prompt_id"].to_pylist(), strict=True))


def answer_of(row: Mapping[str, Any]) -> Answer:
    return row["language"], row["prompt_id"], row["text"]
