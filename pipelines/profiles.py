"""Profiles: what each stage's pod gets on a kind of cluster, in one table.

All of it is settled when a pipeline is compiled: kfp takes retries, time limits and volume sizes as constants only, and
a resource that is a pipeline parameter is not found inside a loop (Kubeflow 2.17). None of it is part of a task's cache
key but the number of GPUs, which a stage is told, and what training hands to Kubeflow Trainer. `pipelines.placement`
asks Kubeflow for it, and `python -m pipelines profiles` prints it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

HF_SECRET = "hf-token"
"""Optional Secret with key `token`, for gated models and data sets."""
JUDGE_SECRET = "judge-key"
"""Optional Secret with key `apikey`, for a judge behind an endpoint (croco.endpoint)."""
MLFLOW_SECRET = "mlflow-token"
"""Optional Secret with key `token`, for an MLflow server that asks for one."""
STORE_SECRET = "croco-store"
"""Optional Secret with the object store's keys and address (croco.store), for every stage that takes a store."""


@dataclass(frozen=True)
class Pod:
    """What a task's container gets."""

    cpu: str
    """Cores requested."""
    memory: str
    """Requested and limit; Mi or Gi."""
    disk: str
    """Models, data and temporary files may take at /cache, above which the pod is evicted. Kubeflow 2.17 has no way to
    request ephemeral storage: that the node has it is up to the cluster (manifests/base/limits.yaml has a default)."""
    gpus: int = 0
    """On one node."""
    shared_memory: str | None = None
    """/dev/shm, for tensor parallelism; counts towards memory. None: the 64 MiB of any pod."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[1-9]\d*m?", self.cpu):
            raise ValueError(f"cpu: found {self.cpu!r}; expected cores such as 8, or thousandths such as 500m")
        for name in ("memory", "disk", "shared_memory"):
            size = getattr(self, name)
            if size is not None and not re.fullmatch(r"[1-9]\d*[MG]i", size):
                raise ValueError(f"{name}: found {size!r}; expected a whole number of Mi or Gi, such as 16Gi")
        if self.shared_memory and mebibytes(self.shared_memory) >= mebibytes(self.memory):
            raise ValueError(f"shared_memory: found {self.shared_memory}; expected less than memory, {self.memory}")
        if self.gpus < 0:
            raise ValueError(f"gpus: found {self.gpus}; expected 0 or more")


def mebibytes(size: str) -> int:
    """Of a size that a Pod has."""
    return int(size[:-2]) * (1024 if size.endswith("Gi") else 1)


@dataclass(frozen=True)
class Job:
    """What a task hands to Kubeflow Trainer, to wait for it without a GPU of its own. If it fails, so does the task,
    whose next attempt goes on from the last checkpoint."""

    nodes: int
    pod: Pod
    """On each of them."""
    hours: int
    """It may take once it has its nodes; fewer than the task, which waits for them too."""

    def __post_init__(self) -> None:
        if self.nodes < 2 or not self.pod.gpus:
            raise ValueError(f"nodes: found {self.nodes} with {self.pod.gpus} GPUs; expected 2 or more, each with some")


@dataclass(frozen=True)
class Needs:
    """What one stage asks for on a kind of cluster."""

    title: str
    """The task's name in the Kubeflow UI, ASCII."""
    pod: Pod
    hub: bool = False
    """Whether it reads models or data from the Hugging Face hub."""
    hours: int = 1
    """An attempt may take on its node, with fetching image and models (Kubernetes' activeDeadlineSeconds)."""
    retries: int = 2
    """Attempts after the first (which failures count is the cluster's choice: Argo's retryPolicy)."""
    job: Job | None = None

    def __post_init__(self) -> None:
        if not self.title.isascii() or not self.title.isprintable():
            raise ValueError(f"title: found {self.title!r}; expected ASCII, for Kubeflow's database holds no more")
        for name, least in (("hours", 1), ("retries", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: found {value!r}; expected a whole number from {least} on")


@dataclass(frozen=True)
class Profile:
    """A kind of cluster."""

    about: str
    needs: Mapping[str, Needs]
    """By stage."""
    taints: tuple[str, ...] = ()
    """Of its GPU nodes, besides the resource name of the GPUs themselves."""
    prefers: Mapping[str, str] = field(default_factory=dict)
    """Labels of nodes that GPU tasks go to where there are any."""
    movable: bool = False
    """Whether an autoscaler may end a GPU task to save a node."""
    gpu_memory: int = 80
    """GiB a GPU, which preflight holds each model against."""


STAGES = {
    "preflight": ("Preflight", "small", True, 1),
    "resolve": ("Resolve revisions", "small", True, 1),
    "recall": ("Recall the promoted model", "table", False, 6),
    "plan-translate": ("Plan translation", "small", False, 1),
    "plan-sample": ("Plan sampling", "small", False, 1),
    "prepare": ("Prepare prompts", "table", True, 6),
    "translate": ("Translate prompts", "gpu", True, 24),
    "gather": ("Gather prompts", "small", False, 1),
    "sample": ("Sample answers", "gpu", True, 120),
    "score": ("Score answers", "gpu", True, 48),
    "pair": ("Pair chosen and rejected", "pairing", False, 12),
    "train": ("Train the adapter", "training", True, 96),
    "fetch": ("Fetch evaluation data", "table", True, 6),
    "benchmark-base": ("Benchmark base", "gpu", True, 48),
    "benchmark-tuned": ("Benchmark tuned", "gpu", True, 48),
    "answer-base": ("Answer arena, base", "gpu", True, 12),
    "answer-tuned": ("Answer arena, tuned", "gpu", True, 12),
    "arena": ("Judge arena", "judge", True, 24),
    "promote": ("Decide on promotion", "small", False, 1),
    "publish": ("Publish the model", "table", True, 6),
    "report": ("Report", "table", False, 6),
    "track": ("Tell trackers", "small", False, 1),
}
"""Stage -> its title, its kind of pod, whether it reads from the hub, and the hours an attempt may take: some times
what the defaults come to at 2,000 tokens a second and GPU (ours, reckoned: no GPU was measured). They end what hangs,
not what is slow: with a store the next attempt goes on from there."""
CPU_PODS = {
    "small": Pod("1", "4Gi", "10Gi"),
    "table": Pod("2", "16Gi", "50Gi"),
    "pairing": Pod("4", "32Gi", "50Gi"),
}
ONE = Pod("8", "96Gi", "150Gi", gpus=1, shared_memory="16Gi")
"""80 GB hold each of the default models but the judge: 27B in bf16 take 54 (ours)."""
JUDGE = Pod("16", "192Gi", "150Gi", gpus=2, shared_memory="16Gi")
"""35B in bf16 take 70 GB, which leaves one GPU no room for answers (ours)."""
NODE = Pod("32", "512Gi", "200Gi", gpus=8, shared_memory="16Gi")
"""Training on a whole node (reference code)."""
MERGING = Pod("8", "64Gi", "150Gi")
"""Waits for the nodes that train, and merges what they made: 9B in bf16 take 18 GB, twice while it does (ours)."""
TOY = Pod("2", "8Gi", "10Gi")


def _profile(
    about: str,
    pods: Mapping[str, Pod],
    *,
    retries: int = 2,
    hours: Mapping[str, int] = {},
    jobs: Mapping[str, Job] = {},
    **more: object,
) -> Profile:
    """A profile of STAGES. Args: retries: of GPU tasks; hours: of stages for which they are others than in STAGES."""
    needs = {}
    for stage, (title, kind, hub, usual) in STAGES.items():
        pod = pods[kind]
        again = retries if pod.gpus else 2
        needs[stage] = Needs(title, pod, hub, hours.get(stage, usual), again, jobs.get(stage))
    return Profile(about, needs, **more)  # type: ignore[arg-type]


GPU_PODS = CPU_PODS | {"gpu": ONE, "judge": JUDGE, "training": ONE}
"""Training fits on one GPU too (9B, adapter only), with the same batches: slower, but it waits for no whole node."""
PROFILES = {
    "gpu-80gb": _profile("nodes with GPUs of 80 GB, two on one node for the judge", GPU_PODS),
    "node-8x80gb": _profile(
        "the same, and training on a whole node of eight", GPU_PODS | {"training": NODE}, hours={"train": 48}
    ),
    "nodes-2x8x80gb": _profile(
        "the same, and training on two such nodes at once, by Kubeflow Trainer",
        GPU_PODS | {"training": MERGING},
        jobs={"train": Job(2, NODE, hours=48)},
    ),
    "spot": _profile(
        "nodes as the first, which may be taken back at any time",
        GPU_PODS,
        retries=10,
        taints=("kubernetes.azure.com/scalesetpriority", "cloud.google.com/gke-spot"),
        prefers={
            "cloud.google.com/gke-spot": "true",
            "karpenter.sh/capacity-type": "spot",
            "eks.amazonaws.com/capacityType": "SPOT",
            "kubernetes.azure.com/scalesetpriority": "spot",
        },
        movable=True,
    ),
    "toy": _profile(
        "no GPU, for the toy world",
        dict.fromkeys(["small", "table", "pairing", "gpu", "judge", "training"], TOY),
        hours=dict.fromkeys(STAGES, 2),
    ),
}
DEFAULT = "gpu-80gb"
