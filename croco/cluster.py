"""Cluster: what the Kubernetes API says of nodes, quotas, Secrets and ConfigMaps, to those who may ask."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
TIMEOUT = (5, 20)
"""Seconds to connect, and to wait for an answer (ours)."""


@dataclass(frozen=True)
class Pod:
    """What the pod of a stage asks for."""

    cpu: str
    memory: str
    disk: str
    gpus: int = 0
    nodes: int = 1
    """More than 1: as many such pods at once, each on a node of its own (Kubeflow Trainer)."""


@dataclass(frozen=True)
class Wanted:
    """What a compiled pipeline asks of a cluster."""

    gpu_type: str
    """Resource name of the GPUs."""
    gpu_memory: int
    """GiB a GPU is taken to have."""
    gpu_mebibytes: Mapping[str, int]
    """Labels of the nodes for GPU tasks that must be a number above this."""
    node_selector: Mapping[str, str]
    """Labels of the nodes for GPU tasks."""
    tolerated: Sequence[str]
    """Keys of the taints that GPU tasks tolerate."""
    autoscaled: bool
    """Whether nodes with GPUs may be made only when a task asks for them."""
    pods: Mapping[str, Pod]
    """By stage."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Wanted":
        """From JSON, whose numbers may all be floats."""
        pods = {
            stage: Pod(**{**pod, "gpus": int(pod["gpus"]), "nodes": int(pod["nodes"])})
            for stage, pod in record["pods"].items()
        }
        least = {label: int(number) for label, number in record["gpu_mebibytes"].items()}
        return cls(**{**record, "gpu_memory": int(record["gpu_memory"]), "gpu_mebibytes": least, "pods": pods})

    @property
    def largest(self) -> str:
        """The stage with the most GPUs on a node, and of those on the most nodes."""
        return max(self.pods, key=lambda stage: (self.pods[stage].gpus, self.pods[stage].nodes))


@dataclass
class Kubernetes:
    """A Kubernetes API, seen from one namespace. Every look raises as `_said`."""

    api: Any
    namespace: str
    where: str = field(default="Kubernetes")

    def nodes(self, labels: Mapping[str, str]) -> list[Any]:
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        return list(self._look("nodes", self.api.list_node, label_selector=selector).items)

    def quotas(self) -> list[Any]:
        return list(self._look("quotas", self.api.list_namespaced_resource_quota, namespace=self.namespace).items)

    def secret(self, name: str) -> Mapping[str, str]:
        """Its keys, with values in base64."""
        return (
            self._look(f"Secret {name}", self.api.read_namespaced_secret, name=name, namespace=self.namespace).data
            or {}
        )

    def account(self, name: str) -> None:
        """Whether there is this ServiceAccount."""
        read = self.api.read_namespaced_service_account
        self._look(f"ServiceAccount {name}", read, name=name, namespace=self.namespace)

    def config_map(self, name: str) -> Mapping[str, str]:
        read = self.api.read_namespaced_config_map
        return self._look(f"ConfigMap {name}", read, name=name, namespace=self.namespace).data or {}

    def _look(self, what: str, method: Callable[..., Any], **arguments: Any) -> Any:
        with _said(what, self.namespace):
            return method(**arguments, _request_timeout=TIMEOUT)


