"""Shards: a stage's work in pieces, each done once, whatever is killed, repeated, or spread over many pods.

A prompt belongs to a bucket of its language by the hash of its id, and a shard is what a language has in one bucket.
Its key is the hash of the stage, its version, the settings and models that its rows depend on, and the rows it is made
from. A finished shard is put into the store under that key, its file before the record that names it; whoever comes to
the same key, a restarted pod or next month's run, finds it there.
"""

import copy
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa

from croco import rows
from croco.dataset import Count, Tally
from croco.store import Store, open_store
from croco.writer import KEPT, Writer, key_of, plain


class Metered(Protocol):
    """An engine that counts what it reads and writes."""

    tokens_in: int
    tokens_out: int
    gpus: int


Engine = TypeVar("Engine", bound=Metered)


@dataclass(frozen=True)
class Share:
    """Which part of the work this run does; all shares together do all of it, and none of it twice."""

    languages: tuple[str, ...] = ()
    """Codes of the languages to do; all that are found by default (ours)."""
    group: int = 0
    """Which group of shards to do, from 0 (ours)."""
    groups: int = 1
    """How many groups the shards of a language are dealt to; results do not depend on it (ours)."""

    def __post_init__(self) -> None:
        if not 0 <= self.group < self.groups:
            raise ValueError(f"group: found {self.group} of {self.groups} groups; expected 0 to groups - 1")


@dataclass(frozen=True)
class Outcome:
    """What came of one shard."""

    rows: Sequence[Mapping[str, Any]]
    counts: Sequence[Count]
    measures: Mapping[str, float] = field(default_factory=dict)
    """Numbers that add up over shards."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What else its record says, as JSON would give it back."""


def buckets_for(number: int, size: int) -> int:
    """The fewest buckets, a power of two, with `size` of `number` rows or less in each on average.

    A power of two, so that most shards stay as they are when a few prompts come or go.
    """
    return 1 << max(-(-number // size) - 1, 0).bit_length()


def bucket_of(name: str, buckets: int) -> int:
    """The bucket of a prompt or question by its id."""
    return int(rows.fraction_of("shard", name) * buckets)


def split(
    table: pa.Table, size: int, share: Share = Share(), key: str = "prompt_id", of: Mapping[str, int] | None = None
) -> list[tuple[str, list[int]]]:
    """(language, places of its rows in `table`) of every shard of `share`, by language and bucket; rows keep their
    order within a shard.

    `of`: how many ids each language has in all, where `table` holds only some, or several rows of one.
    Raises: ValueError if `share` names a language that `table` does not have.
    """
    codes, names = table["language"].to_pylist(), table[key].to_pylist()
    here = {code: codes.count(code) for code in sorted(set(codes))}
    if strange := sorted(set(share.languages) - set(here)):
        raise ValueError(f"languages: found {', '.join(strange)}; expected some of {', '.join(here) or 'none'}")
    wanted = set(share.languages or here)
    buckets = {code: buckets_for((of or here)[code], size) for code in here}
    places: dict[tuple[str, int], list[int]] = defaultdict(list)
    for place, (code, name) in enumerate(zip(codes, names, strict=True)):
        bucket = bucket_of(name, buckets[code])
        if code in wanted and bucket % share.groups == share.group:
            places[code, bucket].append(place)
    return [(code, places[code, bucket]) for code, bucket in sorted(places)]


class Shards(Generic[Engine]):
    """Does a stage's shards one after the other, each by its record in the store or else by an engine.

    The engine is loaded for the first shard that has to be computed: a stage that finds all of them starts none.
    """

    def __init__(
        self, writer: Writer, *, load: Callable[[], Engine], settings: Any, neutral: Sequence[str] = ()
    ) -> None:
        """`settings`: the config, or what else rows depend on besides the stage's version and its models; `neutral`:
        its fields on which rows do not depend.
        """
        self.writer, self.load = writer, load
        used = {name: value for name, value in plain(settings).items() if name not in neutral}
        self.about = (writer.stage, writer.version, used, copy.deepcopy(writer.models))
        self.store: Store = writer.store or open_store(writer.out / KEPT)
        self.engine: Engine | None = None
        self.tallies: dict[str, Tally] = {}
        self.measures: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        """Measure -> language -> its sum over the shards so far."""
        self.rows: Counter[str] = Counter()
        """Rows written so far by language."""

    def do(self, language: str, content: Any, compute: Callable[[Engine], Outcome]) -> dict[str, Any]:
        """The record of the shard that is made from `content` (anything JSON can hold); its rows are the next part."""
        name = f"shards/{self.writer.stage}/{key_of(*self.about, content)}.json"
        spent = self.writer.spent(language)
        read, written = self.store.bytes_read, self.store.bytes_written
        record = self._find(name)
        if record:
            spent.add(shards_reused=1)
        else:
            record = self._compute(language, name, compute)
            spent.add(shards_computed=1, run_seconds=record["seconds"])
        spent.add(**{what: record[what] for what in ("tokens_in", "tokens_out", "seconds", "gpu_seconds")})
        spent.add(bytes_read=self.store.bytes_read - read, bytes_written=self.store.bytes_written - written)
        self.writer.shards.append(name)
        for count in record["counts"]:
            self.tallies.setdefault(count["unit"], Tally(count["unit"])).add(Count(**count))
        self.rows[language] += record["rows"]
        for measure, value in record["measures"].items():
            self.measures[measure][language] += value
        return record

    def _find(self, name: str) -> dict[str, Any] | None:
        """The record of that name, its rows fetched as the next part; None where it has to be made (again)."""
        path = self.writer.next_part()
        try:
            record = self.store.read(name)
            if record:
                self.store.touch(name)
            if record and record["file"]:
                self.store.fetch(record["file"], path)
                self.writer.enter(path, record["rows"], record["file"])
        except (FileNotFoundError, ValueError) as error:
            self.writer.damaged = True
            warnings.warn(f"{self.writer.stage}: a stored shard is not whole ({error}); it is made again", stacklevel=4)
            return None
        return record

    def _compute(self, language: str, name: str, compute: Callable[[Engine], Outcome]) -> dict[str, Any]:
        if self.engine is None:
            self.engine = self.load()
            self.writer.gpus = self.engine.gpus
        began, before = time.monotonic(), (self.engine.tokens_in, self.engine.tokens_out)
        outcome = compute(self.engine)
        seconds = time.monotonic() - began
        entry = self.writer.add(outcome.rows) if outcome.rows else None
        record = {
            "language": language,
            "file": entry and entry["sha256"],
            "rows": len(outcome.rows),
            "counts": [asdict(count) for count in outcome.counts],
            "measures": dict(outcome.measures),
            "notes": dict(outcome.notes),
            "tokens_in": self.engine.tokens_in - before[0],
            "tokens_out": self.engine.tokens_out - before[1],
            "seconds": seconds,
            "gpu_seconds": seconds * self.engine.gpus,
        }
        if entry:
            self.store.keep(self.writer.out / entry["path"], replace=self.writer.damaged)
        self.store.write(name, record)
        return record

    def shares(self, measure: str) -> dict[str, float]:
        """Language -> a measure's sum over the rows written, by their number; languages without rows are left out."""
        rows = {code: number for code, number in self.rows.items() if number}
        return {code: self.measures[measure][code] / number for code, number in sorted(rows.items())}

    def counts(self) -> list[Count]:
        """Of all shards, the rows' own unit first."""
        return [count for tally in self.tallies.values() for count in tally.counts()]
