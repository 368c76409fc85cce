"""Witness: what a store and a finished output must look like, whatever was killed."""

import hashlib
import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from croco import dataset
from croco.store import Store
from croco.trainer import CHECKPOINTS

SUPERSEDED = "checkpoints/"
"""Start of the names that a stage itself removes."""
OF_ONE_RUN = ("parity", "resumed_from")
"""Metrics of the engine that a run started, or of how it went, not of what came of it."""


class Witness:
    """Looks at a store after every kill."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.seen: dict[str, tuple[datetime, int]] = {}
        self.removable: tuple[str, ...] = (SUPERSEDED,)
        """Starts of names that may be gone at the next look."""

    def look(self) -> list[str]:
        """What is wrong: an entry written again or gone, a record that is damaged or names a file that is not whole."""
        found = {entry.name: (entry.modified, entry.bytes) for entry in self.store.entries()}
        wrong = [
            f"{name}: was {self.seen[name]}, is now {found.get(name, 'gone')}"
            for name in self.seen
            if found.get(name) != self.seen[name] and not (name.startswith(self.removable) and name not in found)
        ]
        for name in found:
            if name not in self.seen and name.endswith(".json"):
                try:
                    for sha256, under in self._files(name):
                        self.store.check(sha256, under)
                except (FileNotFoundError, ValueError) as error:
                    wrong.append(f"{name}: {error}")
        self.seen = found
        return wrong

    def _files(self, name: str) -> list[tuple[str, str]]:
        """(sha256, folder) of the files that a record names."""
        record = self.store.read(name)
        assert record is not None, name
        if name.startswith("shards/"):
            return [(record["file"], "files")] if record.get("file") else []
        under = f"{name.rpartition('/')[0]}/files" if name.startswith(SUPERSEDED) else "files"
        return [(file["sha256"], under) for file in record["files"]]

    def shards(self) -> int:
        """Finished shards in the store at the last look."""
        return sum(name.startswith("shards/") for name in self.seen)

    def result(self) -> bool:
        """Whether a finished output was in the store at the last look."""
        return any(name.startswith("results/") for name in self.seen)

    def step(self, out: Path) -> int:
        """Optimizer steps that a run in `out` need not do again: of the newest whole checkpoint there or stored."""
        stored = [int(Path(name).stem) for name in self.seen if name.startswith(SUPERSEDED) and name.endswith(".json")]
        local = [int(p.name.split("-")[1]) for p in (out / CHECKPOINTS).glob("checkpoint-*") if is_finished(p)]
        return max([0, *stored, *local])


def progress(store: Store, out: Path) -> int:
    """Pieces of work that are kept so far, shards or checkpoints, by their names alone."""
    shards = sum(1 for entry in store.entries() if entry.name.endswith(".json"))
    return shards + sum(1 for _ in (out / CHECKPOINTS).glob(f"checkpoint-*/{dataset.MANIFEST}"))


def differences(out: Path, expected: Path) -> list[str]:
    """How a finished output differs from another: bytes, rows, or what its manifest says of them."""
    manifest, other = dataset.verify(out), dataset.load_manifest(expected)
    wrong = []
    if manifest.digest != other.digest:
        files, others = ({file["path"]: file["sha256"] for file in m.files} for m in (manifest, other))
        differing = sorted(path for path in files | others if files.get(path) != others.get(path))
        wrong.append(f"digest {manifest.digest[:12]}; expected {other.digest[:12]}: {', '.join(differing)} differ")
    if manifest.contract and (changed := _rows(out, manifest.contract) - _rows(expected, manifest.contract)):
        wrong.append(f"{changed.total()} of {manifest.rows} rows are not among the expected {other.rows}")
    for name in ("counts", "inputs", "models", "config", "warnings"):
        if getattr(manifest, name) != getattr(other, name):
            wrong.append(f"{name} {getattr(manifest, name)}; expected {getattr(other, name)}")
    if _metrics(manifest) != _metrics(other):
        wrong.append(f"metrics {_metrics(manifest)}; expected {_metrics(other)}")
    return [f"{out}: found {words}" for words in wrong]


def strays(out: Path) -> list[str]:
    """What lies in a finished output that its manifest does not list."""
    listed = {file["path"] for file in dataset.load_manifest(out).files} | {dataset.MANIFEST}
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    return [f"{out}: found {path}; expected nothing that the manifest does not list" for path in sorted(there - listed)]


def is_finished(folder: Path) -> bool:
    """Whether a reader would accept what is there."""
    try:
        dataset.verify(folder)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _rows(out: Path, contract: str) -> Counter[str]:
    """Hash of each row -> how often it is there."""
    rows = dataset.read(out, contract).to_pylist()
    return Counter(hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest() for row in rows)


def _metrics(manifest: dataset.Manifest) -> dict[str, Any]:
    return {name: value for name, value in manifest.metrics.items() if name not in OF_ONE_RUN}