@contextlib.contextmanager
def _said(what: str, namespace: str) -> Iterator[None]:
    """Raises: PermissionError if one may not look; FileNotFoundError if it is not there; ConnectionError otherwise."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        if error.status in (401, 403):
            raise PermissionError(f"{what}: not allowed to look (HTTP {error.status})") from error
        if error.status == 404:
            raise FileNotFoundError(f"{what}: found none in namespace {namespace}") from error
        raise ConnectionError(f"{what}: found HTTP {error.status} from Kubernetes; expected an answer") from error
    except HTTPError as error:
        raise ConnectionError(f"{what}: found no answer from Kubernetes; expected one") from error


def in_pod(namespace: Path = NAMESPACE) -> Kubernetes | None:
    """The cluster that this process is a pod of, if it is one."""
    if "KUBERNETES_SERVICE_HOST" not in os.environ or not namespace.is_file():
        return None
    from kubernetes import client, config

    config.load_incluster_config()
    return Kubernetes(_patient(client), namespace.read_text(encoding="ascii").strip())


def from_config(context: str | None, namespace: str) -> Kubernetes | None:
    """The cluster that kubectl would speak to, if there is one."""
    from kubernetes import client, config

    try:
        config.load_kube_config(context=context)
    except config.ConfigException:
        return None
    return Kubernetes(_patient(client), namespace)


def _patient(client: Any) -> Any:
    """The core API, which does not try again: what does not answer a look is said at once."""
    settings = client.Configuration.get_default_copy()
    settings.retries = 0
    return client.CoreV1Api(client.ApiClient(settings))


def check_nodes(cluster: Kubernetes, wanted: Wanted) -> str:
    """That nodes have the GPUs of the largest task, and its disk.

    Raises: ValueError if they have not; as `Kubernetes`.
    """
    stage, pod = wanted.largest, wanted.pods[wanted.largest]
    nodes = cluster.nodes(wanted.node_selector)
    open_nodes = [node for node in nodes if not node.spec.unschedulable and not _shut(node, wanted)]
    counts = [int((node.status.allocatable or {}).get(wanted.gpu_type, 0)) for node in open_nodes]
    fitting = [node for node, count in zip(open_nodes, counts, strict=True) if count >= pod.gpus]
    if len(fitting) >= pod.nodes:
        said = (
            f"{len(fitting)} of {len(nodes)} nodes have {pod.gpus} {wanted.gpu_type}, the most a task asks for ({stage}"
        )
        return f"{said}{f', of {pod.nodes}' if pod.nodes > 1 else ''}){_disks(fitting, pod)}"
    need = f"{pod.gpus} on each of {pod.nodes}" if pod.nodes > 1 else f"{pod.gpus}"
    labels = " ".join(f"{key}={value}" for key, value in wanted.node_selector.items())
    found = f"{len(nodes)} nodes{f' with {labels}' if labels else ''}, of which at most {max(counts, default=0)}"
    if wanted.autoscaled:
        return f"{found} {wanted.gpu_type} are on one node now; {need} are taken to be made when {stage} asks"
    raise ValueError(
        f"found {found} {wanted.gpu_type} that tasks may use are on one; expected {need} for {stage}; add such a node, "
        "compile with another --profile, --gpu-type or --node-selector, or with --autoscaled where nodes are made when "
        "asked for"
    )


def _disks(nodes: Sequence[Any], pod: Pod) -> str:
    """What is to be said of nodes with less disk than a task may take; Kubeflow places tasks without a look at it."""
    from kubernetes.utils import parse_quantity

    disks = [(node.status.allocatable or {}).get("ephemeral-storage") for node in nodes]
    small = sum(disk is not None and parse_quantity(disk) < parse_quantity(pod.disk) for disk in disks)
    return f"; {small} of them with less disk than the {pod.disk} it may take" if small else ""


def _shut(node: Any, wanted: Wanted) -> bool:
    """Whether a taint keeps GPU tasks off a node, or what its labels say of its GPUs."""
    labels, taints = node.metadata.labels or {}, node.spec.taints or []
    for label, least in wanted.gpu_mebibytes.items():
        said = labels.get(label, "")
        if not said.isdigit() or int(said) <= least:
            return True
    kept = [taint for taint in taints if taint.effect in ("NoSchedule", "NoExecute")]
    return any(taint.key not in wanted.tolerated for taint in kept)


def check_quotas(cluster: Kubernetes, wanted: Wanted) -> str:
    """That no quota forbids a task's pods for good. Raises: ValueError naming each that does; as `Kubernetes`."""
    from kubernetes.utils import parse_quantity

    quotas = cluster.quotas()
    faults = []
    for quota in quotas:
        for resource, limit in (quota.spec.hard or {}).items():
            kind = resource.removeprefix("requests.").removeprefix("limits.")
            asked = {stage: _asked(pod, kind, wanted.gpu_type) for stage, pod in wanted.pods.items()}
            amounts = {stage: wanted.pods[stage].nodes * parse_quantity(text) for stage, text in asked.items() if text}
            largest = max(amounts, key=lambda stage: amounts[stage], default=None)
            if not largest or amounts[largest] <= parse_quantity(limit) or resource == "limits.cpu":
                continue
            times = f"{nodes} x " if (nodes := wanted.pods[largest].nodes) > 1 else ""
            faults.append(
                f"found {resource} {limit} in quota {quota.metadata.name}; expected {times}{asked[largest]} or more, "
                f"which {largest} asks for; raise it, or compile with another --profile"
            )
    if faults:
        raise ValueError("; ".join(faults))
    return f"{len(quotas)} quotas, each with room for every task" if quotas else "none"


def _asked(pod: Pod, kind: str, gpu_type: str) -> str:
    return {"cpu": pod.cpu, "memory": pod.memory, gpu_type: str(pod.gpus or "")}.get(kind, "")
