"""Models: which weights exactly a name stands for."""

import hashlib
import json
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


def resolve(model: str, revision: str | None) -> str:
    """The commit id that `revision` (default: main) of a hub model names now; a full commit id is returned as it is."""
    if revision and len(revision) == 40 and all(digit in "0123456789abcdef" for digit in revision):
        return revision
    from huggingface_hub import HfApi

    return str(HfApi().model_info(model, revision=revision).sha)
