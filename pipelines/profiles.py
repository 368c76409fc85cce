"""Profiles: what each stage's pod gets on a kind of cluster, in one table, and the one function that asks for it.

All of it is settled when a pipeline is compiled: kfp takes retries and volume sizes as constants only, and a resource
that is a pipeline parameter is not found inside a loop (Kubeflow 2.17). None of it is part of a task's cache key but
the number of GPUs, which a stage is told.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kfp import kubernetes

from components import images

USER = 2000
"""Numeric user of every image (vLLM's own); group 0, which owns what the images let be written."""
HOME = "/cache"
"""Home of that user in every image, and so of the model caches: an empty volume a pod, never read by another."""
HF_SECRET = "hf-token"
"""Optional Secret with key `token`, for gated models and data sets."""
STORE_SECRET = "croco-store"
"""Optional Secret with the object store's keys and address (croco.store), for every stage that takes a store."""
STORE_FOLDER = "/etc/croco/store"
MODELS = "/models"


@dataclass(frozen=True)
class Pod:
    """What a task's container gets."""

    cpu: str
    """Cores requested."""
    memory: str
    """Requested and limit."""
    gpus: int = 0
    """On one node."""
    shared_memory: str | None = None
    """/dev/shm, for tensor parallelism; counts towards memory. None: the 64 MiB of any pod."""


@dataclass(frozen=True)
class Needs:
    """What one stage asks for on a kind of cluster."""

    title: str
    """The task's name in the Kubeflow UI."""
    pod: Pod
    hub: bool = False
    """Whether it reads models or data from the Hugging Face hub."""
    retries: int = 2
    """Attempts after the first (which failures count is the cluster's choice: Argo's retryPolicy)."""


@dataclass(frozen=True)
class Profile:
    """A kind of cluster."""

    needs: Mapping[str, Needs]
    """By stage."""
    taints: tuple[str, ...] = ()
    """Of its GPU nodes, besides the resource name of the GPUs themselves."""
    gpu_memory: int = 80
    """GiB a GPU, which preflight holds each model against."""


STAGES = {
    "preflight": ("Preflight", "small", True),
    "resolve": ("Resolve revisions", "small", True),
    "plan-translate": ("Plan translation", "small", False),
    "plan-sample": ("Plan sampling", "small", False),
    "prepare": ("Prepare prompts", "table", True),
    "translate": ("Translate prompts", "gpu", True),
    "gather": ("Gather prompts", "small", False),
    "sample": ("Sample answers", "gpu", True),
    "score": ("Score answers", "gpu", True),
    "pair": ("Pair chosen and rejected", "pairing", False),
    "train": ("Train the adapter", "training", True),
    "benchmark-base": ("Benchmark base", "gpu", True),
    "benchmark-tuned": ("Benchmark tuned", "gpu", True),
    "answer-base": ("Answer arena, base", "gpu", True),
    "answer-tuned": ("Answer arena, tuned", "gpu", True),
    "arena": ("Judge arena", "judge", True),
    "report": ("Report", "table", False),
}
"""Stage -> its title, its kind of pod, and whether it reads from the hub."""
CPU_PODS = {"small": Pod("1", "4Gi"), "table": Pod("2", "16Gi"), "pairing": Pod("4", "32Gi")}
ONE = Pod("8", "96Gi", gpus=1, shared_memory="16Gi")
"""80 GB hold each of the default models but the judge: 27B in bf16 take 54 (ours)."""
JUDGE = Pod("16", "192Gi", gpus=2, shared_memory="16Gi")
"""35B in bf16 take 70 GB, which leaves one GPU no room for answers (ours)."""
NODE = Pod("32", "512Gi", gpus=8, shared_memory="16Gi")
"""Training on a whole node (reference code)."""


def _profile(pods: Mapping[str, Pod], retries: int = 2, taints: tuple[str, ...] = ()) -> Profile:
    rows = STAGES.items()
    return Profile({stage: Needs(title, pods[kind], hub, retries) for stage, (title, kind, hub) in rows}, taints)


GPU_PODS = CPU_PODS | {"gpu": ONE, "judge": JUDGE, "training": ONE}
"""Training fits on one GPU too (9B, adapter only), with the same batches: slower, but it waits for no whole node."""
PROFILES = {
    "gpu-80gb": _profile(GPU_PODS),
    "node-8x80gb": _profile(GPU_PODS | {"training": NODE}),
    "spot": _profile(
        GPU_PODS, retries=10, taints=("kubernetes.azure.com/scalesetpriority", "cloud.google.com/gke-spot")
    ),
    "toy": _profile(dict.fromkeys(["small", "table", "pairing", "gpu", "judge", "training"], Pod("2", "8Gi"))),
}
"""Nodes with 80 GB GPUs; nodes with eight of them; the first, pre-empted at any time; no GPU, for the toy world."""
DEFAULT = "gpu-80gb"
NEVER_CACHED = ("preflight", "resolve")
"""Tasks that look at what may have changed since: what is there and reachable, what a branch names."""


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

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9.-]+/[A-Za-z0-9._-]+", self.gpu_type):
            raise ValueError(f"gpu_type: found {self.gpu_type!r}; expected a resource name such as nvidia.com/gpu")
        if self.profile not in PROFILES:
            raise ValueError(f"profile: found {self.profile!r}; expected one of {', '.join(PROFILES)}")
        if self.node_selector and not any(needs.pod.gpus for needs in PROFILES[self.profile].needs.values()):
            raise ValueError(f"node_selector: found {dict(self.node_selector)}; expected none: no GPU task to place")
        if strange := sorted(set(self.images) - set(images.NAMES)):
            raise ValueError(f"images: found {', '.join(strange)}; expected {', '.join(images.NAMES)}")

    def gpus(self, stage: str) -> str:
        """What the stage is told of its GPUs, as text: Kubeflow's numbers are floats; 1 where there are none."""
        return str(PROFILES[self.profile].needs[stage].pod.gpus or 1)

    def wanted(self) -> dict[str, Any]:
        """What preflight looks for (croco.cluster.Wanted, as JSON)."""
        profile = PROFILES[self.profile]
        return {
            "gpu_type": self.gpu_type,
            "gpu_memory": profile.gpu_memory,
            "node_selector": dict(self.node_selector),
            "tolerated": [self.gpu_type, *profile.taints],
            "autoscaled": self.autoscaled,
            "pods": {
                stage: {"cpu": needs.pod.cpu, "memory": needs.pod.memory, "gpus": needs.pod.gpus}
                for stage, needs in profile.needs.items()
            },
        }

    def place(self, task: Any, stage: str) -> None:
        """Give `task` what `stage` needs here."""
        needs = PROFILES[self.profile].needs[stage]
        task.set_display_name(needs.title)
        task.set_retry(num_retries=needs.retries, backoff_duration="60s", backoff_factor=2, backoff_max_duration="600s")
        task.set_caching_options(self.cached and stage not in NEVER_CACHED)
        references = {images.NAMES[name]: reference for name, reference in self.images.items()}
        task.set_container_image(references.get(task.container_spec.image, task.container_spec.image))
        task.set_cpu_request(needs.pod.cpu)
        task.set_memory_request(needs.pod.memory).set_memory_limit(needs.pod.memory)
        kubernetes.set_security_context(task, run_as_user=USER, run_as_group=0, run_as_non_root=True)
        kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "croco")
        kubernetes.empty_dir_mount(task, "cache", HOME)
        if needs.hub:
            kubernetes.use_secret_as_env(task, HF_SECRET, {"token": "HF_TOKEN"}, optional=True)
        if needs.hub and self.models:
            kubernetes.mount_pvc(task, self.models, MODELS)
            task.set_env_variable("HF_HUB_CACHE", MODELS)  # where files are looked for, not which
        if "store" in task.component_spec.inputs:
            kubernetes.use_secret_as_volume(task, STORE_SECRET, STORE_FOLDER, optional=True)
        if needs.pod.shared_memory:
            size = needs.pod.shared_memory
            kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory", size_limit=size)
        if needs.pod.gpus:
            self._place_on_gpus(task, needs.pod.gpus)

    def _place_on_gpus(self, task: Any, gpus: int) -> None:
        task.set_accelerator_type(self.gpu_type).set_accelerator_limit(gpus)
        for key, value in self.node_selector.items():
            kubernetes.add_node_selector(task, key, value)
        for taint in (self.gpu_type, *PROFILES[self.profile].taints):
            kubernetes.add_toleration(task, key=taint, operator="Exists", effect="NoSchedule")
