"""Benchmark cache: what `fetch` wrote, and an evaluation without a network reads.

It may be read-only and in use by several evaluations, while EuroEval and its libraries write where they read; so each
evaluation gets folders of its own, with links to the cache's files.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from croco import dataset

DATA, HUB, NLTK = "euroeval", "hub", "nltk"
"""EuroEval's cache_dir, the hub libraries' HF_HOME, and NLTK_DATA: folders of a cache, and of an evaluation."""


@dataclass(frozen=True)
class Cache:
    """What a cache has of the data sets asked for; without a cache nothing, and it lacks nothing."""

    revisions: Mapping[str, str] = field(default_factory=dict)
    """Data set that is there -> its commit on the hub."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Data set that could not be fetched -> why."""
    unknown: tuple[str, ...] = ()
    """Data sets that EuroEval does not have."""

    @property
    def lacking(self) -> set[str]:
        return {*self.failed, *self.unknown}


def read_cache(folder: Path | None, names: Iterable[str], euroeval: str | None) -> Cache:
    """What the cache has of these data sets, all its files checked.

    Raises: FileNotFoundError or ValueError for what is no whole cache, was made with another version of EuroEval, or
    was never asked for some of them.
    """
    if not folder:
        return Cache()
    manifest, names = dataset.verify(folder), list(names)
    if manifest.stage != "fetch":
        raise ValueError(f"{folder}: found the output of {manifest.stage}; expected one of `python -m croco fetch`")
    found = manifest.metrics
    if found["euroeval"] != euroeval:
        raise ValueError(
            f"{folder}: found what EuroEval {found['euroeval']} reads; expected {euroeval}, installed here; run "
            "`python -m croco fetch` in the environment of the evaluation"
        )
    asked = {*found["data_sets"], *found["failed"], *found["unknown"]}
    if lacking := [name for name in names if name not in asked]:
        raise ValueError(
            f"{folder}: found no {', '.join(lacking)}; expected every data set of the evaluation; run `python -m croco "
            "fetch` with its --languages, --suite and --names"
        )
    return Cache(
        {name: found["data_sets"][name]["revision"] for name in names if name in found["data_sets"]},
        {name: found["failed"][name] for name in names if name in found["failed"]},
        tuple(name for name in names if name in found["unknown"]),
    )


def lay_out(folder: Path | None, work: Path) -> None:
    """Give `work` the folders of a cache: links to the files of `folder`, or nothing."""
    for part in (DATA, HUB, NLTK):
        if folder and (folder / part).is_dir():
            shutil.copytree((folder / part).resolve(), work / part, copy_function=os.symlink)
        else:
            (work / part).mkdir()


def environment(work: Path) -> dict[str, str]:
    """What makes the hub's libraries and NLTK read and write in `work` alone."""
    return {
        "HF_HOME": str(work / HUB),
        "HF_HUB_DISABLE_SYMLINKS": "1",  # links would not survive an object store
        "NLTK_DATA": str(work / NLTK),
    }
