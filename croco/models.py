"""Models: which weights exactly a name stands for."""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from croco import dataset

LOCAL = "sha256:"
"""How a revision starts that is the content of a local file or folder."""


def is_local(name: str) -> bool:
    """Whether a name is a path, there or not, and no hub id."""
    path = Path(name)
    return path.exists() or path.suffix in (".jsonl", ".json", ".parquet") or name.startswith((".", "/"))


def identity(model: str, revision: str | None = None) -> dict[str, Any]:
    """What a manifest says of a model, so that results of other weights cannot pass for this one's.

    A local folder is identified by the sha256 over its files' names and contents, a hub id by its revision (a commit
    id, resolved through the hub where a branch or tag was given). Raises: FileNotFoundError for a path without
    a config.json; ValueError as `check_local`.
    """
    path = Path(model)
    if is_local(model):
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path / 'config.json'}: found no file; expected a model folder or a hub id")
        return {"id": path.name, "sha256": check_local(path, revision)}
    return {"id": model, "revision": resolve(model, revision)}


def check_local(path: Path, revision: str | None) -> str:
    """sha256 of a local file, or over the names and contents of all files of a folder but hidden ones.

    Raises: ValueError if `revision` is `sha256:<hex>` of other content; FileNotFoundError if there is nothing.
    """
    if path.is_dir():
        names = sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())
        visible = [name for name in names if not any(part.startswith(".") for part in name.parts)]
        digest = digest_of({name: dataset.sha256_file(path / name) for name in visible})
    elif path.is_file():
        digest = dataset.sha256_file(path)
    else:
        raise FileNotFoundError(f"{path}: found neither file nor folder; expected one, or a hub id")
    if revision and revision.startswith(LOCAL) and revision != LOCAL + digest:
        raise ValueError(f"{path}: found {LOCAL}{digest}; expected {revision}; it was changed since that was noted")
    return digest


def digest_of(files: Mapping[Path, str]) -> str:
    """sha256 of a folder: over the names and contents of its files, given as path within it -> sha256."""
    content = json.dumps([(name.as_posix(), files[name]) for name in sorted(files)])
    return hashlib.sha256(content.encode()).hexdigest()


def pin(name: str, revision: str | None = None, *, data: bool = False) -> str:
    """The revision that names what `name` holds now and nothing else: a hub id's commit, or `sha256:<hex>` of a local
    file or folder. Raises: as `resolve` and `check_local`.
    """
    if is_local(name):
        return LOCAL + check_local(Path(name), revision)
    return resolve(name, revision, data=data)


def resolve(name: str, revision: str | None, *, data: bool = False) -> str:
    """The commit id that `revision` (default: main) of a hub model (or data set) names now; a full one as it is.

    Raises: ConnectionError as `reaching_hub`.
    """
    if revision and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import HfApi

    with reaching_hub(name):
        info = HfApi().dataset_info if data else HfApi().model_info
        return str(info(name, revision=revision).sha)


def snapshot(model: str, revision: str, patterns: Sequence[str]) -> Path:
    """The local folder of a hub model's files that match `patterns`, downloaded unless they are there."""
    from huggingface_hub import is_offline_mode, snapshot_download

    with reaching_hub(model):
        offline = is_offline_mode()
        return Path(
            snapshot_download(model, revision=revision, allow_patterns=list(patterns), local_files_only=offline)
        )


@contextlib.contextmanager
def reaching_hub(name: str) -> Iterator[None]:
    """Around a call of the hub for a model or data set: one line instead of a traceback.

    Raises: ConnectionError if the hub cannot be reached, refuses, or does not have it.
    """
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except (httpx.HTTPError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, ConnectionError) as error:
        what = next(iter(str(error).split("\n")), "") or type(error).__name__
        raise ConnectionError(
            f"{name}: found no such path, and no way to it on the hub ({what}); expected a path that exists, or a hub "
            "id, a network and, where it is gated, a token in HF_TOKEN that may read it"
        ) from error
