"""Candidates: scored answers as columns of numbers, sorted by prompt, language and sample index.

What `pair` and `select` choose from. Keys are integers and texts are only compared, so nine million answers fit in
memory; the texts of the few that are chosen are read in a pass of their own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from croco import dataset

INDEX_BITS = 31
"""Bits of a key that hold the sample index (an int32 that is never negative)."""


@dataclass(frozen=True)
class Answers:
    """Scored answers as columns, each [answers], sorted by prompt, language and sample index."""

    key: NDArray[np.int64]
    """As Index.keys makes them."""
    place: NDArray[np.int64]
    """The prompt in its language: the key without its sample index."""
    prompt: NDArray[np.int64]
    """The prompt, whatever the language."""
    language: NDArray[np.int64]
    """Number of the language in Index.languages."""
    reward: NDArray[np.float64]
    text: NDArray[np.int64]
    """Equal where the texts are."""
    cut: NDArray[np.bool_]
    """finish_reason is `length`."""
    strange: NDArray[np.bool_]
    """Identified as another language than the one asked for, or as none."""


class Index:
    """Prompts by number: turns (prompt_id, language, sample_index) into one integer that sorts the same way."""

    def __init__(self, prompts: pa.Table) -> None:
        self.prompts = dataset.unique(prompts, "prompts")
        self.ids = pc.unique(prompts["prompt_id"]).sort()
        self.languages = pc.unique(prompts["language"]).sort()
        place = self._number(prompts["prompt_id"], prompts["language"])
        self.order = np.argsort(place)
        self.places = place[self.order]

    def _number(self, prompt_id: pa.ChunkedArray, language: pa.ChunkedArray) -> NDArray[np.int64]:
        prompt = pc.fill_null(pc.index_in(prompt_id, self.ids), -1).to_numpy().astype(np.int64)
        code = pc.fill_null(pc.index_in(language, self.languages), -1).to_numpy().astype(np.int64)
        return np.where((prompt < 0) | (code < 0), -1, prompt * len(self.languages) + code)

    def keys(self, table: pa.Table, name: str) -> NDArray[np.int64]:
        """A row's key. Raises: ValueError where a row belongs to no prompt."""
        place = self._number(table["prompt_id"], table["language"])
        strange = ~np.isin(place, self.places)
        if strange.any():
            row = table.select(["prompt_id", "language"]).slice(int(strange.argmax()), 1).to_pylist()[0]
            raise ValueError(f"{name}: found {strange.sum()} rows without a prompt, first {row}; expected none; "
                             "give every prompts dataset that was sampled")  # fmt: skip
        return place << INDEX_BITS | table["sample_index"].to_numpy().astype(np.int64)

    def rows(self, place: NDArray[np.int64]) -> pa.Table:
        """The prompts' rows of these places (a key without its sample index)."""
        return self.prompts.take(self.order[np.searchsorted(self.places, place)])


