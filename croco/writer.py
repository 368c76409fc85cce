"""Writer: one dataset, written by parts and its manifest last, or fetched whole from a store that has it already.

A stage's result has a key: its name and version, its config, the digests of its inputs, the identities of its models.
With a store, the result is put there under that key when it is finished (files first, then the record that names
them), and the next run that would come to the same key fetches it and does nothing else.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from croco import dataset, rows
from croco.dataset import MANIFEST, Count, Manifest, Spent
from croco.store import Store, open_store

UNFINISHED = "unfinished.json"
"""Stands in for the manifest while a stage writes, and says which stage: another never removes its files."""
PARTIAL = f"{UNFINISHED}.partial"
KEPT = "unfinished"
"""Folder of finished shards in an output that has no other store; gone when the output is finished."""


def key_of(*parts: Any) -> str:
    """sha256 over `parts` as JSON, dataclasses and all: equal things have equal keys in every process."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()


class Writer:
    """Writes one dataset: `add` rows, a file a call; `finish` once, which checks the conservation law.

    writer = Writer(out, "pairs", stage="pair", version=1, config=config, inputs=[prompts, samples], store=store)
    if writer.done:
        return writer.done
    writer.add(table)
    return writer.finish(tally.counts())
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
        models: Mapping[str, Mapping[str, Any]] | None = None,
        store: str | None = None,
        also: Any = None,
        neutral: Sequence[str] = (),
        existing: bool = False,
    ) -> None:
        """`also`: what else the result depends on; `neutral`: fields of the config it does not depend on.
        `existing`: `out` holds the files to attach already, and keeps them.
        """
        self.out, self.contract, self.stage, self.version, self.config = Path(out), contract, stage, version, config
        self.began = time.monotonic()
        self.models = {role: dict(identity) for role, identity in (models or {}).items()}
        inputs = [Path(directory) for directory in inputs]
        manifests = [dataset.load_manifest(directory) for directory in inputs]
        self.inputs = [{"stage": m.stage, "contract": m.contract, "digest": m.digest} for m in manifests]
        self.files: list[dict[str, Any]] = []
        self.shards: list[str] = []
        """Records of the shards the result is made of."""
        self.warnings: list[str] = []
        self.damaged = False
        """Whether the store had a damaged file of this result, so that all of them are put there anew."""
        self.gpus = 0
        """GPUs held while the stage runs."""
        self._ledger: dict[str | None, Spent] = {}
        self.spent(None).add(bytes_read=sum(file["bytes"] for m in manifests for file in m.files))
        settings = {name: value for name, value in plain(config).items() if name not in neutral}
        self.name = f"results/{stage}/{key_of(stage, version, contract, settings, self.inputs, self.models, also)}.json"
        if not existing:
            self._claim(inputs)
        self.store: Store | None = open_store(store) if store else None
        self.done: Manifest | None = self._restore(self.store) if self.store else None
        """The manifest, if the store had this very result; then nothing is left to do."""

    def _claim(self, inputs: Sequence[Path]) -> None:
        """Empty `out` of what an earlier run of this stage finished, or started to write as parts.

        Killed at any instant, it leaves what the next run of this stage can claim.
        Raises: ValueError if `out` is an input, or holds anything that this stage did not write.
        """
        if any(self.out.resolve() == directory.resolve() for directory in inputs):
            raise ValueError(f"{self.out}: found the output to be an input too; expected another directory")
        finished, unfinished = self.out / MANIFEST, self.out / UNFINISHED
        found, clear = self.stage, False
        if finished.exists():
            found, clear = dataset.load_manifest(self.out).stage, True
        elif unfinished.exists():
            marker = json.loads(unfinished.read_text(encoding="utf-8"))
            found, clear = marker["stage"], marker["clear"]
        elif self.out.exists() and (not self.out.is_dir() or {path.name for path in self.out.iterdir()} - {PARTIAL}):
            raise ValueError(f"{self.out}: found what no stage wrote; expected a new or empty directory")
        if found != self.stage:
            what = f"the output of {found}" if finished.exists() else f"{found} unfinished"
            raise ValueError(f"{self.out}: found {what}; expected a new directory, or one of {self.stage}")
        self.out.mkdir(parents=True, exist_ok=True)
        self._mark(clear=clear)
        finished.unlink(missing_ok=True)
        for stale in self.out.iterdir():
            if stale != unfinished and (clear or fnmatch(stale.name, "part-*.parquet")):
                shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        for half in self.out.rglob(".*.partial"):  # what a kill left of a fetch
            half.unlink()
        self._mark(clear=False)

    def _mark(self, *, clear: bool) -> None:
        """Say in `out` which stage writes there; `clear`: that all else in it is to be removed first."""
        partial = self.out / PARTIAL
        partial.write_text(json.dumps({"stage": self.stage, "clear": clear}) + "\n", encoding="utf-8")
        partial.replace(self.out / UNFINISHED)

    def _restore(self, store: Store) -> Manifest | None:
        """The manifest of this result, its files fetched to `out`; None if the store lacks it or a part of it."""
        try:
            record = store.read(self.name)
            if record is None:
                return None
            store.touch(self.name)
            for file in record["files"]:
                store.fetch(file["sha256"], self.out / file["path"])
        except (FileNotFoundError, ValueError) as error:
            self.damaged = True
            warnings.warn(f"{self.stage}: the stored result is not whole ({error}); it is made again", stacklevel=4)
            return None
        manifest = dataset.parse({**record["manifest"], "files": record["files"]})
        ledger = [dataclasses.replace(row, run_seconds=0.0, bytes_read=0, bytes_written=0) for row in manifest.ledger]
        for row in ledger:
            row.shards_computed, row.shards_reused = 0, row.shards_computed + row.shards_reused
            if row.language is None:
                row.add(run_seconds=time.monotonic() - self.began, bytes_read=store.bytes_read)
                row.bytes_written = sum(file["bytes"] for file in record["files"])
        for message in manifest.warnings:
            warnings.warn(message, stacklevel=4)
        return self._seal(dataclasses.replace(manifest, ledger=ledger))

    def spent(self, language: str | None) -> Spent:
        """The ledger's row of a language, to add to."""
        return self._ledger.setdefault(language, Spent(language))

    def warn(self, message: str) -> None:
        """Say `message` now and keep it in the manifest, so that the report can say it again."""
        warnings.warn(message, stacklevel=3)
        self.warnings.append(message)

    def add(self, table: pa.Table | Sequence[Mapping[str, object]]) -> dict[str, Any]:
        """Write rows as the next part; its entry in the manifest.

        Raises: ValueError if they do not conform to the contract.
        """
        assert self.contract, "this output has no contract: use attach"
        table = rows.conform(table, self.contract)
        path = self.next_part()
        pq.write_table(table, path, compression="zstd")
        return self.enter(path, len(table))

    def next_part(self) -> Path:
        """Where the next part goes."""
        return self.out / f"part-{len(self.files):05d}.parquet"

    def attach(self, path: Path) -> None:
        """List a file or every file of a folder below `out` that is not a part (a model, a plot)."""
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.name not in (MANIFEST, UNFINISHED):
                self.enter(file, None)

    def enter(self, path: Path, number: int | None, sha256: str | None = None) -> dict[str, Any]:
        """List a file of `number` rows below `out`; its entry in the manifest."""
        entry = {
            "path": path.relative_to(self.out).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": sha256 or dataset.sha256_file(path),
            "rows": number,
        }
        self.files.append(entry)
        return entry

    def finish(
        self,
        counts: Sequence[Count],
        *,
        models: Mapping[str, Mapping[str, Any]] | None = None,
        metrics: Mapping[str, Any] | None = None,
        may_be_empty: bool = False,
    ) -> Manifest:
        """Put the result into the store, then write the manifest, last and whole. The first count's unit is what a row
        of this dataset is.

        Raises: ValueError if the counts of that unit are not the rows written, or the dataset has no row.
        """
        manifest = Manifest(
            self.stage,
            self.version,
            self.contract,
            self.files,
            plain(self.config),
            self.inputs,
            models or self.models,
            list(counts),
            metrics or {},
            self.warnings,
            dataset.library_versions() | image(),
        )
        if self.contract:
            self._check(manifest, counts, may_be_empty)
        if self.store:
            for file in self.files:
                self.store.keep(self.out / file["path"], replace=self.damaged)
        manifest = dataclasses.replace(manifest, ledger=self._close())
        if self.store:
            content = dataclasses.asdict(manifest)
            files = content.pop("files")
            self.store.write(self.name, {"files": files, "shards": self.shards, "manifest": content})
        return self._seal(manifest)

    def _check(self, manifest: Manifest, counts: Sequence[Count], may_be_empty: bool) -> None:
        unit = counts[0].unit if counts else self.contract
        counted = sum(count.rows_out for count in counts if count.unit == unit)
        if counted != manifest.rows:
            raise ValueError(f"{self.stage}: found {counted} {unit} counted; expected the {manifest.rows} written")
        if not manifest.rows and not may_be_empty:
            dropped = sum((Counter(c.dropped) for c in counts if c.unit == unit), Counter[str]())
            raise ValueError(
                f"{self.stage}: found no {unit} to write; expected at least one; "
                f"dropped: {dict(dropped) or 'none, the input is empty'}"
            )

    def _close(self) -> list[Spent]:
        """The ledger: what no language accounts for goes to the row of all."""
        rest, languages = self.spent(None), [row for name, row in self._ledger.items() if name]
        seconds = time.monotonic() - self.began - sum(row.run_seconds for row in languages)
        rest.add(seconds=seconds, run_seconds=seconds, gpu_seconds=seconds * self.gpus)
        traffic = (self.store.bytes_read, self.store.bytes_written) if self.store else (0, 0)
        rest.add(
            bytes_read=max(traffic[0] - sum(row.bytes_read for row in languages), 0),
            bytes_written=sum(file["bytes"] for file in self.files)
            + max(traffic[1] - sum(row.bytes_written for row in languages), 0),
        )
        return [*sorted(languages, key=lambda row: str(row.language)), rest]

    def _seal(self, manifest: Manifest) -> Manifest:
        partial = self.out / f"{MANIFEST}.partial"
        partial.write_text(manifest.to_json() + "\n", encoding="utf-8")
        partial.replace(self.out / MANIFEST)
        (self.out / UNFINISHED).unlink(missing_ok=True)
        shutil.rmtree(self.out / KEPT, ignore_errors=True)
        return manifest


def image() -> dict[str, str]:
    """The container image that this runs in, by name, version and the source's revision; nothing outside of one."""
    return {"image": name} if (name := os.environ.get("CROCO_IMAGE")) else {}


def plain(config: Any) -> Any:
    """A config as JSON would give it back; 2.0 is 2, for Kubeflow hands on either as the other."""
    values = dataclasses.asdict(config) if dataclasses.is_dataclass(config) and not isinstance(config, type) else config
    return json.loads(json.dumps(values, default=str), parse_float=_number)


def _number(text: str) -> float:
    return int(value) if (value := float(text)).is_integer() else value
