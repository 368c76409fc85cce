"""Trainjob: work handed to Kubeflow Trainer, followed to its end, and removed when this run is cancelled.

A TrainJob's name says whose work it is: one that runs already is adopted, one that failed is made again. Three things
see to it that none outlives its run: the signal that cancels a run removes it, the pod that made it owns it, and it has
a deadline.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, TypeVar

from croco import follow, nodes
from croco.cluster import TIMEOUT, Kubernetes, in_pod
from croco.nodes import Nodes, Pod

PATIENCE = 900.0
"""Seconds for which Kubernetes may not answer before this task fails; its next attempt adopts the TrainJob (ours)."""
PAUSE = 2.0
"""Seconds between tries, and between looks at what is being removed (ours)."""
ROLE = "the Role of manifests/components/trainer, bound to this run's ServiceAccount"
_T = TypeVar("_T")


class TrainJob:
    """A TrainJob by its name, and its pods. Every call raises as `_said`."""

    def __init__(self, cluster: Kubernetes, name: str, patience: float = PATIENCE) -> None:
        from kubernetes import client

        self.core, self.namespace, self.name, self.patience = cluster.api, cluster.namespace, name, patience
        self.objects = client.CustomObjectsApi(cluster.api.api_client)
        self.place = {**nodes.API, "namespace": self.namespace, "plural": "trainjobs"}

    def read(self) -> dict[str, Any] | None:
        try:
            found = self._ask("get trainjobs", self.objects.get_namespaced_custom_object, **self.place, name=self.name)
        except FileNotFoundError:
            return None
        return dict(found)

    def create(self, body: Mapping[str, Any]) -> None:
        create = self.objects.create_namespaced_custom_object
        self._ask("create trainjobs", create, **self.place, body=body, field_validation="Strict")

    def adopt(self, found: Mapping[str, Any], pod: Pod) -> None:
        """Make the pod an owner too; what has several goes with the last."""
        owners = [owner for owner in found["metadata"].get("ownerReferences", []) if owner["uid"] != pod.uid]
        body = {"metadata": {"ownerReferences": [*owners, pod.reference]}}
        change = self.objects.patch_namespaced_custom_object
        self._ask("patch trainjobs", change, **self.place, name=self.name, body=body)

    def remove(self) -> None:
        """Remove it with its pods, which may take a while; nothing happens if it is not there."""
        delete = self.objects.delete_namespaced_custom_object
        with contextlib.suppress(FileNotFoundError):
            self._ask("delete trainjobs", delete, **self.place, name=self.name, propagation_policy="Foreground")

    def clear(self) -> None:
        """Remove it and wait until its pods are gone too. Raises: TimeoutError if they stay."""
        self.remove()
        until = time.monotonic() + self.patience
        while self.read():
            if time.monotonic() > until:
                raise TimeoutError(
                    f"TrainJob {self.name}: found it {self.patience:g} s after its removal; is a node away?"
                )
            time.sleep(PAUSE)

    def pods(self) -> list[Any]:
        """Oldest first."""
        selector = f"jobset.sigs.k8s.io/jobset-name={self.name}"
        found = self._ask("list pods", self.core.list_namespaced_pod, namespace=self.namespace, label_selector=selector)
        return sorted(found.items, key=lambda pod: pod.metadata.creation_timestamp)

    def log(self, pod: str, **which: Any) -> list[str]:
        """Lines of a pod's log, none where it has none that can be read now."""
        place = {"name": pod, "namespace": self.namespace, "container": nodes.CONTAINER}
        try:
            with _said("get pods/log"):
                answer = self.core.read_namespaced_pod_log(
                    **place, **which, _preload_content=False, _request_timeout=TIMEOUT
                )  # the client would take a log of one number for JSON
        except (FileNotFoundError, ValueError, ConnectionError):  # not started, gone, its node away
            return []
        return answer.data.decode(errors="replace").removesuffix("\n").split("\n")  # a bar has \r within a line

    def warnings(self) -> list[str]:
        """What Kubernetes warns of in events of its jobs and pods, oldest first."""
        events = self.core.list_namespaced_event
        found = self._ask("list events", events, namespace=self.namespace, field_selector="type=Warning")
        own = [event for event in found.items if event.involved_object.name.startswith(self.name)]
        times = [event.last_timestamp or event.event_time or event.metadata.creation_timestamp for event in own]
        return [event.message for _, event in sorted(zip(times, own, strict=True), key=lambda pair: pair[0])]

    def _ask(self, what: str, method: Callable[..., Any], **arguments: Any) -> Any:
        until = time.monotonic() + self.patience
        while True:
            try:
                with _said(what):
                    return method(**arguments, _request_timeout=TIMEOUT)
            except ConnectionError:
                if time.monotonic() > until:
                    raise
            time.sleep(PAUSE)


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
    """Raises: PermissionError if one may not; FileNotFoundError and FileExistsError for what is not, or is, there;
    ConnectionError for what may pass; ValueError for what is refused.
    """
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        status = _status(error.body)
        message = follow.line(status.get("message") or error.reason or "")
        raise _refusal(what, error.status, message, bool(status.get("details", {}).get("name"))) from error
    except HTTPError as error:
        raise ConnectionError(f"{what}: found no answer from Kubernetes; expected one") from error


