"""Placement: where a pipeline is compiled for, and how each of its tasks asks Kubeflow for what its profile says.

What kfp writes down without a look (labels, names of volumes, resource names) fails only when the pod is made, so it is
looked at here. A claim or a Secret that is mounted is a volume of its own name, which may have no dots and must not be
another volume's. Required node affinities are alternatives to Kubeflow, so a task has one at most.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kfp import kubernetes

from components import images
from pipelines.profiles import DEFAULT, HF_SECRET, JUDGE_SECRET, MLFLOW_SECRET, PROFILES, STORE_SECRET, Needs

USER = 2000
"""Numeric user of every image (vLLM's own); group 0, which owns what the images let be written."""
HOME = "/cache"
"""Home of that user in every image, and so of the model caches: an empty volume a pod, never read by another."""
STORE_FOLDER = "/etc/croco/store"
JUDGE_FOLDER = "/etc/croco/judge"
MODELS = "/models"
VOLUMES = {"cache": HOME, "shared-memory": "/dev/shm"}
NEVER_CACHED = ("preflight", "resolve", "promote", "publish", "track")
"""Tasks that look at what may have changed since (what is there, what a branch names, which model was promoted last),
or tell of the run."""
BACKOFF = {"backoff_duration": "60s", "backoff_factor": 2, "backoff_max_duration": "600s"}
"""Between attempts. Whole seconds: Kubeflow cuts off what is behind the point."""
STAYS = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
"""Annotations that keep autoscalers from ending a pod to save its node."""
QUEUE = "kueue.x-k8s.io/queue-name"
RUNTIME = "torch-distributed"
"""Kubeflow Trainer's runtime for PyTorch."""
MARGIN = 0.92
"""Of the MiB that a GPU has by its name, nodes say they have at least so much: an L4 of 24 GB says 23,034."""

SEGMENT = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
LABEL = rf"([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{SEGMENT}"
NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


@dataclass(frozen=True)
class Cluster:
    """Where a pipeline is compiled for."""

    profile: str = DEFAULT
    """A name in PROFILES."""
    gpu_type: str = "nvidia.com/gpu"
    """Resource name of the GPUs; taken for the key of their nodes' taint too, as is usual."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    """Labels of the nodes for GPU tasks, to ask for one kind of GPU."""
    images: Mapping[str, str] = field(default_factory=dict)
    """Name in components.images.NAMES -> reference to use; what is not there goes by its own name."""
    cached: bool = True
    """Whether a task may be answered by an earlier one: only where each image reference stands for one content."""
    models: str | None = None
    """PersistentVolumeClaim that tasks which read from the hub mount at /models and use as its cache. Its name is
    part of their cache keys."""
    autoscaled: bool = False
    """Whether nodes with GPUs may be made only when a task asks for them: preflight then does not miss them."""
    gpu_memory_label: str | None = None
    """Label by which nodes say how many MiB a GPU of theirs has (nvidia.com/gpu.memory of GPU feature discovery). GPU
    tasks then go only where it is about as many as the profile takes a GPU to have."""
    queue: str | None = None
    """LocalQueue of Kueue's that every task waits in."""
    fetch: bool = False
    """Whether a task without a GPU downloads EuroEval's data for the evaluations, which then need no hub for it."""
    mlflow: str = ""
    """Address of an MLflow server that is told of each run. Without this and `tensorboard` there is no task for it."""
    tensorboard: str = ""
    """Where event files for TensorBoard go, s3://bucket/prefix outside of any store."""

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ValueError(f"profile: found {self.profile!r}; expected one of {', '.join(PROFILES)}")
        if "/" not in self.gpu_type or not re.fullmatch(LABEL, self.gpu_type):
            raise ValueError(f"gpu_type: found {self.gpu_type!r}; expected a resource name such as nvidia.com/gpu")
        _check_label("gpu_memory_label", self.gpu_memory_label)
        for label, value in self.node_selector.items():
            _check_label("node_selector", label)
            if not re.fullmatch(SEGMENT, value):
                raise ValueError(f"node_selector: found {label}={value!r}; expected a label's value, as nodes have it")
        for name in ("models", "queue"):
            if (found := getattr(self, name)) is not None and not re.fullmatch(NAME, found):
                raise ValueError(
                    f"{name}: found {found!r}; expected a name of lower-case letters, digits and -, with no dot in it"
                )
        if self.models in (*VOLUMES, STORE_SECRET, JUDGE_SECRET):
            raise ValueError(f"models: found {self.models}; expected another name: each task has a volume of that one")
        asked = {"node_selector": dict(self.node_selector), "gpu_memory_label": self.gpu_memory_label}
        given = [name for name in asked if asked[name]]
        if given and not any(needs.pod.gpus for needs in PROFILES[self.profile].needs.values()):
            raise ValueError(f"{given[0]}: found {asked[given[0]]!r}; expected none: no GPU task to place")
        if strange := sorted(set(self.images) - set(images.NAMES)):
            raise ValueError(f"images: found {', '.join(strange)}; expected {', '.join(images.NAMES)}")

    @property
    def tolerated(self) -> list[str]:
        """Keys of the taints that GPU tasks tolerate."""
        return [self.gpu_type, *PROFILES[self.profile].taints]

    @property
    def gpu_mebibytes(self) -> dict[str, int]:
        """Label of a node -> MiB that it must exceed for a GPU task; empty where none is looked at."""
        least = int(PROFILES[self.profile].gpu_memory * 1024 * MARGIN)
        return {self.gpu_memory_label: least} if self.gpu_memory_label else {}

    def gpus(self, stage: str) -> str:
        """What the stage is told of its GPUs, as text: Kubeflow's numbers are floats; 1 where there are none."""
        return str(PROFILES[self.profile].needs[stage].pod.gpus or 1)

    def wanted(self) -> dict[str, Any]:
        """What preflight looks for (croco.cluster.Wanted, as JSON)."""
        profile, pods = PROFILES[self.profile], {}
        for stage, needs in profile.needs.items():
            pod, nodes = (needs.job.pod, needs.job.nodes) if needs.job else (needs.pod, 1)
            pods[stage] = {"cpu": pod.cpu, "memory": pod.memory, "disk": pod.disk, "gpus": pod.gpus, "nodes": nodes}
        return {
            "gpu_type": self.gpu_type,
            "gpu_memory": profile.gpu_memory,
            "gpu_mebibytes": self.gpu_mebibytes,
            "node_selector": dict(self.node_selector),
            "tolerated": self.tolerated,
            "autoscaled": self.autoscaled,
            "pods": pods,
        }

    def trainjob(self) -> dict[str, Any]:
        """What `train` hands to Kubeflow Trainer (croco.nodes.Nodes, as JSON); empty where it trains by itself.

        A queue or claim that there is none of is empty, for kfp compiles no None inside a dict.
        """
        if not (job := PROFILES[self.profile].needs["train"].job):
            return {}
        return {
            "nodes": job.nodes,
            "gpus": job.pod.gpus,
            "gpu_type": self.gpu_type,
            "cpu": job.pod.cpu,
            "memory": job.pod.memory,
            "shared_memory": job.pod.shared_memory,
            "disk": job.pod.disk,
            "image": self.images.get("gpu", images.GPU),
            "timeout": 3600 * job.hours,
            "retries": 0,  # the task is tried again itself
            "runtime": RUNTIME,
            "node_selector": dict(self.node_selector),
            "tolerations": self.tolerated,
            "queue": self.queue or "",
            "models": self.models or "",
            "store_secret": STORE_SECRET,
            "hf_secret": HF_SECRET,
            "user": USER,
        }


def _check_label(what: str, label: str | None) -> None:
    if label is not None and not re.fullmatch(LABEL, label):
        raise ValueError(f"{what}: found {label!r}; expected a label's key, such as nvidia.com/gpu.product")


def place(cluster: Cluster, task: Any, stage: str, about: str = "", title: str = "") -> None:
    """Give `task` what `stage` needs on `cluster`; `about` goes behind the stage's title, or its own."""
    profile = PROFILES[cluster.profile]
    needs = profile.needs[stage]
    task.set_display_name(": ".join(filter(None, (title or needs.title, about))))
    task.set_retry(num_retries=needs.retries, **BACKOFF)
    task.set_caching_options(cluster.cached and stage not in NEVER_CACHED)
    references = {images.NAMES[name]: reference for name, reference in cluster.images.items()}
    task.set_container_image(references.get(task.container_spec.image, task.container_spec.image))
    task.set_cpu_request(needs.pod.cpu)
    task.set_memory_request(needs.pod.memory).set_memory_limit(needs.pod.memory)
    kubernetes.set_timeout(task, 3600 * needs.hours)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=0, run_as_non_root=True)
    kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "croco")
    if cluster.queue:
        kubernetes.add_pod_label(task, QUEUE, cluster.queue)
    if (needs.pod.gpus or needs.job) and not profile.movable:
        for name, value in STAYS.items():
            kubernetes.add_pod_annotation(task, name, value)
    _mount(cluster, task, needs)
    if stage == "arena":
        kubernetes.use_secret_as_volume(task, JUDGE_SECRET, JUDGE_FOLDER, optional=True)
    if needs.pod.gpus:
        _place_on_gpus(cluster, task, needs.pod.gpus)