def load(
    index: Index, samples: Sequence[Path], scores: Sequence[Path], tally: dataset.Tally
) -> tuple[Answers, NDArray[np.int64], dict[str, dict[str, int]]]:
    """(every answer with a finite reward, every place that has an answer, unfit).

    `unfit` says per language how many of all answers are `cut` or in `other_language`.

    Answers without a score, or with one that is not finite, are counted as dropped. Raises: ValueError for a score
    without an answer, a row without a prompt, or a key that stands twice.
    """
    scored = dataset.read(scores, "scores")
    score_key = index.keys(scored, "scores")
    order = np.argsort(score_key)
    score_key, score = score_key[order], scored["reward"].to_numpy()[order].astype(np.float64)
    columns = ["prompt_id", "language", "sample_index", "text", "finish_reason", "identified"]
    parts = [_part(index, pq.read_table(path, columns=columns)) for path in _progress(samples, "reading answers")]
    key, text, cut, strange = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(key)
    key, text, cut, strange = key[order], text[order], cut[order], strange[order]
    for name, keys in [("scores", score_key), ("samples", key)]:
        if twice := int((np.diff(keys) == 0).sum()):
            raise ValueError(
                f"{name}: found {twice} rows whose (prompt_id, language, sample_index) is another's; expected 0"
            )
    reward = np.full(len(key), np.nan)
    found = np.isin(key, score_key, assume_unique=True)
    orphans = ~np.isin(score_key, key, assume_unique=True)
    if orphans.any():
        raise ValueError(
            f"scores: found {orphans.sum()} of {len(score_key)} rows without an answer; expected 0; "
            "give every samples dataset that was scored"
        )
    reward[found] = score
    keep = np.isfinite(reward)
    if not keep.any():
        raise ValueError(
            f"scores: found no finite reward for any of {len(key)} answers; expected some; run score again"
        )
    place = key >> INDEX_BITS
    language = place % len(index.languages)
    unfit = {}
    for number, code in enumerate(index.languages.to_pylist()):
        here = language == number
        tally.take(code, int(here.sum()))
        tally.drop(code, "unscored", int((here & ~found).sum()))
        tally.drop(code, "reward_not_finite", int((here & found & ~keep).sum()))
        tally.keep(code, int((here & keep).sum()))
        unfit[code] = {"cut": int((here & cut).sum()), "other_language": int((here & strange).sum())}
    columns_kept = (
        column[keep] for column in (key, place, place // len(index.languages), language, reward, text, cut, strange)
    )
    return Answers(*columns_kept), np.unique(place), unfit


def count_pools(
    unit: str,
    index: Index,
    pool: str,
    answered: NDArray[np.int64],
    scored: NDArray[np.int64],
    outcome: NDArray[np.intp],
    reasons: Mapping[int, str],
) -> dataset.Tally:
    """What became of every prompt's pool, by language; `pool` is `language`, or `all` (counted under None).

    `answered` are the places with an answer; `scored` [pools] those pools with a finite reward, in order, and `outcome`
    [pools] what became of them: a key of `reasons` is a drop, anything else is kept.
    """
    tally, number = dataset.Tally(unit), len(index.languages)
    asked = index.places
    if pool == "all":
        asked, answered = np.unique(asked // number), np.unique(answered // number)
    for at, code in enumerate(index.languages.to_pylist() if pool == "language" else [None]):
        every, some, ends = (
            places[places % number == at] if pool == "language" else places for places in (asked, answered, scored)
        )
        here = outcome[scored % number == at] if pool == "language" else outcome
        dropped = np.isin(here, list(reasons))
        tally.take(code, len(every))
        tally.keep(code, int((~dropped).sum()))
        tally.drop(code, "no_answer", len(every) - len(some))
        tally.drop(code, "none_scored", len(some) - len(ends))
        for key, reason in reasons.items():
            tally.drop(code, reason, int((here == key).sum()))
    return tally


def _progress(samples: Sequence[Path], what: str) -> Iterable[Path]:
    from tqdm import tqdm

    return tqdm(list(dataset.parts(samples, "samples")), desc=what, unit="file", disable=None)


def texts_of(index: Index, samples: Sequence[Path], keys: NDArray[np.int64]) -> pa.Array:
    """The texts of `keys` (sorted, each once), in their order; one pass over the samples, only these kept in memory."""
    found, texts = [], []
    for path in _progress(samples, "reading chosen texts"):
        table = pq.read_table(path, columns=["prompt_id", "language", "sample_index", "text"])
        part = index.keys(table, "samples")
        wanted = np.isin(part, keys)
        found.append(part[wanted])
        texts.append(table["text"].filter(pa.array(wanted)).combine_chunks())
    return pa.chunked_array(texts, pa.string()).combine_chunks().take(np.argsort(np.concatenate(found)))


def _part(index: Index, table: pa.Table) -> tuple[NDArray[Any], ...]:
    """(key, text number, cut, in another language) of a part of samples; equal texts have equal numbers."""
    text = np.fromiter(map(hash, table["text"].to_pylist()), np.int64, len(table))
    cut = pc.equal(table["finish_reason"], "length").to_numpy()
    base = pa.chunked_array([pc.list_element(pc.split_pattern(table["language"].combine_chunks(), "-"), 0)])
    strange = pc.fill_null(pc.not_equal(table["identified"], base), True).to_numpy()
    return index.keys(table, "samples"), text, cut, strange