def _refusal(what: str, code: int, message: str, named: bool) -> Exception:
    """What an error of the API comes to; `named`: whether it is about a certain object."""
    if code == 404 and named:
        return FileNotFoundError(f"{what}: {message}")
    if code == 404 and what.endswith("trainjobs"):
        return ValueError(
            f"Kubeflow Trainer: found no {nodes.API['group']}/{nodes.API['version']} in this cluster; expected Trainer "
            "2.2 or newer; install it, or compile with a profile that trains on one node"
        )
    if code == 409:
        return FileExistsError(f"{what}: {message}")
    if code == 400 and "unknown field" in message:
        return ValueError(
            f"Kubeflow Trainer: found one that refuses {message}; expected Trainer 2.2 or newer; upgrade it"
        )
    if "must be created before" in message or "unsupported runtime" in message:
        return ValueError(f"Kubeflow Trainer: found {message}; expected that runtime; install it, or name another")
    if "exceeded quota" in message:
        return ValueError(f"{what}: found {message}; expected room; raise the quota, or take a smaller profile")
    if code in (401, 403) and "denied the request" not in message:
        return PermissionError(f"{what}: not allowed (HTTP {code}: {message}); expected {ROLE}")
    if code in (408, 429) or code >= 500:
        return ConnectionError(f"{what}: found HTTP {code} from Kubernetes ({message}); expected an answer")
    return ValueError(f"{what}: found HTTP {code}: {message}; expected Kubernetes to take it")


def _status(body: str | bytes | None) -> dict[str, Any]:
    """The Status that an error's body is; empty for another body."""
    try:
        found = json.loads(body or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) and found.get("kind") == "Status" else {}


def run(wanted: Nodes, name: str, command: Sequence[str], finished: Callable[[], _T | None]) -> _T:
    """What `finished` gives once nodes have run `command`: None means that there is nothing yet.

    Raises: RuntimeError if the TrainJob failed as often as it may; as `_said`.
    """
    cluster = _cluster()
    pod = _own_pod(cluster)
    job = TrainJob(cluster, name)
    body = nodes.manifest(wanted, name, command, pod, os.environ.get("HF_HUB_CACHE", nodes.MODELS))
    with _removed_if_cancelled(job):
        for left in reversed(range(wanted.retries + 1)):
            _start(job, body, pod)
            try:
                end = follow.to_the_end(job, wanted)
            except (PermissionError, ValueError):  # no attempt could follow it
                job.remove()
                raise
            if end.complete and (result := finished()) is not None:
                job.remove()
                return result
            if end.final or not left:
                raise RuntimeError(f"train: {end.text}; what it had saved is kept for the next attempt")
            print(
                f"train: {end.text}; it is made again, from the last checkpoint; {left - 1} times are left", flush=True
            )
    raise AssertionError("a range of one at least")


def _start(job: TrainJob, body: Mapping[str, Any], pod: Pod | None) -> None:
    """See to it that the TrainJob runs: the one that does, or else a new one."""
    found = job.read()
    if found and (follow.over(found) or found["metadata"].get("deletionTimestamp")):
        job.clear()
        found = None
    try:
        if found is None:
            job.create(body)
        elif pod:
            job.adopt(found, pod)
    except (FileExistsError, FileNotFoundError):  # another run of the same was faster
        _start(job, body, pod)
    else:
        print(f"train: TrainJob {job.name} {'runs already and is followed' if found else 'is made'}", flush=True)


@contextlib.contextmanager
def _removed_if_cancelled(job: TrainJob) -> Iterator[None]:
    """Kubeflow cancels a run by SIGTERM to every process of its pods, whose containers end within a second or so, with
    Kubeflow's own launcher: the request to remove comes first. (A node that is taken back sends SIGTERM too.)
    """

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        job.patience = 0
        job.remove()
        print(f"train: cancelled; TrainJob {job.name} is removed", flush=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _cluster() -> Kubernetes:
    """The cluster that this process is a pod of, or the one in $KUBECONFIG. Raises: ValueError if there is neither."""
    if found := in_pod():
        return found
    if not (path := os.environ.get("KUBECONFIG")):
        raise ValueError("Kubernetes: found neither a pod around this process nor KUBECONFIG; expected one of them")
    from kubernetes import client, config

    config.load_kube_config(config_file=path)
    current = config.list_kube_config_contexts(config_file=path)[1]
    return Kubernetes(client.CoreV1Api(), current["context"].get("namespace", "default"))


def _own_pod(cluster: Kubernetes) -> Pod | None:
    """The pod that this process is in, where Kubeflow says which. Raises: as `_said`."""
    if not (name := os.environ.get("KFP_POD_NAME")):
        return None
    with _said("get pods"):
        found = cluster.api.read_namespaced_pod(name, cluster.namespace, _request_timeout=TIMEOUT)
    secrets = [secret.name for secret in found.spec.image_pull_secrets or []]
    return Pod(name, found.metadata.uid, found.spec.service_account_name, secrets)
