"""Backend: what a store needs of the place where its bytes lie, and the folder that is one.

`croco.bucket` is the other.
"""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

_LEFT = re.compile(r"(.*/)?\.[^/]*\.partial")
_NAME = re.compile(r"[A-Za-z0-9_][\w.=-]*(/[A-Za-z0-9_][\w.=-]*)*", re.ASCII)


@dataclass(frozen=True)
class Entry:
    """One file or record of a store."""

    name: str
    bytes: int
    modified: datetime
    """When it was written or last used, in UTC."""


class Sink(Protocol):
    """Where a backend writes what it reads."""

    def write(self, data: bytes, /) -> object: ...

    def tell(self) -> int: ...


class Backend(Protocol):
    """What a store needs of the place where its bytes lie. Names are checked by the store."""

    def put(self, name: str, source: BinaryIO, size: int) -> None:
        """Write an entry of `size` bytes whole or not at all, over an older one."""

    def read(self, name: str) -> bytes:
        """A small entry's bytes. Raises: FileNotFoundError."""

    def get(self, name: str, target: Sink) -> None:
        """Write an entry's bytes to `target`. Raises: FileNotFoundError."""

    def find(self, name: str) -> Entry | None: ...

    def entries(self, prefix: str) -> Iterator[Entry]: ...

    def touch(self, name: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def sweep(self, before: datetime, delete: bool) -> list[Entry]:
        """What writers that were killed before `before` left half-written; removed if `delete`."""


class Folder:
    """A store's bytes in a local or mounted folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, name: str, source: BinaryIO, size: int) -> None:
        with whole(self.root / name) as file:
            shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        folder = os.open((self.root / name).parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def get(self, name: str, target: Sink) -> None:
        with (self.root / name).open("rb") as source:
            shutil.copyfileobj(source, target, 1 << 20)

    def find(self, name: str) -> Entry | None:
        return self._entry(name) if (self.root / name).is_file() else None

    def entries(self, prefix: str) -> Iterator[Entry]:
        for name in self._names(prefix.rpartition("/")[0]):
            if name.startswith(prefix) and is_name(name) and (found := self._entry(name)):
                yield found

    def touch(self, name: str) -> None:
        (self.root / name).touch()

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def sweep(self, before: datetime, delete: bool) -> list[Entry]:
        partial = (self._entry(name) for name in self._names() if _LEFT.fullmatch(name))
        stale = [entry for entry in partial if entry and entry.modified < before]
        for entry in stale if delete else ():
            self.remove(entry.name)
        return stale

    def _names(self, below: str = "") -> list[str]:
        found = ((Path(folder), file) for folder, _, files in os.walk(self.root / below) for file in files)
        return sorted((folder / file).relative_to(self.root).as_posix() for folder, file in found)

    def _entry(self, name: str) -> Entry | None:
        """None if another process has removed it meanwhile."""
        try:
            status = (self.root / name).stat()
        except FileNotFoundError:
            return None
        return Entry(name, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))


def is_name(name: str) -> bool:
    """Whether an entry can have this name; no absolute path, no `..` and nothing hidden is one."""
    return bool(_NAME.fullmatch(name))


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A new file that becomes `path` at the end of the block, or is removed if the block raises.

    Its name starts with a dot and ends in `.partial`, and it lies beside `path`; that is what a killed writer leaves.
    Raises: OSError if the disk is full.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"{path}: found the disk full; expected room for it; free some, or choose another place"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