def _mount(cluster: Cluster, task: Any, needs: Needs) -> None:
    """Its volumes and Secrets."""
    kubernetes.empty_dir_mount(task, "cache", VOLUMES["cache"], size_limit=needs.pod.disk)
    if size := needs.pod.shared_memory:
        kubernetes.empty_dir_mount(task, "shared-memory", VOLUMES["shared-memory"], medium="Memory", size_limit=size)
    if needs.hub:
        kubernetes.use_secret_as_env(task, HF_SECRET, {"token": "HF_TOKEN"}, optional=True)
    if needs.hub and cluster.models:
        kubernetes.mount_pvc(task, cluster.models, MODELS)
        task.set_env_variable("HF_HUB_CACHE", MODELS)  # where files are looked for, not which
    inputs = task.component_spec.inputs
    if "mlflow" in inputs:
        kubernetes.use_secret_as_env(task, MLFLOW_SECRET, {"token": "MLFLOW_TRACKING_TOKEN"}, optional=True)
    if "store" in inputs or "tensorboard" in inputs:
        kubernetes.use_secret_as_volume(task, STORE_SECRET, STORE_FOLDER, optional=True)


def _place_on_gpus(cluster: Cluster, task: Any, gpus: int) -> None:
    task.set_accelerator_type(cluster.gpu_type).set_accelerator_limit(gpus)
    for label, value in cluster.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for taint in cluster.tolerated:
        kubernetes.add_toleration(task, key=taint, operator="Exists", effect="NoSchedule")
    for label, least in cluster.gpu_mebibytes.items():
        kubernetes.add_node_affinity(task, [{"key": label, "operator": "Gt", "values": [str(least)]}])
    for label, value in PROFILES[cluster.profile].prefers.items():
        kubernetes.add_node_affinity(task, [{"key": label, "operator": "In", "values": [value]}], weight=100)
