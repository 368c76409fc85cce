"""Answers of the paper's size, made fast: datasets of prompts, samples and scores as the stages would have cut them.

Texts are a kilobyte of words drawn by Zipf's law, which compress about as prose does; every fifth answer repeats an
earlier one of its prompt. Token ids are as many as such a text has. Rewards are normal, the same for equal answers.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from croco.dataset import Count
from croco.shards import bucket_of, buckets_for
from croco.writer import Writer

LANGUAGES = ("da", "de", "en", "es", "fr", "it", "nl")
PROMPTS, SAMPLES = 20_000, 64
"""Of each language, and answers to each (paper)."""
SHARD_PROMPTS = 256
TOKEN_CHARACTERS = 4

Group = dict[str, Path]
"""Contract -> dataset."""


class Words:
    """Texts and token ids, cut from a pool that is longer than what a file's compression looks back."""

    def __init__(self, rng: np.random.Generator) -> None:
        letters = rng.integers(ord("a"), ord("z") + 1, (20_000, 10), np.uint8)
        words = [bytes(row[:length]) for row, length in zip(letters, rng.integers(2, 11, 20_000).tolist(), strict=True)]
        likely = np.cumsum(1 / np.arange(1, len(words) + 1))
        drawn = np.searchsorted(likely, rng.random(1_000_000) * likely[-1])
        self.rng = rng
        self.text = np.frombuffer(b" ".join([words[at] for at in drawn.tolist()]), np.uint8)
        self.tokens = (rng.zipf(1.3, 1_000_000) % 128_000).astype(np.int32)

    def texts(self, lengths: NDArray[np.int64]) -> pa.Array:
        ends, pieces = _pieces(self.rng, self.text, lengths)
        return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(ends), pa.py_buffer(pieces))

    def ids(self, lengths: NDArray[np.int64]) -> pa.Array:
        ends, pieces = _pieces(self.rng, self.tokens, lengths)
        return pa.ListArray.from_arrays(pa.array(ends), pa.array(pieces))


def _pieces(
    rng: np.random.Generator, pool: NDArray[np.generic], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.generic]]:
    """Ends of pieces of these lengths, from 0, and the pieces, one after the other."""
    starts = rng.integers(0, len(pool) - int(lengths.max()), len(lengths))
    pieces = [pool[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
    return np.append(0, np.cumsum(lengths)).astype(np.int32), np.concatenate(pieces)


def make(
    out: Path, groups: int, prompts: int = PROMPTS, samples: int = SAMPLES, ids: bool = True
) -> list[dict[str, Path]]:
    """Datasets of each of `groups` tasks (16 at most) that shared the work, by contract; two are made at a time.

    `ids`: whether answers have token ids.
    """
    wanted = [(out / f"{group}", group, groups, prompts, samples, ids) for group in range(groups)]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        return list(pool.map(_group, *zip(*wanted, strict=True)))


def _group(out: Path, group: int, groups: int, prompts: int, samples: int, ids: bool) -> Group:
    """What `translate`, `sample` and `score` leave of the prompts of one group of shards."""
    names = [f"{number:016x}" for number in np.random.default_rng(0).permutation(2**40 + np.arange(prompts))]
    buckets = max(buckets_for(prompts, SHARD_PROMPTS), 16)  # so that no group is without
    shards: dict[int, list[str]] = {}
    for name in sorted(names):
        if (bucket := bucket_of(name, buckets)) % groups == group:
            shards.setdefault(bucket, []).append(name)
    words = Words(np.random.default_rng(group))
    contracts = ("prompts", "samples", "scores")
    writers = {name: Writer(out / name, name, stage=name, version=1, config={}) for name in contracts}
    for language in LANGUAGES:
        for bucket in sorted(shards):
            for name, table in _shard(shards[bucket], language, samples, words, ids).items():
                writers[name].add(table)
    asked = sum(map(len, shards.values()))
    for name, writer in writers.items():
        number = asked if name == "prompts" else asked * samples
        writer.finish([Count(name, language, number, number) for language in LANGUAGES])
    return {name: out / name for name in contracts}


def _shard(names: Sequence[str], language: str, samples: int, words: Words, ids: bool) -> dict[str, pa.Table]:
    """Rows of the answers to some prompts, and of the prompts, by contract."""
    rng, asked = words.rng, len(names)
    number = asked * samples
    lengths = np.clip(rng.lognormal(np.log(900), 0.5, number), 20, 6000).astype(np.int64)
    first = np.arange(number) // samples * samples
    again = first + (rng.random(number) * (np.arange(number) - first)).astype(np.int64)
    again = np.where(rng.random(number) < 0.2, again, np.arange(number))  # which answer each is word for word
    code = pa.array([language]).take(np.zeros(number, int))
    key = {
        "prompt_id": pa.array(names).take(np.repeat(np.arange(asked), samples)),
        "language": code,
        "sample_index": np.tile(np.arange(samples, dtype=np.int32), asked),
    }
    answers = key | {
        "text": words.texts(lengths).take(again),
        "token_ids": words.ids(lengths // TOKEN_CHARACTERS * ids).take(again),
        "finish_reason": pa.array(["stop", "length"]).take((rng.random(number) < 0.03)[again].astype(int)),
        "seed": rng.integers(2**31, size=number),
        "identified": pa.array([language, "en", None]).take((rng.random(number) < 0.02)[again].astype(int)),
        "logprob": pa.nulls(number, pa.float64()),
    }
    content = words.texts(rng.integers(100, 1500, asked))
    turns = pa.StructArray.from_arrays([pa.array(["user"] * asked), content], ["role", "content"])
    prompts = {
        "prompt_id": names,
        "language": [language] * asked,
        "messages": pa.ListArray.from_arrays(np.arange(asked + 1, dtype=np.int32), turns),
        "reference": words.texts(rng.integers(100, 1500, asked)),
        "source_dataset": ["made"] * asked,
        "domain": ["words"] * asked,
        "split": ["train"] * asked,
    }
    rewards = key | {"reward": rng.normal(size=number).astype(np.float32)[again]}
    return {"prompts": pa.table(prompts), "samples": pa.table(answers), "scores": pa.table(rewards)}
