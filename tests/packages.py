"""Compiled packages as tests look at them: the pipeline's tasks and what each asks of Kubernetes."""

import functools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from kfp.compiler import Compiler

from pipelines import studies
from pipelines import study as studying
from pipelines.placement import Cluster
from pipelines.preference import preference

CONFIGS = Path(__file__).parents[1] / "pipelines" / "configs"
TASKS = {
    "preflight": "preflight", "resolve": "resolve", "plan": "plan-translate", "plan-2": "plan-sample",
    "recall": "recall",
    "prepare": "prepare", "translate": "translate", "gather": "gather", "sample": "sample", "score": "score",
    "pair": "pair", "train": "train", "benchmark": "benchmark-base", "benchmark-2": "benchmark-tuned",
    "answer": "answer-base", "answer-2": "answer-tuned", "arena": "arena",
    "promote": "promote", "publish": "publish", "report": "report",
}  # fmt: skip
"""Task of the compiled pipeline -> its stage in pipelines.profiles."""
Package = tuple[dict[str, Any], dict[str, Any]]
"""The compiled pipeline, and its Kubernetes part by executor."""


def read(text: str) -> Package:
    spec, platform = yaml.safe_load_all(text)
    return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def text_of(cluster: Cluster, study: str = "") -> str:
    """The package for a cluster, as it is uploaded; of a study in pipelines/configs where one is named."""
    made = studying.study(studies.read(CONFIGS / study, studies.defaults()), cluster) if study else preference(cluster)
    return written(made)


def written(pipeline: Any) -> str:
    """The package of a pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "package.yaml"
        Compiler().compile(pipeline, str(out))
        return out.read_text(encoding="ascii")


def compiled(**cluster: Any) -> Package:
    return read(text_of(Cluster(**cluster)))


@functools.cache
def text_for(profile: str) -> str:
    """The package for a profile with nothing else asked for."""
    return text_of(Cluster(profile))


def dags(spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Component -> its tasks, of the pipeline itself ("root"), of each loop and condition."""
    components = {"root": spec["root"], **spec["components"]}
    return {name: component["dag"]["tasks"] for name, component in components.items() if "dag" in component}


def tasks_of(spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every task that is a pod, in loops and conditions or not."""
    return {name: task for tasks in dags(spec).values() for name, task in tasks.items() if not is_group(name)}


def is_group(task: str) -> bool:
    """Whether a task stands for a loop, a condition or a graph."""
    return task.startswith(("for-loop-", "condition-", "run-", "together-"))


def strings(value: Any) -> Iterator[str]:
    """Every text in it, names of fields too."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield name
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)
    elif isinstance(value, str):
        yield value
