"""Release: a promoted model in a store, under a name that never changes, and the alias that says which is newest.

    models/NAME/VERSION/...         the model's files by their own names, as servers load them; never written over
    releases/NAME/VERSION.json      what they are, why it was promoted, and the evaluations that said so
    aliases/NAME.json               the version promoted last

VERSION is the start of the sha256 over the weights' folder, so the same weights are the same release, however often
they are published. Files come first, then the record, then the alias: a kill in between leaves the last one promoted.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from croco import dataset
from croco.store import Store

MERGED = "merged"
"""Folder of the whole model in the output of `train`."""
CARD = "README.md"
"""The model card's file, which a published model has besides those of `train`."""
EVALUATIONS = ("benchmarks", "answers", "verdicts")
"""Datasets of a release, by which the next one is compared with it."""
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,61}[a-z0-9]")


@dataclass(frozen=True)
class Release:
    """One promoted model."""

    name: str
    version: str
    sha256: str
    """Over the names and contents of the model's files, as croco.models has it."""
    base: Mapping[str, Any]
    """Identity of the model it was tuned from."""
    files: Sequence[Mapping[str, Any]]
    """The model's: {path, sha256, bytes} each."""
    evaluations: Mapping[str, Sequence[Mapping[str, Any]]]
    """Name in EVALUATIONS -> its files, in the store by their sha256."""
    decision: Mapping[str, Any]
    """What `promote` found."""
    previous: str | None
    """Version promoted before it."""

    def location(self, store: Store) -> str:
        """Where servers find the model."""
        return f"{store.location}/models/{self.name}/{self.version}"


def check_name(name: str) -> str:
    """The name itself. Raises: ValueError for one that Kubernetes would not take."""
    if not NAME.fullmatch(name):
        raise ValueError(f"name: found {name!r}; expected 2 to 63 lower-case letters, digits and dashes, as croco-da")
    return name


def version_of(sha256: str) -> str:
    """The version that weights have."""
    return sha256[:12]


def last(store: Store, name: str) -> Release | None:
    """The release that was promoted last. Raises: ValueError where the store's records do not fit together."""
    alias = store.read(f"aliases/{check_name(name)}.json")
    return None if alias is None else _recorded(store, name, alias["version"], f"aliases/{name}.json")


def before(store: Store, release: Release) -> Release | None:
    """The release that one followed; None for the first. Raises: as `last`."""
    where = f"releases/{release.name}/{release.version}.json"
    return _recorded(store, release.name, release.previous, where) if release.previous else None


def _recorded(store: Store, name: str, version: str, where: str) -> Release:
    if (found := read(store, name, version)) is None:
        raise ValueError(
            f"{store.location}/{where}: found version {version}, of which there is no record; expected one in releases"
        )
    return found


def read(store: Store, name: str, version: str) -> Release | None:
    """The release of that version; None if there is none."""
    record = store.read(f"releases/{name}/{version}.json")
    return Release(**record) if record else None


def fetch(store: Store, release: Release, evaluation: str, out: Path) -> Path:
    """One of a release's evaluations as a dataset in `out`, which is returned. Raises: as Store.fetch."""
    for file in release.evaluations[evaluation]:
        store.fetch(file["sha256"], out / file["path"])
    dataset.verify(out)
    return out


def publish(
    store: Store,
    name: str,
    model: Path,
    sha256: str,
    *,
    base: Mapping[str, Any],
    evaluations: Mapping[str, Path],
    decision: Mapping[str, Any],
) -> Release:
    """Put a model and what it was judged by into the store and make it the newest of its name.

    Args:
        store: Where.
        name: Of the line of models it belongs to.
        model: Its folder.
        sha256: Of that folder, as croco.models has it.
        base: Identity of the model it was tuned from.
        evaluations: Its datasets by name in EVALUATIONS.
        decision: What `promote` found.
    """
    version, older = version_of(sha256), last(store, name)
    if (found := read(store, name, version)) is None:
        paths = sorted(path for path in model.rglob("*") if path.is_file() and not path.name.startswith("."))
        files = [
            {
                "path": path.relative_to(model).as_posix(),
                **store.place(path, f"models/{name}/{version}/{path.relative_to(model).as_posix()}"),
            }
            for path in tqdm(paths, desc="publish", unit="file", disable=None)
        ]
        kept = {what: _kept(store, directory) for what, directory in evaluations.items()}
        previous = older.version if older else None
        found = Release(name, version, sha256, dict(base), files, kept, dict(decision), previous)
        store.write(f"releases/{name}/{version}.json", dataclasses.asdict(found))
    store.write(f"aliases/{name}.json", {"version": version})
    return found


def _kept(store: Store, directory: Path) -> list[dict[str, Any]]:
    """The files of a dataset, its manifest among them, now in the store."""
    names = [file["path"] for file in dataset.verify(directory).files] + [dataset.MANIFEST]
    return [
        {
            "path": name,
            "sha256": store.keep(Path(directory) / name),
            "bytes": (Path(directory) / name).stat().st_size,
        }
        for name in names
    ]
