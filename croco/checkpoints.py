"""Checkpoints: what a training run that was killed goes on from, in its folder and in the store.

A checkpoint is sealed: its manifest, written last, lists every file and names the run it belongs to by its identity,
all that the run's weights depend on. With a store, a sealed checkpoint's files are put to checkpoints/KEY/files, then
the record checkpoints/KEY/STEP.json that names them; KEY is the hash of the identity. The newest two are kept, since
the last one may turn out damaged, and none once the run's result is in the store.
"""

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from croco import dataset
from croco.store import Store, file_name
from croco.writer import Writer, key_of

KEPT = 2
"""Checkpoints kept of a run (ours)."""


def seal(checkpoint: Path, identity: Mapping[str, Any], seconds: float) -> None:
    """Mark a checkpoint as whole. `seconds`: what training took up to it, in all runs."""
    writer = Writer(checkpoint, None, stage="checkpoint", version=1, config=identity, existing=True)
    writer.attach(checkpoint)
    writer.finish([], metrics={"seconds": seconds})


def newest(folder: Path, identity: Mapping[str, Any] | None) -> Path | None:
    """The newest whole checkpoint in `folder` of the run of that identity; every other one is removed."""
    chosen: Path | None = None
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        if chosen is None and _belongs(checkpoint, identity):
            chosen = checkpoint
        else:
            shutil.rmtree(checkpoint)
    return chosen


def step_of(checkpoint: Path | None) -> int:
    """Steps done at a checkpoint; 0 without one."""
    return int(checkpoint.name.split("-")[1]) if checkpoint else 0


def _belongs(checkpoint: Path, identity: Mapping[str, Any] | None) -> bool:
    try:
        return dataset.verify(checkpoint).config == identity
    except (FileNotFoundError, ValueError):  # the run was killed while it was written
        return False


def keep(store: Store, checkpoint: Path) -> None:
    """Put a sealed checkpoint into the store, then remove what it supersedes there."""
    manifest = dataset.load_manifest(checkpoint)
    root = _root(manifest.config)
    for file in manifest.files:
        store.keep(checkpoint / file["path"], under=f"{root}/files")
    files = [{name: file[name] for name in ("path", "sha256", "bytes")} for file in manifest.files]
    store.write(f"{root}/{step_of(checkpoint)}.json", {"files": files, **manifest.metrics})
    remove(store, manifest.config, but=KEPT)


def fetch(store: Store, folder: Path, identity: Mapping[str, Any], after: int = 0) -> Path | None:
    """The newest checkpoint of the run in the store, now in `folder`; None if there is none after step `after`.

    One that is damaged, or lacks a file, is removed from the store with a warning, and the next older one is taken.
    """
    for step, record in _records(store, _root(identity)).items():
        if step <= after:
            break
        checkpoint = folder / f"checkpoint-{step}"
        if _fetched(store, record, checkpoint, _root(identity)):
            seal(checkpoint, identity, record["seconds"])
            return checkpoint
        store.remove(f"{_root(identity)}/{step}.json")
    return None


def _fetched(store: Store, record: Mapping[str, Any], checkpoint: Path, root: str) -> bool:
    """Whether all files of a record are now in `checkpoint`, which is not there otherwise."""
    shutil.rmtree(checkpoint, ignore_errors=True)
    for file in record["files"]:
        try:
            store.fetch(file["sha256"], checkpoint / file["path"], under=f"{root}/files")
        except (FileNotFoundError, ValueError) as error:
            warnings.warn(f"train: a stored checkpoint is not whole ({error}); an older one is taken", stacklevel=4)
            store.remove(file_name(file["sha256"], f"{root}/files"))
            shutil.rmtree(checkpoint, ignore_errors=True)
            return False
    return True


def remove(store: Store, identity: Mapping[str, Any], but: int = 0) -> None:
    """Remove all checkpoints of the run from the store but the newest ones: records first, then files of no record."""
    root = _root(identity)
    records = _records(store, root)
    for step in list(records)[but:]:
        store.remove(f"{root}/{step}.json")
        del records[step]
    named = {file_name(file["sha256"], f"{root}/files") for record in records.values() for file in record["files"]}
    for entry in list(store.entries(f"{root}/files/")):
        if entry.name not in named:
            store.remove(entry.name)


def _records(store: Store, root: str) -> dict[int, dict[str, Any]]:
    """Step -> record, newest first; one that is damaged is removed with a warning."""
    steps = [Path(entry.name) for entry in store.entries(f"{root}/") if entry.name.endswith(".json")]
    records = {}
    for path in sorted(steps, key=lambda path: int(path.stem), reverse=True):
        try:
            record = store.read(path.as_posix())
        except ValueError as error:
            warnings.warn(f"train: {error}", stacklevel=3)
            store.remove(path.as_posix())
            continue
        if record:
            records[int(path.stem)] = record
    return records


def _root(identity: Mapping[str, Any]) -> str:
    return f"checkpoints/{key_of(identity)}"
