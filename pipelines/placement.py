"""Placement: what each stage asks of a cluster, in one table, and the one function that asks for it.

kfp wants retries and volume sizes when it compiles. GPU kind and count, CPU and memory may be pipeline parameters, but
only outside loops and conditions. The driver of Kubeflow 2.17 reads such parameters as text: a GPU count that is a
number would be dropped without a word, hence `gpus: str`.
"""

from dataclasses import dataclass
from typing import Any

from kfp import kubernetes

USER = 2000
"""Numeric user of every image (vLLM's own); group 0, which owns what the images let be written."""
HOME = "/cache"
"""Home of that user in every image, and so of the model caches: an empty volume a pod, never read by another."""
HF_SECRET = "hf-token"
"""Optional Secret with key `token`, for gated models and data sets."""


@dataclass(frozen=True)
class Needs:
    """What one stage asks for."""

    title: str
    """The task's name in the Kubeflow UI."""
    cpu: str | None = None
    """Cores requested; None: a GPU task, whose pod is the run's `Gpus`."""
    memory: str | None = None
    """Requested and limit."""
    hub: bool = True
    """Whether it reads models or data from the Hugging Face hub."""
    retries: int = 2
    """Attempts after the first (which failures count is the cluster's choice: Argo's retryPolicy)."""


NEEDS = {
    "prepare": Needs("Prepare prompts", cpu="2", memory="16Gi"),
    "translate": Needs("Translate prompts"),
    "sample": Needs("Sample answers"),
    "score": Needs("Score answers"),
    "pair": Needs("Pair chosen and rejected", cpu="4", memory="32Gi", hub=False),
    "train": Needs("Train the adapter"),
    "benchmark-base": Needs("Benchmark base"),
    "benchmark-tuned": Needs("Benchmark tuned"),
    "answer-base": Needs("Answer arena, base"),
    "answer-tuned": Needs("Answer arena, tuned"),
    "arena": Needs("Judge arena"),
    "report": Needs("Report", cpu="2", memory="16Gi", hub=False),
}
SHARED_MEMORY = "16Gi"
"""/dev/shm of GPU tasks, for tensor parallelism; counts towards the task's memory."""


@dataclass(frozen=True)
class Gpus:
    """A GPU task's pod; the values are pipeline parameters."""

    kind: Any
    """Resource name, such as nvidia.com/gpu."""
    count: Any
    cpu: Any
    memory: Any
    node_selector: Any


def place(task: Any, name: str, gpus: Gpus) -> Any:
    """`task` with what `name` needs in NEEDS; `gpus` is for a GPU task."""
    needs = NEEDS[name]
    task.set_display_name(needs.title)
    task.set_retry(num_retries=needs.retries, backoff_duration="60s", backoff_factor=2, backoff_max_duration="600s")
    memory = needs.memory or gpus.memory
    task.set_cpu_request(needs.cpu or gpus.cpu).set_memory_request(memory).set_memory_limit(memory)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=0, run_as_non_root=True)
    kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "croco")
    kubernetes.empty_dir_mount(task, "cache", HOME)
    if needs.hub:
        kubernetes.use_secret_as_env(task, HF_SECRET, {"token": "HF_TOKEN"}, optional=True)
    if needs.cpu is None:
        task.set_accelerator_type(gpus.kind).set_accelerator_limit(gpus.count)
        kubernetes.add_node_selector_json(task, gpus.node_selector)
        kubernetes.add_toleration(task, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory", size_limit=SHARED_MEMORY)
    return task
