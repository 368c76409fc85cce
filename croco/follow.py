"""Follow: a TrainJob to its end: how it stands, the log of its first node, and why a node failed."""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from croco.nodes import CONTAINER, Nodes

if TYPE_CHECKING:
    from croco.trainjob import TrainJob

LOOK = (1.0, 10.0)
"""Seconds between looks: a tenth of the time since the first, within these (ours)."""
REMIND = 1800.0
"""Seconds after which a state that lasts is said again (ours)."""
CONSEQUENCE = 120.0
"""Seconds within which one node's failure makes the others fail too (ours)."""
SIGNALS = 128
"""Above it, the exit code of a container that a signal ended."""
TAIL = 60
"""Lines of a failed node's log that are shown: torchrun ends with some 40 of its own (ours)."""
ERROR = re.compile(r"\s*(?:\w+\.)*(?!ChildFailed)\w*(?:Error|Exception): \S")
"""The line of a traceback that says what happened, but torchrun's own."""
INDEX = "batch.kubernetes.io/job-completion-index"
"""A pod's label: which node it is."""
FINAL = ("DeadlineExceeded", "TrainingRuntimeNotSupported")
"""Reasons for which another TrainJob would fail too."""
REMEDY = {
    "OOMKilled": "its memory is too little: take a profile with more",
    "Evicted": "its node ran out of what Kubernetes names: take a profile with more",
    "DeadlineExceeded": "its time is too little: take a profile with more; the next run goes on from the checkpoint",
}


@dataclass(frozen=True)
class End:
    """How a TrainJob ended."""

    complete: bool
    text: str
    """What happened, where it did not complete."""
    final: bool = False
    """Whether another would end in the same way."""


def to_the_end(job: "TrainJob", wanted: Nodes) -> End:
    """Follow a TrainJob, print its log and how it stands. Raises: as `TrainJob`."""
    began = told_at = time.monotonic()
    told, log, faults = "", Log(job), Faults(job)
    while True:
        found = job.read()
        pods = job.pods()
        log.show(pods)
        for fault in faults.new(pods):
            print(f"train: {fault}", flush=True)
        if found is None:
            return End(False, f"found TrainJob {job.name} removed by someone else")
        if condition := over(found):
            return _end(job, condition, faults)
        now = time.monotonic()
        if (state := _state(job, found, pods, wanted)) != told or now - told_at > REMIND:
            print(f"train: TrainJob {job.name} {state} ({(now - began) / 60:.0f} min)", flush=True)
            told, told_at = state, now
        time.sleep(min(max((now - began) / 10, LOOK[0]), LOOK[1]))


