"""Store: bytes, named by their content, in a folder or an S3 bucket.

A store holds files, each under its sha256 (`files/ab/abcdef...`), and records: small JSON objects with a name
(`shards/sample/KEY.json`) that carry the sha256 of their own content and may name files. Everything is put whole or
not at all, and a file is put before the record that names it, so whoever finds a record finds its files. Of two
writers of one record the last one stays; both are whole.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from croco.backend import Backend, Entry, Folder, is_name, whole

__all__ = ["DAY", "Entry", "Store", "file_name", "open_store"]

DAY = timedelta(days=1)
"""What is younger is never removed, because a stage may still be writing the record that names it. Ours."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Store:
    """Files and records over a backend; `open_store` makes one.

    Counts `bytes_read` and `bytes_written` since it was opened.
    """

    def __init__(self, location: str, backend: Backend) -> None:
        self.location, self.backend = location, backend
        self.bytes_read = self.bytes_written = 0

    def __repr__(self) -> str:
        return f"Store({self.location!r})"

    def keep(self, path: Path, under: str = "files", replace: bool = False) -> str:
        """Put a file under its sha256, which is returned.

        A file of that name and size that is there already stays, and counts as used now.

        Args:
            path: The file.
            under: Where in the store.
            replace: Put it also over one that is there, for when that one was found to be damaged.
        """
        with Path(path).open("rb") as source:
            sha256 = hashlib.file_digest(source, "sha256").hexdigest()
            name, size = file_name(sha256, under), source.tell()
            found = self.backend.find(name)
            if found and found.bytes == size and not replace:
                self._use(found)
                return sha256
            source.seek(0)
            self._put(name, source, size)
        return sha256

    def place(self, path: Path, name: str) -> dict[str, Any]:
        """Put a file under a name of its own, for those who read a store's files by their names; its sha256 and bytes.

        What is there already is never written over. Raises: ValueError if it is not the same.
        """
        with Path(path).open("rb") as source:
            sha256 = hashlib.file_digest(source, "sha256").hexdigest()
            size = source.tell()
            if self.backend.find(_checked(name)) is None:
                source.seek(0)
                self._put(name, source, size)
            else:
                self.check(sha256, name=name)
        return {"sha256": sha256, "bytes": size}

    def fetch(self, sha256: str, path: Path, under: str = "files", *, name: str | None = None) -> None:
        """Write the file with this sha256, or that with this name too, to `path`, whole or not at all.

        Raises: FileNotFoundError if it is not there; ValueError if it is damaged.
        """
        with whole(Path(path)) as file:
            self._get(sha256, _checked(name) if name else file_name(sha256, under), file)

    def check(self, sha256: str, under: str = "files", *, name: str | None = None) -> None:
        """Read the file with this sha256, or that with this name, and keep nothing. Raises: as `fetch`."""
        with Path(os.devnull).open("wb") as nothing:
            self._get(sha256, _checked(name) if name else file_name(sha256, under), nothing)

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        """Put a record. Raises: ValueError if JSON cannot hold it."""
        content = _canonical(record)
        text = f'{{"sha256": "{_digest(content)}", "content": {content}}}\n'.encode()
        self._put(_record_name(name), BytesIO(text), len(text))

    def read(self, name: str) -> dict[str, Any] | None:
        """The record; None if there is none. Raises: ValueError if it is damaged."""
        try:
            text = self.backend.read(_record_name(name))
        except FileNotFoundError:
            return None
        self.bytes_read += len(text)
        try:
            record = json.loads(text)
            content, expected = record["content"], record["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(self._damaged(name, f"{len(text)} bytes that are no record")) from error
        if (found := _digest(_canonical(content))) != expected:
            raise ValueError(self._damaged(name, f"sha256 {found[:12]} where its own says {str(expected)[:12]}"))
        return content

    def touch(self, name: str) -> None:
        """Count an entry as used now, to the day: it is left alone if it was touched within a day.

        Raises: FileNotFoundError if it is not there.
        """
        if not (found := self.backend.find(_checked(name))):
            raise FileNotFoundError(f"{self.location}/{name}: found nothing to touch; expected an entry")
        self._use(found)

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Everything whose name starts with `prefix`, by name; nothing that is still being written."""
        if prefix:
            _checked(prefix.removesuffix("/"))
        return self.backend.entries(prefix)

    def find(self, name: str) -> Entry | None:
        return self.backend.find(_checked(name))

    def remove(self, name: str) -> None:
        """Remove an entry; nothing happens if it is not there."""
        self.backend.remove(_checked(name))

    def _use(self, entry: Entry) -> None:
        if datetime.now(UTC) - entry.modified > DAY:
            self.backend.touch(entry.name)

    def _put(self, name: str, source: BinaryIO, size: int) -> None:
        self.backend.put(name, source, size)
        self.bytes_written += size

    def _get(self, sha256: str, name: str, file: BinaryIO) -> None:
        target = _Hashed(file)
        try:
            self.backend.get(name, target)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.location}/{name}: found no such file; expected what a record names; run its stage again"
            ) from error
        finally:
            self.bytes_read += target.tell()
        if (found := target.digest.hexdigest()) != sha256:
            raise ValueError(self._damaged(name, f"{target.tell()} bytes with sha256 {found[:12]}"))

    def _damaged(self, name: str, found: str) -> str:
        return (
            f"{self.location}/{name}: damaged: found {found}; expected what was put; remove it and run its stage again"
        )


class _Hashed:
    """Passes what is written on to a file; knows how much it was and its sha256."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data)

    def tell(self) -> int:
        return self.size


def open_store(location: str | Path) -> Store:
    """The store at `location`: a folder, made when something is put, or `s3://bucket/prefix`.

    Raises: ValueError if the location is neither; what `croco.bucket.open_bucket` raises.
    """
    location = str(location)
    scheme, separator, path = location.partition("://")
    if not separator:
        return Store(location, Folder(Path(location)))
    if scheme != "s3":
        raise ValueError(f"{location}: found a store of kind {scheme}://; expected s3://bucket/prefix or a folder")
    from croco import bucket

    return Store(location.rstrip("/"), bucket.open_bucket(path))


def file_name(sha256: str, under: str = "files") -> str:
    """The name of the file with this sha256. Raises: ValueError if it is none."""
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"store: found {sha256!r}; expected a sha256 of 64 hexadecimal digits")
    return _checked(f"{under}/{sha256[:2]}/{sha256}")


def _record_name(name: str) -> str:
    if not name.endswith(".json"):
        raise ValueError(f"store: found the record name {name!r}; expected one that ends in .json")
    return _checked(name)


def _checked(name: str) -> str:
    if not is_name(name):
        raise ValueError(
            f"store: found the name {name!r}; expected parts of letters, digits, `_`, `-`, `=` and `.` between "
            "slashes, none of which starts with `.`, `-` or `=`"
        )
    return name


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, allow_nan=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
