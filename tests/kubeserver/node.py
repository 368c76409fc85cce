"""A pod of a TrainJob: its container is a process here, with all that it starts."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Node:
    """One node's pod, whose container is started again after a failure as often as `restarts` says."""

    job: str
    index: int
    command: Sequence[str]
    environment: Mapping[str, str]
    home: Path
    restarts: int
    suffix: str
    waiting: Mapping[str, str]
    """Why the container is not started; nothing where it is."""
    reason: str = "Error"
    """What Kubernetes calls a failure of the container."""
    created: str = field(default_factory=now)
    ended: list[dict[str, Any]] = field(default_factory=list)
    """How each container ended, oldest first."""
    logs: list[list[str]] = field(default_factory=list)
    """Lines of each container, with their times."""
    process: subprocess.Popen[bytes] | None = None
    gone: bool = False

    @property
    def name(self) -> str:
        return f"{self.job}-node-0-{self.index}-{self.suffix}"

    @property
    def phase(self) -> str:
        if self.ended and (self.ended[-1]["exitCode"] == 0 or len(self.ended) > self.restarts):
            return "Failed" if self.ended[-1]["exitCode"] else "Succeeded"
        return "Pending" if self.waiting else "Running"

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while self.phase == "Running" and not self.gone:
            self.home.mkdir(parents=True, exist_ok=True)
            self.logs.append([])
            began = now()
            with subprocess.Popen(
                list(self.command),
                cwd=ROOT,
                env={
                    **os.environ,
                    **self.environment,
                    "HOME": str(self.home),
                    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as self.process:
                assert self.process.stdout
                for line in self.process.stdout:
                    text = line.decode().removesuffix("\n")
                    self.logs[-1].append(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}000Z {text}")
            code = self.process.returncode
            self.ended.append(
                {
                    "exitCode": code if code >= 0 else 128 - code,
                    "reason": self.reason if code else "Completed",
                    "startedAt": began,
                    "finishedAt": now(),
                }
            )

    def kill(self) -> None:
        """As the kernel does it, with all that the container started: what torchrun starts has its own session."""
        mark = f"HOME={self.home}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)

    def pod(self) -> dict[str, Any]:
        """What the API says of it."""
        running = not self.waiting and len(self.ended) < len(self.logs)
        state = (
            {"waiting": self.waiting}
            if self.waiting
            else {"running": {"startedAt": self.created}}
            if running or not self.ended
            else {"terminated": self.ended[-1]}
        )
        container = {
            "name": "node",
            "image": "image",
            "imageID": "",
            "ready": running,
            "restartCount": max(len(self.logs) - 1, 0),
            "state": state,
            "lastState": {"terminated": earlier[-1]} if (earlier := self.ended[: len(self.logs) - 1]) else {},
        }
        return {
            "metadata": {
                "name": self.name,
                "creationTimestamp": self.created,
                "labels": {
                    "jobset.sigs.k8s.io/jobset-name": self.job,
                    "batch.kubernetes.io/job-completion-index": str(self.index),
                },
            },
            "spec": {"containers": [{"name": "node"}]},
            "status": {"phase": self.phase, "containerStatuses": [container], "conditions": []},
        }

    def log(self, query: Mapping[str, str]) -> str:
        lines = self.logs[-2 if query.get("previous") == "True" else -1]
        if since := query.get("sinceSeconds"):
            first = datetime.now(UTC).timestamp() - int(since)
            lines = [line for line in lines if datetime.fromisoformat(line[:26] + "+00:00").timestamp() >= first]
        lines = lines[-int(query.get("tailLines", 10**9)) :]
        if query.get("timestamps") != "True":
            lines = [line.partition(" ")[2] for line in lines]
        return "".join(f"{line}\n" for line in lines)
