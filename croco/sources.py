"""Sources: rows of other people's data, from a local file or a hub data set, each with where it was found."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from croco import models

Row = Mapping[str, Any]
Records = Callable[[], Iterator[tuple[str, Row]]]
"""Every call starts at the first row again -> (where the row is, the row), for error messages that name it."""


def open_source(source: str, revision: str | None, columns: Sequence[str]) -> tuple[Records, dict[str, Any]]:
    """The rows of a local file or a hub data set's train split, and what a manifest says of where they came from.

    Of a source with columns, only those in `columns` are read. `revision` is a hub data set's commit or branch, or
    `sha256:` and the digest of a local file.

    Raises: FileNotFoundError for a name that looks like a file and is none.
    """
    path = Path(source)
    if models.is_local(source):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: found no file; expected JSONL, a JSON array, Parquet, or a hub id")
        if revision and not revision.startswith(models.LOCAL):
            raise ValueError(f"revision: found {revision!r} with the local file {path}; expected none, or its sha256:")
        return functools.partial(read, path, columns), {"id": path.name, "sha256": models.check_local(path, revision)}
    revision = models.resolve(source, revision, data=True)

    @functools.cache
    def table() -> Any:
        import datasets

        with models.reaching_hub(source):
            found = datasets.load_dataset(source, split="train", revision=revision)
        return found.select_columns([name for name in columns if name in found.column_names])

    return lambda: ((f"{source}: row {at}", row) for at, row in enumerate(table())), {
        "id": source, "revision": revision
    }  # fmt: skip


def read(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """The rows of a local file by its ending; of one with columns, those among `columns`."""
    return read_parquet(path, columns) if path.suffix == ".parquet" else read_json(path)


def read_json(path: Path) -> Iterator[tuple[str, Row]]:
    """The rows of JSONL (blank lines are none) or of one JSON array. Raises: ValueError that names file and line."""
    with path.open("rb") as file:
        if next((line for line in file if line.strip()), b"").lstrip(b"\xef\xbb\xbf \t").startswith(b"["):
            items = _parse(path.read_bytes(), str(path), 1)
            yield from ((f"{path}: item {number}", item) for number, item in enumerate(items, 1))
            return
        file.seek(0)
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}:{number}", _parse(line.rstrip(b"\r\n"), str(path), number)


def _parse(content: bytes, name: str, line: int) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        line += error.lineno - 1
        what = f"malformed JSON ({error.msg}, column {error.colno})"
        raise ValueError(f"{name}:{line}: found {what}; expected JSON; correct or remove the line") from None
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        raise ValueError(f"{name}:{line}: found bytes that are not UTF-8; expected JSON in UTF-8") from None


def read_parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """The rows of a Parquet file, its columns among `columns`. Raises: ValueError if it is not one."""
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: found {error}; expected Parquet") from error
    present = [name for name in columns if name in file.schema_arrow.names]
    batches = (batch.to_pylist() for batch in file.iter_batches(1024, columns=present))
    yield from ((f"{path}: row {at}", row) for at, row in enumerate(row for batch in batches for row in batch))
