"""Trace: what a run of a stage tells of itself while it happens, so that it is known what a kill hit.

A line goes out when something watched begins (`SECONDS +put shards/sample/KEY.json`, by the monotonic clock that all
processes share) and when it ends (`SECONDS -put`). All of it does its work as ever; only puts into a folder are slowed
down, to the milliseconds that a network's disk takes, so that kills fall between two bytes too.
"""

import functools
import os
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

Tell = Callable[[str], None]
PAUSE = 0.0005
"""Seconds."""


def watch(descriptor: int) -> None:
    """From now on tell `descriptor` of loads, shards computed, optimizer steps, puts, fetches and finishes."""
    from transformers import Trainer

    from croco import engine, trainer
    from croco.backend import Folder
    from croco.bucket import Bucket
    from croco.shards import Shards
    from croco.writer import Writer

    def tell(line: str) -> None:
        os.write(descriptor, f"{time.monotonic()} {line}\n".encode())

    def told(what: str, owner: Any, name: str, detail: Callable[[tuple[Any, ...]], object] = lambda _: "") -> None:
        setattr(owner, name, _told(what, getattr(owner, name), tell, detail))

    for loader in ("load_generator", "load_classifier"):
        told("load", engine, loader)
    told("load", trainer, "build")
    told("merge", trainer, "merge")
    told("clear", shutil, "rmtree")
    told("step", Trainer, "training_step", lambda arguments: arguments[0].state.global_step)
    setattr(Folder, "put", _slowly(Folder.put))  # noqa: B010
    for backend in (Folder, Bucket):
        told("put", backend, "put", lambda arguments: arguments[1])
        told("remove", backend, "remove", lambda arguments: arguments[1])
        told("fetch", backend, "get", lambda arguments: arguments[1])
        told("fetch", backend, "read", lambda arguments: arguments[1])
    told("finish", Writer, "finish", lambda arguments: arguments[0].stage)
    setattr(Shards, "do", _do(Shards.do, tell))  # noqa: B010


class Slow:
    """Reads of a file, a quarter of it at a time, with a pause before each."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        self.source, self.most = source, max(size // 4, 1)

    def read(self, size: int) -> bytes:
        time.sleep(PAUSE)
        return self.source.read(min(size, self.most))


def _slowly(put: Callable[..., None]) -> Any:
    @functools.wraps(put)
    def slow(self: Any, name: str, source: BinaryIO, size: int) -> None:
        put(self, name, Slow(source, size), size)

    return slow


def _told(what: str, function: Callable[..., Any], tell: Tell, detail: Callable[[tuple[Any, ...]], object]) -> Any:
    @functools.wraps(function)
    def telling(*arguments: Any, **named: Any) -> Any:
        tell(f"+{what} {detail(arguments)}")
        try:
            return function(*arguments, **named)
        finally:
            tell(f"-{what}")

    return telling


def _do(do: Callable[..., Mapping[str, Any]], tell: Tell) -> Any:
    """`Shards.do` whose `compute`, the one way to an engine, is told of with the content that it is for."""
    from croco.writer import key_of

    @functools.wraps(do)
    def telling(self: Any, language: str, content: Any, compute: Callable[[Any], Any]) -> Mapping[str, Any]:
        about = key_of(language, content)
        return do(self, language, content, _told("compute", compute, tell, lambda _: about))

    return telling
