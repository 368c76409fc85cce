"""Storage: what a store holds, whether it is whole, and removing what nothing uses any more.

A result's record names its files under `files` and the records of its shards under `shards`; a shard's names its file
under `file`; a checkpoint's, `checkpoints/KEY/STEP.json`, names files that lie in `checkpoints/KEY/files`; a job's that
was handed to nodes, and its result's, `trainjobs/KEY/*.json`, name theirs under `files`. A release's names the model's
files, which have names of their own in `models/`, and those of its evaluations. Releases stay, and so do the records of
what runs were made with, `runs/LINE.json`, which name no files.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tqdm import tqdm

from croco.store import DAY, Entry, Store, file_name, open_store

SETTLED = 2 * DAY
"""What was used since is never removed: a stage may be writing the record that names it, and use is noted once a day.
Ours."""
AT_ONCE = 8
"""Records that are read at once, since a bucket takes its milliseconds for each. Ours."""
SHOWN = 20
"""Faults that are told one by one. Ours."""
UNUSED_GO = ("results", "shards", "checkpoints", "trainjobs")
"""Kinds of records that are removed when nothing used them for long."""
MODELS = "models/"
"""Where released models lie, whose files may be JSON and are no records."""


@dataclass(frozen=True)
class Ls:
    """List what a store holds, by kind and stage."""

    store: str
    """Folder, or s3://bucket/prefix."""

    def run(self, opened: Store) -> None:
        content = Content(opened)
        groups: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name in content.records:
            groups[kind_of(name)].append(name)
        print(f"{'kind':12} {'stage':12} {'records':>8} {'files':>8} {'bytes':>18}  newest use")
        for (kind, stage), records in sorted(groups.items()):
            content.show(kind, stage, records, content.named(records))
        content.show("unnamed", "", [], content.files - set(content.named(content.records)))
        content.show("all", "", content.records, content.files)
        if content.damaged:
            print(f"{len(content.damaged)} records are damaged; `python -m croco store verify` names them")


@dataclass(frozen=True)
class Verify:
    """Check that every record is whole, and every file that one names is there with the right content."""

    store: str
    """Folder, or s3://bucket/prefix."""
    quick: bool = False
    """Check files by name and size alone, without reading them (ours)."""

    def run(self, opened: Store) -> None:
        """Raises: ValueError if anything is damaged or missing."""
        content = Content(opened)
        named = content.named(content.records)
        faults = list(content.damaged.values())
        for name, file in tqdm(sorted(named.items()), desc="files", unit="file", disable=None):
            try:
                self._check(opened, name, file, content.entries.get(name))
            except (FileNotFoundError, ValueError) as error:
                faults.append(str(error))
        for fault in faults[:SHOWN]:
            print(fault)
        if faults:
            raise ValueError(
                f"{opened.location}: found {len(faults)} damaged or missing among {len(named)} files and "
                f"{len(content.records) + len(content.damaged)} records; expected none; run the stages that wrote them "
                "again, which replaces them"
            )
        print(f"{len(content.records)} records and {len(named)} files are {'there' if self.quick else 'whole'}")

    def _check(self, opened: Store, name: str, file: "File", listed: Entry | None) -> None:
        """Raises: FileNotFoundError or ValueError if a file is not whole, or, if quick, does not look so."""
        if not self.quick:
            opened.check(file.sha256, name=name)
        elif not (found := listed or opened.find(name)):
            raise FileNotFoundError(f"{opened.location}/{name}: found no such file; expected what a record names")
        elif file.bytes is not None and found.bytes != file.bytes:
            raise ValueError(f"{opened.location}/{name}: damaged: found {found.bytes} bytes; expected {file.bytes}")


@dataclass(frozen=True)
class Gc:
    """Remove results, shards and checkpoints that were not used for some days, then all files that no record names.

    A result that stays keeps its shards. What killed writers left half-written goes too. Nothing of the last two days
    is removed.
    """

    store: str
    """Folder, or s3://bucket/prefix."""
    days: float = 30
    """How many days a record may lie unused, 2 or more (ours)."""
    delete: bool = False
    """Remove it; by default only say what would go (ours)."""

    def run(self, opened: Store, now: datetime | None = None) -> None:
        """Raises: ValueError for fewer than two days."""
        now = now or datetime.now(UTC)
        settled, before = now - SETTLED, now - timedelta(days=self.days)
        if before > settled:
            raise ValueError(f"days: found {self.days:g}; expected 2 or more, because use is noted once a day")
        going = Content(opened).unused(before, settled)
        if self.delete:
            going = [entry for entry in tqdm(going, desc="removing", disable=None) if _remove(opened, entry, settled)]
        left = opened.backend.sweep(settled, self.delete)
        records = sum(entry.name.endswith(".json") for entry in going)
        print(
            f"{'removed' if self.delete else 'would remove'} {records} records, {len(going) - records} files and "
            f"{len(left)} half-written ones, {sum(entry.bytes for entry in [*going, *left])} bytes"
            f"{'' if self.delete else '; --delete does it'}"
        )


