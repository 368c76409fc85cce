"""Attempt: one run of a stage in a process of its own, killed at an instant or left alone."""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from chaos import trace

LIMIT = 300.0
"""Seconds after which an attempt that nobody kills hangs."""
POLL = 0.02
"""Seconds between two looks at a command."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Strike:
    """When to kill: so many seconds after a kind of event began for the nth time; without a kind, after the start."""

    delay: float
    after: str = ""
    nth: int = 1


@dataclass
class Attempt:
    """What came of a run."""

    killed: bool = False
    failed: str = ""
    """What it said last, if it ended by itself and not well."""
    seconds: float = 0.0
    events: list[tuple[float, str]] = field(default_factory=list)
    """(seconds from the start, line of `chaos.trace`)."""

    def began(self, what: str) -> list[str]:
        """Details of the events of that kind, in order."""
        return [line.partition(" ")[2] for _, line in self.events if line.startswith(f"+{what} ")]

    def during(self, stage: str) -> str:
        """What was going on at the end."""
        going = [line for line, _, seconds in self.spans() if seconds is None]
        if f"finish {stage}" in going:
            return "finish"
        if going:
            return going[-1].partition(" ")[0].replace("finish", "seal")
        return "between" if self.began("load") else "start"

    def spans(self) -> list[tuple[str, float, float | None]]:
        """(what and its detail, when it began, seconds it took or None if it did not end), in the order they began."""
        spans: list[tuple[str, float, float | None]] = []
        for at, line in self.events:
            if line.startswith("+"):
                spans.append((line[1:], at, None))
            else:
                place = max(place for place, span in enumerate(spans) if span[2] is None)
                spans[place] = (*spans[place][:2], at - spans[place][1])
        return spans


def fork(work: Callable[[], object], strike: Strike | None, log: Path) -> Attempt:
    """Do `work` in a child of this process, which must have no other thread; kill it when `strike` says."""
    reading, writing = os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if not pid:
        _child(work, writing, log)
    os.close(writing)
    os.set_blocking(reading, False)
    with grouped(pid):
        attempt = _watched(pid, reading, started, strike)
        _end(attempt, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), log)
    os.close(reading)
    return attempt


def _end(attempt: Attempt, status: int, log: Path) -> None:
    """Hold a process's exit status against whether it was killed."""
    attempt.killed = attempt.killed and status == -signal.SIGKILL  # else it had ended just before
    if attempt.seconds > LIMIT:
        attempt.failed = f"still running after {LIMIT:.0f} s"
    elif status and not attempt.killed:
        attempt.failed = f"exit status {status}: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}"


def _watched(pid: int, reading: int, started: float, strike: Strike | None) -> Attempt:
    """The attempt up to its end or its kill; the process is still to be waited for."""
    attempt, rest, exits = Attempt(), b"", os.pidfd_open(pid)
    due = started + (strike.delay if strike and not strike.after else LIMIT)
    try:
        while True:
            ready, _, _ = select.select([reading, exits], [], [], max(due - time.monotonic(), 0))
            if not ready:
                attempt.killed = True
                os.killpg(pid, signal.SIGKILL)
                ready = select.select([exits], [], [])[0]
            done = exits in ready
            *lines, rest = (rest + _all(reading)).split(b"\n")
            for line in lines:
                at, _, what = line.decode().partition(" ")
                attempt.events.append((float(at) - started, what))
                awaited = strike and strike.after and what.startswith(f"+{strike.after} ")
                if strike and awaited and len(attempt.began(strike.after)) == strike.nth:
                    due = float(at) + strike.delay
            if done:
                attempt.seconds = time.monotonic() - started
                return attempt
    finally:
        os.close(exits)


def _all(reading: int) -> bytes:
    """What is in a pipe now."""
    found = b""
    with contextlib.suppress(BlockingIOError):
        while more := os.read(reading, 1 << 16):
            found += more
    return found


def _child(work: Callable[[], object], writing: int, log: Path) -> NoReturn:
    status = 1
    try:
        os.setpgid(0, 0)
        die_with_parent()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for standard in (1, 2):
            os.dup2(output, standard)
        trace.watch(writing)
        work()
        status = 0
    finally:
        if status:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def grouped(pid: int) -> Iterator[None]:
    """Nothing of the child's process group outlives the block."""
    with contextlib.suppress(OSError):  # the child has done it, and may have ended
        os.setpgid(pid, pid)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def command(arguments: Sequence[str], kill: Callable[[float], bool], log: Path) -> Attempt:
    """Run this interpreter with `arguments`; kill it once `kill`, asked with the seconds so far, says so."""
    started, attempt = time.monotonic(), Attempt()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=output, stderr=output, process_group=0, preexec_fn=die_with_parent
        )
    with grouped(process.pid):
        while process.poll() is None and not attempt.killed:
            time.sleep(POLL)
            attempt.seconds = time.monotonic() - started
            if attempt.seconds > LIMIT or kill(attempt.seconds):
                attempt.killed = True
                os.killpg(process.pid, signal.SIGKILL)
        _end(attempt, process.wait(), log)
    return attempt
