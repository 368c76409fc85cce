"""Nodes: what several of them are asked for, as a TrainJob of Kubeflow Trainer.

All pods of a TrainJob run one command. Trainer tells each its place among them in the variables that torchrun reads
(PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR, ...), and its JobSet starts again what fails.

Source: Kubeflow Trainer's API trainer.kubeflow.org/v1alpha1, where a pod's settings are `runtimePatches` (since 2.2).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

API = {"group": "trainer.kubeflow.org", "version": "v1alpha1"}
CONTAINER = "node"
"""Trainer's name for the job, and the container in it, that trains."""
HOME = "/cache"
"""Home of the images' user, and so of what a node downloads: an empty volume."""
MODELS = "/models"
"""Where a claim with models is mounted, unless HF_HUB_CACHE says otherwise."""
STORE_FOLDER = "/etc/croco/store"
"""Where croco.connection looks for the store's Secret."""


@dataclass(frozen=True)
class Nodes:
    """The nodes to train on, each alike; a profile of `pipelines` writes it."""

    nodes: int
    gpus: int
    """On each node, a process each; 0 trains in one process a node, on its CPU."""
    gpu_type: str
    """Resource name of the GPUs."""
    cpu: str
    """Cores requested of each node."""
    memory: str
    """Of each node, requested and limit."""
    shared_memory: str
    """/dev/shm; counts towards memory. Empty: the 64 MiB of any pod."""
    disk: str
    """Of each node, for the base model and checkpoints; requested and limit. Empty: what the node has."""
    image: str
    """Reference of the image that this task has too: weights depend on the libraries."""
    timeout: int
    """Seconds that one TrainJob may take once it has started."""
    retries: int
    """TrainJobs after the first, each from the last checkpoint; within one, Kubernetes restarts pods by itself."""
    runtime: str
    """A ClusterTrainingRuntime for torch."""
    node_selector: Mapping[str, str]
    """Labels of the nodes."""
    tolerations: Sequence[str]
    """Keys of the taints to tolerate."""
    queue: str
    """LocalQueue of Kueue; empty: none."""
    models: str
    """PersistentVolumeClaim with models, mounted where this task has it; empty: none."""
    store_secret: str
    """Optional Secret with the object store's keys and address."""
    hf_secret: str
    """Optional Secret with key `token`, for a gated base model."""
    user: int
    """Numeric user of the image."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Nodes":
        """From JSON, whose numbers may all be floats. Raises: ValueError for what is no such record."""
        names = [field.name for field in dataclasses.fields(cls)]
        if strange := sorted(set(names) ^ set(record)):
            raise ValueError(f"trainjob: found {', '.join(strange)} missing or unknown; expected {', '.join(names)}")
        numbers = {name: int(record[name]) for name in ("nodes", "gpus", "timeout", "retries", "user")}
        return cls(**{**record, **numbers})

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("gpus", 0), ("timeout", 1), ("retries", 0)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"trainjob: found {name} {value}; expected {least} or more")

    @property
    def processes(self) -> int:
        """In all."""
        return self.nodes * max(self.gpus, 1)


@dataclass(frozen=True)
class Pod:
    """The pod that hands its work to nodes, as far as theirs are to be like it."""

    name: str
    uid: str
    account: str
    """Its ServiceAccount, which a cloud may know as one that reads the store."""
    pull_secrets: Sequence[str] = ()

    @property
    def reference(self) -> dict[str, str]:
        """As an owner: what it owns is removed with it."""
        return {"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": self.uid}


def manifest(wanted: Nodes, name: str, command: Sequence[str], pod: Pod | None, models: str = MODELS) -> dict[str, Any]:
    """The TrainJob in which every node runs `command`. `models`: the folder to mount their claim at."""
    labels = {"app.kubernetes.io/part-of": "croco"}
    values = {"HOME": HOME, "PYTHONUNBUFFERED": "1", **({"HF_HUB_CACHE": models} if wanted.models else {})}
    token = {"name": wanted.hf_secret, "key": "token", "optional": True}
    return {
        "apiVersion": f"{API['group']}/{API['version']}",
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            "labels": {**labels, **({"kueue.x-k8s.io/queue-name": wanted.queue} if wanted.queue else {})},
            "ownerReferences": [pod.reference] if pod else [],
        },
        "spec": {
            "runtimeRef": {"name": wanted.runtime},
            "activeDeadlineSeconds": wanted.timeout,
            "trainer": {
                "image": wanted.image,
                "command": list(command),
                "numNodes": wanted.nodes,
                "numProcPerNode": max(wanted.gpus, 1),
                "resourcesPerNode": _resources(wanted),
                "env": [
                    *({"name": name, "value": value} for name, value in values.items()),
                    {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": token}},
                ],
            },
            "runtimePatches": [
                {
                    "manager": "croco.io/train",
                    "trainingRuntimeSpec": _patch(labels, _pod(wanted, pod, models)),
                }
            ],
        },
    }


def _resources(wanted: Nodes) -> dict[str, Any]:
    disk = {"ephemeral-storage": wanted.disk} if wanted.disk else {}
    gpus = {wanted.gpu_type: wanted.gpus} if wanted.gpus else {}
    return {
        "requests": {"cpu": wanted.cpu, "memory": wanted.memory, **disk},
        "limits": {"memory": wanted.memory, **gpus},
    }


def _patch(labels: Mapping[str, str], pod: Mapping[str, Any]) -> dict[str, Any]:
    """What is changed of a runtime: labels, which network policies select pods by, and settings of the pods."""
    template = {"metadata": {"labels": {**labels, "sidecar.istio.io/inject": "false"}}, "spec": pod}
    job = {"name": CONTAINER, "template": {"spec": {"template": template}}}
    return {"template": {"spec": {"replicatedJobs": [job]}}}


def _pod(wanted: Nodes, pod: Pod | None, models: str) -> dict[str, Any]:
    """What Pod Security `restricted` demands, and the mounts that a pipeline's tasks have."""
    volumes: dict[str, tuple[str, dict[str, Any]]] = {
        "cache": (HOME, {"emptyDir": {"sizeLimit": wanted.disk} if wanted.disk else {}}),
        "store": (STORE_FOLDER, {"secret": {"secretName": wanted.store_secret, "optional": True}}),
    }
    if wanted.shared_memory:
        memory = {"medium": "Memory", "sizeLimit": wanted.shared_memory}
        volumes["shared-memory"] = ("/dev/shm", {"emptyDir": memory})
    if wanted.models:
        volumes["models"] = (models, {"persistentVolumeClaim": {"claimName": wanted.models}})
    settings = {
        "name": CONTAINER,
        "volumeMounts": [{"name": name, "mountPath": path} for name, (path, _) in volumes.items()],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        **({"serviceAccountName": pod.account} if pod else {}),
        **({"imagePullSecrets": [{"name": name} for name in pod.pull_secrets]} if pod and pod.pull_secrets else {}),
        "nodeSelector": dict(wanted.node_selector),
        "tolerations": [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in wanted.tolerations],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": wanted.user,
            "runAsGroup": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [{"name": name, **source} for name, (_, source) in volumes.items()],
        "containers": [settings],
    }
