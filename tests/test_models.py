"""Models: what identifies weights, and one line where the hub cannot be reached."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from croco import models

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def folder(path: Path, weights: bytes) -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(weights)
    return path


def test_a_folder_is_known_by_its_content_not_its_name(tmp_path: Path) -> None:
    first, copy, other = (folder(tmp_path / name, weights) for name, weights in [("a", b"1"), ("b", b"1"), ("c", b"2")])
    digests = [models.identity(str(path))["sha256"] for path in (first, copy, other)]
    assert digests[0] == digests[1] != digests[2]
    assert models.identity(str(first))["id"] == "a"


def test_a_folder_without_a_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config.json: found no file; expected a model folder or a hub id"):
        models.identity(str(tmp_path))


def test_a_full_commit_id_needs_no_hub() -> None:
    assert models.identity("org/model", COMMIT) == {"id": "org/model", "revision": COMMIT}


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "croco", "benchmark", "--model", "org/model", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("croco benchmark: org/model: found no such path, and no way to it")
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_what_its_revision_says_passes_and_another_does_not(tmp_path: Path) -> None:
    first, other = folder(tmp_path / "a", b"1"), folder(tmp_path / "b", b"2")
    revision = models.pin(str(first))
    assert revision == f"sha256:{models.identity(str(first))['sha256']}"
    assert models.identity(str(first), revision)["id"] == "a"
    with pytest.raises(ValueError, match=r"b: found sha256:\w+; expected sha256:\w+; it was changed"):
        models.identity(str(other), revision)


def test_a_file_is_pinned_by_its_content_and_a_folder_by_that_of_all_its_files_but_hidden_ones(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "inner").mkdir(parents=True)
    (data / "inner" / "x.csv").write_text("1")
    file, before = models.pin(str(data / "inner" / "x.csv")), models.pin(str(data))
    assert file == "sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"  # of "1"
    (data / ".cache").write_text("hidden")
    assert models.pin(str(data)) == before
    (data / "inner" / "x.csv").rename(data / "inner" / "y.csv")
    assert models.pin(str(data)) != before


def test_a_path_that_is_not_there_cannot_be_pinned(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found neither file nor folder; expected one, or a hub id"):
        models.pin(str(tmp_path / "none"))
