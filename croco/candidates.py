"""Candidates: scored answers as columns of numbers, sorted by prompt, language and sample index.

What `pair` and `select` choose from. Keys are integers; no text is read before it is known which are wanted, and then
only those are kept. Rows may come in any order and from any number of files: they are put away on disk by slab, a range
of prompts in all their languages, and chosen from a slab at a time, so that of answers only a slab is in memory, and of
each pool some numbers.
"""

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from croco import dataset
from croco.index import INDEX_BITS, Index, Part
from croco.rows import CONTRACTS
from croco.spill import Spill, scan

KEY = ["prompt_id", "language", "sample_index"]


@dataclass(frozen=True)
class Columns:
    """Arrays of one length, as the columns of a table."""

    def only(self, kept: NDArray[np.bool_] | slice) -> Self:
        """The rows of `kept`."""
        return type(self)(*(getattr(self, field.name)[kept] for field in fields(self)))


@dataclass(frozen=True)
class Answers(Columns):
    """Scored answers as columns, each [answers], sorted by prompt, language and sample index."""

    key: NDArray[np.int64]
    """As Index.keys makes them."""
    place: NDArray[np.int64]
    """The prompt in its language: the key without its sample index."""
    prompt: NDArray[np.int64]
    """The prompt, whatever the language."""
    reward: NDArray[np.float64]
    cut: NDArray[np.bool_]
    """finish_reason is `length`."""
    strange: NDArray[np.bool_]
    """Identified as another language than the one asked for, or as none."""


def sampler_of(samples: Sequence[Path]) -> dict[str, Mapping[str, Any]]:
    """{policy: identity} of the model whose answers these are; empty where their manifests do not say.

    Raises: ValueError for answers of several models.
    """
    found = [dataset.load_manifest(directory, "samples").models.get("policy", {}) for directory in samples]
    if len({json.dumps(identity, sort_keys=True) for identity in found}) > 1:
        raise ValueError(f"samples: found answers of several models, {found}; expected those of one")
    return {"policy": found[0]} if found[0] else {}


