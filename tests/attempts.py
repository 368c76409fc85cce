"""Runs of `train`, each killed with SIGKILL at an exact instant, in processes forked from one that has its libraries.

    python tests/attempts.py < ATTEMPTS

ATTEMPTS is a JSON list; each has `config` and the other arguments of `train.run`, and `until`: patterns of Python's
audit events, met one after the other. The last one is never done: "os.rename .*/10.json" is the instant at which the
record 10.json is written, but not in place. One without `until` runs to its end.
"""

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from croco import train


def kill_at(until: list[str]) -> None:
    """Kill this process as soon as audit events have matched all patterns, in their order."""
    waiting = [re.compile(pattern) for pattern in until]

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.remove") and waiting[0].search(f"{event} {arguments}"):
            waiting.pop(0)
            if not waiting:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def attempt(until: list[str], data: str, out: str, config: dict[str, Any], **arguments: Any) -> None:
    if until:
        kill_at(until)
    train.run(data=[Path(data)], out=Path(out), config=train.TrainConfig(**config), **arguments)


def main() -> None:
    from peft import PeftModel  # noqa: F401 - imported here, once for all
    from trl import DPOTrainer  # noqa: F401

    for arguments in json.load(sys.stdin):
        if not (child := os.fork()):
            attempt(arguments.pop("until", []), **arguments)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        expected = -signal.SIGKILL if "until" in arguments else 0
        if os.waitstatus_to_exitcode(status) != expected:
            sys.exit(f"{arguments}: ended with {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
