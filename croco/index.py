"""Index: prompts by number, so that what is chosen from are columns of integers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from croco import dataset

INDEX_BITS = 31
"""Bits of a key that hold the sample index (an int32 that is never negative)."""
SLAB_ROWS = 1 << 18
"""Answers of a slab, on average: 30 MB while they are chosen from."""
MOST_SLABS = 256
"""Each is an open file in each of two spills."""


@dataclass(frozen=True)
class Part:
    """Which answers are chosen from, of those there are."""

    languages: tuple[str, ...] = ()
    """Empty: all."""
    n: int | None = None
    """The first so many of each prompt; None: all."""

    def of(self, table: pa.Table) -> pa.Table:
        """Its rows of prompts, samples or scores."""
        if self.languages:
            table = table.filter(pa.array(_codes(table["language"], pa.array(self.languages)) >= 0))
        if self.n is not None and "sample_index" in table.column_names:
            table = table.filter(pc.less(table["sample_index"], self.n))
        return table


class Index:
    """Prompts by number: turns (prompt_id, language, sample_index) into one integer that sorts the same way."""

    def __init__(self, prompts: pa.Table, answers: int, part: Part = Part()) -> None:
        """`answers`: how many there are in all, by which prompts are dealt to slabs.

        Raises: ValueError where a language of `part` has no prompt.
        """
        dataset.unique(prompts, "prompts")
        self.part, prompts = part, part.of(prompts)
        if missing := sorted(set(part.languages) - set(pc.unique(prompts["language"]).to_pylist())):
            raise ValueError(
                f"languages: found no prompt in {', '.join(missing)}; expected some in each that is asked for"
            )
        self.ids = pc.unique(prompts["prompt_id"]).sort()
        self.languages = pc.unique(prompts["language"]).sort()
        base = pc.list_element(pc.split_pattern(self.languages, "-"), 0)
        self.bases = pc.unique(base)
        self._base = pc.index_in(base, self.bases).to_numpy().astype(np.int64)
        self.places = np.sort(self._number(prompts))
        self._asked = np.zeros(len(self.ids) * len(self.languages) + 1, bool)
        self._asked[self.places] = True
        self.slabs = max(min(-(-answers // SLAB_ROWS), MOST_SLABS, len(self.ids)), 1)

    @classmethod
    def of(cls, prompts: Sequence[Path], samples: Sequence[Path], part: Part = Part()) -> "Index":
        """The index of datasets of prompts, for the answers that `samples` have."""
        answers = sum(dataset.load_manifest(directory, "samples").rows for directory in samples)
        return cls(dataset.read(prompts, "prompts", ["prompt_id", "language"]), answers, part)

    def _number(self, table: pa.Table) -> NDArray[np.int64]:
        """The place of each row; -1 where its prompt or its language is none of these."""
        prompt, code = _codes(table["prompt_id"], self.ids), _codes(table["language"], self.languages)
        return np.where((prompt < 0) | (code < 0), -1, prompt * len(self.languages) + code)

    def place(self, table: pa.Table, name: str) -> NDArray[np.int64]:
        """Each row's prompt in its language. Raises: ValueError where a row belongs to no prompt."""
        place = self._number(table)
        strange = ~self._asked[place]
        if strange.any():
            row = table.select(["prompt_id", "language"]).slice(int(strange.argmax()), 1).to_pylist()[0]
            raise ValueError(
                f"{name}: found a row without a prompt, {row}; expected none; "
                "give every prompts dataset that was sampled"
            )
        return place

    def keys(self, table: pa.Table, name: str) -> NDArray[np.int64]:
        """A row's key. Raises: as place."""
        return self.place(table, name) << INDEX_BITS | table["sample_index"].to_numpy().astype(np.int64)

    def slab(self, place: NDArray[np.int64]) -> NDArray[np.int64]:
        """The slab of each place; it does not fall as places rise, and all languages of a prompt are in one."""
        return place // len(self.languages) * self.slabs // len(self.ids)

    def scores(self, scores: pa.Table) -> pa.Table:
        """key and reward of rows of scores."""
        return pa.table({"key": self.keys(scores, "scores"), "reward": scores["reward"]})

    def answers(self, samples: pa.Table) -> pa.Table:
        """key, cut and strange of rows of samples."""
        key = self.keys(samples, "samples")
        asked = self._base[(key >> INDEX_BITS) % len(self.languages)]
        strange = _codes(samples["identified"], self.bases) != asked
        cut = _codes(samples["finish_reason"], pa.array(["length"])) == 0
        return pa.table({"key": key, "cut": cut, "strange": strange})


def _codes(column: pa.ChunkedArray, values: pa.Array) -> NDArray[np.int64]:
    """The place in `values` of each value of `column`, -1 where it is null or not among them."""
    column = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
    column = column.unify_dictionaries().combine_chunks()
    codes = pc.fill_null(pc.index_in(column.dictionary, values), -1).to_numpy().astype(np.int64)
    return np.append(codes, -1)[pc.fill_null(column.indices, -1).to_numpy()]