def over(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The condition of a TrainJob that says that it ended."""
    return next((true for true in _true(found) if true["type"] in ("Complete", "Failed")), None)


def _true(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    conditions = found.get("status", {}).get("conditions", [])
    return [condition for condition in conditions if condition["status"] == "True"]


def _end(job: "TrainJob", condition: Mapping[str, Any], faults: "Faults") -> End:
    if condition["type"] == "Complete":
        return End(True, f"TrainJob {job.name} completed, but its result is not in the store")
    reason = condition.get("reason", "")
    cause = faults.cause or "; ".join(job.warnings()[-1:])
    said = [f"{reason}: {condition.get('message', '')}", cause, REMEDY.get(reason, "")]
    return End(False, f"TrainJob {job.name} failed: {'; '.join(line(text) for text in said if text)}", reason in FINAL)


def _state(job: "TrainJob", found: Mapping[str, Any], pods: Iterable[Any], wanted: Nodes) -> str:
    """How a TrainJob that has not ended stands."""
    if any(condition["type"] == "Suspended" for condition in _true(found)):
        until = f"Kueue has room in queue {wanted.queue}" if wanted.queue else "someone sets spec.suspend to false"
        return f"is suspended until {until}"
    newest = {_node(pod): pod for pod in pods}
    if not newest:
        return "; ".join(["has no pod yet", *map(line, job.warnings()[-1:])])
    running = [pod for pod in newest.values() if pod.status.phase in ("Running", "Succeeded")]
    waiting = [f"{pod.metadata.name} waits: {why}" for pod in newest.values() if (why := _waits_for(pod))]
    return "; ".join([f"has {len(running)} of {wanted.nodes} nodes", *waiting[:2]])


def _node(pod: Any) -> str:
    return str((pod.metadata.labels or {}).get(INDEX, "?"))


def _container(pod: Any) -> Any:
    """Status of the container that trains; None before there is one."""
    return next((status for status in pod.status.container_statuses or [] if status.name == CONTAINER), None)


def _waits_for(pod: Any) -> str:
    """Why a pod does not run, where Kubernetes says it."""
    if (status := _container(pod)) and (waiting := status.state.waiting) and waiting.reason != "ContainerCreating":
        return line(f"{waiting.reason} {waiting.message or ''}")
    unmet = [condition for condition in pod.status.conditions or [] if condition.status == "False"]
    scheduled = next((condition for condition in unmet if condition.type == "PodScheduled"), None)
    return line(f"{scheduled.reason} {scheduled.message or ''}") if scheduled else ""


class Log:
    """The log of node 0, printed line by line as it comes, over all its pods."""

    def __init__(self, job: "TrainJob") -> None:
        self.job = job
        self.last: dict[str, str] = {}
        """Pod -> time of the last line printed."""
        self.read: dict[str, float] = {}

    def show(self, pods: Iterable[Any]) -> None:
        for pod in pods:
            if _node(pod) == "0" and _container(pod):
                self._show(pod.metadata.name)

    def _show(self, pod: str) -> None:
        """Kubernetes gives what came since some seconds; what is older than the last line printed was printed."""
        now, last = time.monotonic(), self.last.get(pod, "")
        since = {"since_seconds": int(now - self.read[pod]) + 60} if pod in self.read else {}
        for text in self.job.log(pod, timestamps=True, **since):
            stamp, _, said = text.partition(" ")
            if (at := stamp.removesuffix("Z")) > last:
                print(f"node 0 | {_visible(said)}", flush=True)
                self.last[pod], self.read[pod] = at, now


class Faults:
    """What ended in containers and pods with an error, each once: Kubernetes starts some again, and removes others."""

    def __init__(self, job: "TrainJob") -> None:
        self.job = job
        self.seen: set[tuple[str, datetime]] = set()
        self.cause, self.at = "", datetime.min.replace(tzinfo=UTC)
        """The last failure that is none's consequence, in one line with the end of its log, and when it was."""

    def new(self, pods: Iterable[Any]) -> list[str]:
        """What failed since this was last asked, oldest first."""
        failed = [(pod, failure) for pod in pods if (failure := _failure(pod))]
        told = []
        for pod, failure in sorted(failed, key=lambda pair: pair[1].order):
            if (pod.metadata.name, failure.when) in self.seen:
                continue
            self.seen.add((pod.metadata.name, failure.when))
            fault = f"node {_node(pod)} (pod {pod.metadata.name}) failed: {line(failure.text)}"
            fault += f"; {REMEDY[failure.reason]}" if failure.reason in REMEDY else ""
            tail = self.job.log(pod.metadata.name, previous=failure.previous, tail_lines=TAIL)
            shown = [_visible(text) for text in tail if text.strip()]
            if (failure.when - self.at).total_seconds() > CONSEQUENCE:
                self.cause, self.at = "; ".join([fault, *_words(shown)]), failure.when
            told.append("\n  ".join([fault, *shown]))
        return told


@dataclass(frozen=True)
class Failure:
    """When and why a node failed."""

    when: datetime
    reason: str
    """Kubernetes's word for it."""
    text: str
    killed: bool = False
    """Whether a signal ended it, as it ends the other nodes once one has failed."""
    previous: bool = False
    """Whether the container was started again since."""

    @property
    def order(self) -> tuple[datetime, bool, bool]:
        """Oldest first; of one second, as exact as Kubernetes is, what it has a word for, and what no signal ended."""
        return self.when, self.reason == "Error", self.killed


def _failure(pod: Any) -> Failure | None:
    """Why a node failed, if it did."""
    status = _container(pod)
    ends = [status.state.terminated, status.last_state and status.last_state.terminated] if status else []
    ended = next((end for end in ends if end and end.exit_code), None)
    if pod.status.phase == "Failed" and pod.status.reason:
        when = ended.finished_at if ended else pod.metadata.creation_timestamp
        return Failure(when, pod.status.reason, f"{pod.status.reason}: {pod.status.message}")
    if ended:
        reason = ended.reason or "no reason given"
        text = f"exit code {ended.exit_code} ({reason})"
        return Failure(ended.finished_at, reason, text, ended.exit_code > SIGNALS, ended is not ends[0])
    return None


def _words(log: Sequence[str]) -> list[str]:
    """What the end of a log says of an error, in one line; nothing of an empty log."""
    errors = [text for text in log if ERROR.match(text)]
    return [f"its log says: {line(errors[-1])}"] if errors else [f"its log ends: {line(log[-1])}"] if log else []


def _visible(text: str) -> str:
    """A line as a terminal would leave it: of a bar that is drawn anew and anew, the last."""
    return "".join(letter for letter in text.rstrip("\r").rpartition("\r")[2] if letter.isprintable() or letter == "\t")


def line(text: str, most: int = 500) -> str:
    """In one line, and not a page."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]} ..."
