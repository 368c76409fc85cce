"""Models: which weights exactly a name stands for."""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from croco import dataset


def identity(model: str, revision: str | None = None) -> dict[str, Any]:
    """What a manifest says of a model, so that results of other weights cannot pass for this one's.

    A local folder is identified by the sha256 over its files' names and contents, a hub id by its revision (a commit
    id, resolved through the hub where a branch or tag was given). Raises: FileNotFoundError for a path without
    a config.json.
    """
    path = Path(model)
    if path.is_dir() or model.startswith((".", "/")):
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path / 'config.json'}: found no file; expected a model folder or a hub id")
        files = sorted(file for file in path.iterdir() if file.is_file())
        content = json.dumps([(file.name, dataset.sha256_file(file)) for file in files])
        return {"id": path.name, "sha256": hashlib.sha256(content.encode()).hexdigest()}
    return {"id": model, "revision": resolve(model, revision)}


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
