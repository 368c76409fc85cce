"""Recall: a promoted model -> a folder to sample from and to tune on from.

    python -m croco recall --name croco-da --store s3://bucket/prefix --out DIR

The folder is as `train` writes it, with the model in merged/: its files as they were published, but for the model card.
So a recurring run can go on from what the one before made instead of beginning anew (`start: last` of the pipeline); it
is judged against the base policy all the same, and against the model promoted last (croco/promote.py).

Source: ours; the paper tunes once.
"""

import re
import shutil
from pathlib import Path

from tqdm import tqdm

from croco import dataset, models, release
from croco.likeness import weights
from croco.release import CARD, MERGED
from croco.store import open_store
from croco.writer import Writer

VERSION = 1


def run(*, name: str, store: str, version: str | None = None, out: Path) -> dataset.Manifest:
    """Fetch a promoted model.

    Args:
        name: Line of models, as croco-da.
        store: Where promoted models are: s3://bucket/prefix or a folder.
        version: Which of them; by default the one promoted last.
        out: Directory to write.

    Raises: ValueError if there is none, or it is not what was promoted; as Store.fetch.
    """
    opened = open_store(store)
    found = release.read(opened, release.check_name(name), version) if version else release.last(opened, name)
    if not found:
        raise ValueError(
            f"{opened.location}: found no model {name} {version or 'that was promoted'}; expected what `croco publish` "
            "put there"
        )
    writer = Writer(out, None, stage="recall", version=VERSION, config={"name": name, "version": found.version})
    shutil.rmtree(out / MERGED, ignore_errors=True)  # what a kill left of another version
    files = [file for file in found.files if file["path"] != CARD]
    for file in tqdm(files, desc="recall", unit="file", disable=None):
        kept = f"models/{name}/{found.version}/{file['path']}"
        opened.fetch(file["sha256"], out / MERGED / file["path"], name=kept)
    if (sha256 := models.check_local(out / MERGED, None)) != found.sha256:
        raise ValueError(
            f"{found.location(opened)}: found weights {sha256[:12]}; expected {found.sha256[:12]}, those promoted"
        )
    writer.attach(out / MERGED)
    counts = [dataset.Count("files", None, len(files), len(files))]
    return writer.finish(counts, models={"policy": {"id": name, "sha256": sha256}}, metrics={"version": found.version})


def write_nothing(out: Path) -> dataset.Manifest:
    """What `run` writes where there is nothing to start from but the policy: a manifest alone."""
    return Writer(out, None, stage="recall", version=VERSION, config={}).finish([], metrics={"version": None})


def check_start(start: str, name: str, store: str, nodes: int) -> None:
    """Whether a run can start from there, as far as its parameters tell.

    Args:
        start: `policy`, `last`, which is the policy while nothing was promoted, or a version that was.
        name: Line of models, and `store` where they are; empty for none.
        nodes: How many train at once; they share no folder that one of them has.

    Raises: ValueError if not.
    """
    if start == "policy":
        return
    if start != "last" and not re.fullmatch("[0-9a-f]{12}", start):
        raise ValueError(f"start: found {start!r}; expected policy, last, or a version of 12 hexadecimal digits")
    if not name or not store:
        raise ValueError(
            f"start: found {start}, with promote_as {name or 'empty'} and store {store or 'empty'}; expected both, "
            "which say where promoted models are"
        )
    release.check_name(name)
    if nodes > 1:
        raise ValueError(f"start: found {start}, and {nodes} nodes that train; expected policy, or a profile with one")


def resolve_start(
    start: str, *, name: str, store: str, policy: str, revision: str | None, nodes: int = 1
) -> tuple[str, str]:
    """Name and version of the promoted model that a run starts from; empty for the policy itself.

    Args: as `check_start`; `policy`: model that the line began with, a folder or a hub id of that `revision`.
    Raises: ValueError as `check_start`, for a version that is not there, or a line that began with other weights.
    """
    check_start(start, name, store, nodes)
    if start == "policy":
        return "", ""
    opened = open_store(store)
    found = release.last(opened, name) if start == "last" else release.read(opened, name, start)
    if not found and start == "last":
        return "", ""
    if not found:
        raise ValueError(f"{opened.location}: found no version {start} of {name}; expected one that was promoted")
    origin, expected = weights(found.base), weights(models.identity(policy, revision))
    if origin != expected:
        raise ValueError(
            f"{name} {found.version}: found it tuned from {found.base['id']} ({origin}); expected {policy} "
            f"({expected}); set policy_revision to what it was, or promote_as to another name"
        )
    return name, found.version


def weights_of(folder: Path | None, policy: str, revision: str | None) -> tuple[str, str | None]:
    """The weights that a stage takes, and their revision: those in `folder`, which `train` or this stage wrote, or the
    policy's where there is no folder or nothing in it.
    """
    if folder is None:
        return policy, revision
    manifest = dataset.load_manifest(folder)
    if manifest.stage == "recall" and not manifest.metrics["version"]:
        return policy, revision
    return str(folder / MERGED), None
