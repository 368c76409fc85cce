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
    gpus: int = 0


@dataclass(frozen=True)
class Wanted:
    """What a compiled pipeline asks of a cluster."""

    gpu_type: str
    """Resource name of the GPUs."""
    gpu_memory: int
    """GiB a GPU is taken to have."""
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
        pods = {stage: Pod(pod["cpu"], pod["memory"], int(pod.get("gpus", 0))) for stage, pod in record["pods"].items()}
        return cls(**{**record, "gpu_memory": int(record["gpu_memory"]), "pods": pods})


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
    """That some node has the GPUs of the largest task. Raises: ValueError if none has; as `Kubernetes`."""
    most = max(pod.gpus for pod in wanted.pods.values())
    stage = next(stage for stage, pod in wanted.pods.items() if pod.gpus == most)
    nodes = cluster.nodes(wanted.node_selector)
    open_nodes = [node for node in nodes if not node.spec.unschedulable and not _shut(node, wanted.tolerated)]
    counts = [int((node.status.allocatable or {}).get(wanted.gpu_type, 0)) for node in open_nodes]
    fitting = sum(count >= most for count in counts)
    if fitting:
        return f"{fitting} of {len(nodes)} nodes have {most} {wanted.gpu_type}, the most a task asks for ({stage})"
    labels = " ".join(f"{key}={value}" for key, value in wanted.node_selector.items())
    found = f"{len(nodes)} nodes{f' with {labels}' if labels else ''}, of which at most {max(counts, default=0)}"
    if wanted.autoscaled:
        return f"{found} {wanted.gpu_type} are on one node now; {most} are taken to be made when {stage} asks"
    raise ValueError(
        f"found {found} {wanted.gpu_type} that tasks may use are on one; expected {most} for {stage}; add such a node, "
        "compile with another --profile, --gpu-type or --node-selector, or with --autoscaled where nodes are made when "
        "asked for"
    )


def _shut(node: Any, tolerated: Sequence[str]) -> bool:
    """Whether a taint keeps GPU tasks off a node."""
    taints = node.spec.taints or []
    return any(taint.effect in ("NoSchedule", "NoExecute") and taint.key not in tolerated for taint in taints)


def check_quotas(cluster: Kubernetes, wanted: Wanted) -> str:
    """That no quota forbids a task's pod for good. Raises: ValueError naming each that does; as `Kubernetes`."""
    from kubernetes.utils import parse_quantity

    quotas = cluster.quotas()
    faults = []
    for quota in quotas:
        for resource, limit in (quota.spec.hard or {}).items():
            kind = resource.removeprefix("requests.").removeprefix("limits.")
            asked = {stage: _asked(pod, kind, wanted.gpu_type) for stage, pod in wanted.pods.items()}
            over = [stage for stage, text in asked.items() if text and parse_quantity(text) > parse_quantity(limit)]
            if over and not (kind == "cpu" and resource.startswith("limits.")):
                largest = max(over, key=lambda stage: parse_quantity(asked[stage]))
                faults.append(
                    f"found {resource} {limit} in quota {quota.metadata.name}; expected {asked[largest]} or more, "
                    f"which {largest} asks for; raise it, or compile with another --profile"
                )
    if faults:
        raise ValueError("; ".join(faults))
    return f"{len(quotas)} quotas, each with room for every task" if quotas else "none"


def _asked(pod: Pod, kind: str, gpu_type: str) -> str:
    return {"cpu": pod.cpu, "memory": pod.memory, gpu_type: str(pod.gpus or "")}.get(kind, "")