@dataclass(frozen=True)
class File:
    """What a record says of a file it names."""

    sha256: str
    bytes: int | None
    """None where the record does not say."""


class Content:
    """Everything in a store, and every record read."""

    def __init__(self, opened: Store) -> None:
        self.entries = {entry.name: entry for entry in opened.entries()}
        names = [name for name in self.entries if name.endswith(".json") and not name.startswith(MODELS)]
        self.files = set(self.entries) - set(names)
        self.records: dict[str, Mapping[str, Any]] = {}
        self.damaged: dict[str, str] = {}
        """Name -> what is wrong with it."""

        def read(name: str) -> None:
            try:
                if (record := opened.read(name)) is not None:
                    self.records[name] = record
            except ValueError as error:
                self.damaged[name] = str(error)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(tqdm(pool.map(read, names), total=len(names), desc="records", unit="record", disable=None))

    def named(self, records: Iterable[str]) -> dict[str, File]:
        """The files that these records name."""
        return {file: size for name in records for file, size in files_of(name, self.records[name]).items()}

    def unused(self, before: datetime, settled: datetime) -> list[Entry]:
        """Records last used before `before` that nothing needs, then files last used before `settled` that no other
        record names.
        """
        old = {
            name
            for name in [*self.records, *self.damaged]
            if name.split("/")[0] in UNUSED_GO and self.entries[name].modified < before
        }
        kept = [record for name, record in self.records.items() if name not in old]
        old -= {shard for record in kept for shard in record.get("shards", ())}
        needed = self.named(name for name in self.records if name not in old)
        files = {name for name in self.files - set(needed) if self.entries[name].modified < settled}
        files = {name for name in files if not name.startswith(MODELS)}  # a server may be reading them
        return [self.entries[name] for name in [*sorted(old), *sorted(files)]]

    def show(self, kind: str, stage: str, records: Iterable[str], files: Iterable[str]) -> None:
        """One line of `ls`."""
        records, files = list(records), [name for name in files if name in self.entries]
        entries = [self.entries[name] for name in [*records, *files]]
        newest = max((entry.modified for entry in entries), default=None)
        print(
            f"{kind:12} {stage:12} {len(records):>8} {len(files):>8} {sum(entry.bytes for entry in entries):>18,}  "
            f"{newest.strftime('%Y-%m-%d %H:%M') if newest else '-'}"
        )


def files_of(name: str, record: Mapping[str, Any]) -> dict[str, File]:
    """The files that a record names."""
    kept = [file for files in record.get("evaluations", {}).values() for file in files]
    if name.startswith("releases/"):
        model = f"{MODELS}{record['name']}/{record['version']}"
        files = {f"{model}/{file['path']}": File(file["sha256"], file["bytes"]) for file in record["files"]}
        return files | {file_name(file["sha256"]): File(file["sha256"], file["bytes"]) for file in kept}
    under = f"{name.rpartition('/')[0]}/files" if name.startswith("checkpoints/") else "files"
    files = {file_name(file["sha256"], under): File(file["sha256"], file["bytes"]) for file in record.get("files", ())}
    if record.get("file"):
        files[file_name(record["file"], under)] = File(record["file"], None)
    return files


def kind_of(name: str) -> tuple[str, str]:
    """(kind, stage) of a record: `results/pair/KEY.json` is of (results, pair); a checkpoint is train's."""
    kind, *rest = name.split("/")
    return kind, "train" if kind in ("checkpoints", "trainjobs") else rest[0] if len(rest) > 1 else ""


def _remove(opened: Store, entry: Entry, settled: datetime) -> bool:
    """Whether the entry was removed: not if it was used meanwhile."""
    found = opened.find(entry.name)
    if not found or found.modified >= settled:
        return False
    opened.remove(entry.name)
    return True


def run(do: Ls | Verify | Gc) -> None:
    """What a store of results, shards and checkpoints holds; is it whole; remove what is no longer used.

    Args:
        do: What to do.
    """
    do.run(open_store(do.store))