class Candidates:
    """The answers of `samples` and the rewards of `scores`, put away in `folder` by slab."""

    def __init__(self, index: Index, samples: Sequence[Path], scores: Sequence[Path], folder: Path) -> None:
        """Raises: ValueError for a row without a prompt."""
        self.index, self.samples, self.folder = index, samples, folder
        self.unfit = {code: {"cut": 0, "other_language": 0} for code in index.languages.to_pylist()}
        """Per language how many of the answers that `load` read are cut or in another language, scored or not."""
        self.left_out: Counter[str] = Counter()
        """Per language how many answers are not of the index's part."""
        self._scores = Spill(folder / "scores", pa.schema({"key": pa.int64(), "reward": pa.float32()}))
        self._answers = Spill(
            folder / "answers", pa.schema({"key": pa.int64(), "cut": pa.bool_(), "strange": pa.bool_()})
        )
        for spill, directories, contract, columns, narrow in [
            (self._scores, scores, "scores", ["reward"], index.scores),
            (self._answers, samples, "samples", ["finish_reason", "identified"], index.answers),
        ]:
            work = functools.partial(_of_part, index.part, narrow)
            for table, left in scan(directories, contract, [*KEY, *columns], work, f"reading {contract}"):
                spill.add(index.slab(table["key"].to_numpy() >> INDEX_BITS), table)
                if contract == "samples":
                    self.left_out.update(left)

    def load(self, tally: dataset.Tally) -> Iterator[tuple[Answers, NDArray[np.int64]]]:
        """Slab by slab: (every answer with a finite reward, every place that has an answer).

        Answers that are not of the part, without a score, or with one that is not finite, are counted as dropped.
        Raises, at the end: ValueError
        for a score without an answer, a key that stands twice, or if no reward is finite.
        """
        for code, number in self.left_out.items():
            tally.take(code, number)
            tally.drop(code, "left_out", number)
        twice, scored, orphans, finite = Counter[str](), 0, 0, 0
        for slab in range(self.index.slabs):
            every, score_key = self._join(slab)
            for name, key in [("scores", score_key), ("samples", every.key)]:
                twice[name] += int((np.diff(key) == 0).sum())
            scored += len(score_key)
            orphans += int((~_among(score_key, every.key)).sum())
            answers = every.only(np.isfinite(every.reward))
            finite += len(answers.key)
            self._count(every, _among(every.key, score_key), tally)
            yield answers, np.unique(every.place)
        for name, number in twice.items():
            if number:
                raise ValueError(
                    f"{name}: found {number} rows whose (prompt_id, language, sample_index) is another's; expected 0"
                )
        if orphans:
            raise ValueError(
                f"scores: found {orphans} of {scored} rows without an answer; expected 0; "
                "give every samples dataset that was scored"
            )
        if not finite:
            raise ValueError(
                f"scores: found no finite reward for any of {sum(tally.taken.values())} answers; expected some; "
                "run score again"
            )

    def read(self, slab: int) -> Answers:
        """Every answer of a slab with a finite reward."""
        every, _ = self._join(slab)
        return every.only(np.isfinite(every.reward))

    def _join(self, slab: int) -> tuple[Answers, NDArray[np.int64]]:
        """(every answer of a slab, its reward nan without a score, every key of its scores)."""
        scores, answers = (spill.read(slab).sort_by("key") for spill in (self._scores, self._answers))
        key, score_key = answers["key"].to_numpy(), scores["key"].to_numpy()
        reward, found = np.full(len(key), np.nan), _among(key, score_key)
        reward[found] = scores["reward"].to_numpy()[np.searchsorted(score_key, key[found])]
        place = key >> INDEX_BITS
        cut, strange = (answers[name].to_numpy() for name in ("cut", "strange"))
        return Answers(key, place, place // len(self.index.languages), reward, cut, strange), score_key

    def _count(self, every: Answers, found: NDArray[np.bool_], tally: dataset.Tally) -> None:
        finite, language = np.isfinite(every.reward), every.place % len(self.index.languages)
        for number, code in enumerate(self.index.languages.to_pylist()):
            here = language == number
            tally.take(code, int(here.sum()))
            tally.drop(code, "unscored", int((here & ~found).sum()))
            tally.drop(code, "reward_not_finite", int((here & found & ~finite).sum()))
            tally.keep(code, int((here & finite).sum()))
            self.unfit[code]["cut"] += int((here & every.cut).sum())
            self.unfit[code]["other_language"] += int((here & every.strange).sum())

    def texts(self, keys: NDArray[np.int64], name: str, also: Sequence[str] = ()) -> Spill:
        """The texts of `keys` (sorted, each once), and the columns `also` of their rows, by slab; one pass over the
        samples.
        """
        # large: a slab's texts may be more than the 2 GiB that one array of strings can hold
        own = [CONTRACTS["samples"].schema.field(column) for column in also]
        schema = pa.schema([("key", pa.int64()), ("text", pa.large_string()), *own])
        spill = Spill(self.folder / name, schema)

        def wanted(table: pa.Table) -> pa.Table:
            table = self.index.part.of(table)
            key = self.index.keys(table, "samples")
            here = _among(key, keys)
            kept = table.select(["text", *also]).filter(pa.array(here))
            return kept.add_column(0, "key", pa.array(key[here])).cast(schema)

        for table in scan(self.samples, "samples", [*KEY, "text", *also], wanted, "reading chosen texts"):
            spill.add(self.index.slab(table["key"].to_numpy() >> INDEX_BITS), table)
        return spill

    def prompts(self, prompts: Sequence[Path], places: NDArray[np.int64], columns: Sequence[str]) -> Spill:
        """`columns` of the prompts of `places` (sorted, each once) by slab, with their place."""
        fields = [CONTRACTS["prompts"].schema.field(name) for name in columns]
        spill = Spill(self.folder / "prompts", pa.schema([pa.field("place", pa.int64()), *fields]))

        def wanted(table: pa.Table) -> pa.Table:
            table = self.index.part.of(table)
            place = self.index.place(table, "prompts")
            here = _among(place, places)
            table = table.filter(pa.array(here)).select(columns).cast(pa.schema(fields))
            return table.add_column(0, "place", pa.array(place[here]))

        for table in scan(prompts, "prompts", ["prompt_id", "language", *columns], wanted, "reading prompts"):
            spill.add(self.index.slab(table["place"].to_numpy()), table)
        return spill


def _of_part(part: Part, narrow: Callable[[pa.Table], pa.Table], table: pa.Table) -> tuple[pa.Table, Counter[str]]:
    """(what `narrow` makes of the rows of `part`, how many other rows each language has)."""
    kept, left = part.of(table), Counter[str]()
    if len(kept) < len(table):
        left.update(table["language"].to_pylist())
        left.subtract(kept["language"].to_pylist())
    return narrow(kept), left


def _among(values: NDArray[np.int64], sorted_values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of `values` are among `sorted_values`."""
    if not len(sorted_values):
        return np.zeros(len(values), bool)
    found = np.searchsorted(sorted_values, values)
    return sorted_values[np.minimum(found, len(sorted_values) - 1)] == values
