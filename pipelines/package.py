"""Package: the pipeline compiled as Kubeflow takes it, and the parameters that a YAML file gives it.

What Kubeflow would refuse, or take for something else, is found here, before anything is sent.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from pipelines import choice
from pipelines.profiles import DEFAULT

KINDS: Mapping[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}
"""Kubeflow's type of a parameter -> what YAML makes of a value of it."""


LONGEST = 131_071
"""Bytes of an argument (Linux); Kubeflow's drivers get each graph as one."""
DIGEST = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Package:
    """A package that `python -m pipelines compile` wrote."""

    path: Path
    sha256: str
    spec: Mapping[str, Any]
    """The pipeline, without its Kubernetes part."""

    @property
    def name(self) -> str:
        """The pipeline's name in Kubeflow."""
        return str(self.spec["pipelineInfo"]["name"])

    @property
    def version(self) -> str:
        """Name of its version in Kubeflow: the same package has the same, so it is uploaded once."""
        return self.sha256[:12]

    @cached_property
    def inputs(self) -> Mapping[str, Any]:
        """Parameter -> its type and default."""
        inputs: Mapping[str, Any] = self.spec["root"].get("inputDefinitions", {}).get("parameters", {})
        return inputs

    @cached_property
    def titles(self) -> Mapping[str, str]:
        """Task that is a pod -> its title."""
        dags = [self.spec["root"], *self.spec["components"].values()]
        tasks = {name: task for part in dags for name, task in part.get("dag", {}).get("tasks", {}).items()}
        groups = {"parameterIterator", "triggerPolicy"}  # of loops and conditions
        return {name: task["taskInfo"]["name"] for name, task in tasks.items() if not groups & task.keys()}

    def task(self, name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What a task of the pipeline itself is handed in a run with these parameters, but for other tasks' outputs.

        Raises: ValueError if it has no such task.
        """
        if name not in self.spec["root"]["dag"]["tasks"]:
            raise ValueError(f"{self.path}: found no task {name}; expected one; compile the package anew")
        given = {}
        for knob, source in self.spec["root"]["dag"]["tasks"][name]["inputs"]["parameters"].items():
            if "runtimeValue" in source:
                given[knob] = source["runtimeValue"]["constant"]
            elif (origin := source.get("componentInputParameter")) in parameters:
                given[knob] = parameters[origin]
            elif "defaultValue" in self.inputs.get(origin, {}):
                value, kind = self.inputs[origin]["defaultValue"], self.inputs[origin]["parameterType"]
                given[knob] = int(value) if kind == "NUMBER_INTEGER" else value  # YAML of a package has 64.0
        return given


def add_compile_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of what `compile_package` writes."""
    choice.add_flags(parser)
    parser.add_argument("--profile", default=DEFAULT, help="kind of cluster (`python -m pipelines profiles`)")
    parser.add_argument("--gpu-type", default="nvidia.com/gpu", help="resource name of the GPUs")
    parser.add_argument(
        "--node-selector", action="append", default=[], metavar="KEY=VALUE", help="a label of the nodes for GPU tasks"
    )
    parser.add_argument(
        "--gpu-memory-label", metavar="KEY", help="a label with the MiB of a node's GPUs, which GPU tasks go by"
    )
    parser.add_argument("--queue", metavar="NAME", help="Kueue's LocalQueue that tasks wait in")
    parser.add_argument(
        "--fetch", action="store_true", help="a task downloads EuroEval's data, and evaluation needs no hub for it"
    )
    parser.add_argument("--mlflow", default="", metavar="URL", help="an MLflow server to tell of each run")
    parser.add_argument(
        "--tensorboard", default="", metavar="PLACE", help="s3://bucket/prefix, outside of any store, for event files"
    )
    parser.add_argument(
        "--autoscaled", action="store_true", help="preflight does not miss GPU nodes: they are made when asked for"
    )
    parser.add_argument(
        "--images",
        type=Path,
        help='JSON file: {"cpu": "NAME@sha256:HEX", "gpu": ..., "euroeval": ...}; the others, by default all, are those'
        " that `make images REGISTRY=...` pushed (components/images.json)",
    )
    parser.add_argument("--models", metavar="CLAIM", help="a shared volume, at /models: a cache of the hub, or models")
    parser.add_argument("--allow-tags", action="store_true", help="take images without a digest, and cache no task")


def compile_package(out: Path, flags: argparse.Namespace) -> None:
    """Write the package that Kubeflow takes: the pipeline and what its tasks ask of Kubernetes.

    Raises: ValueError for flags that cannot be; FileNotFoundError for images that are not there.
    """
    from kfp.compiler import Compiler

    from components.images import NAMES, PUSHED
    from pipelines.placement import Cluster

    if out.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--out: found {out}; expected a name that ends in .yaml")
    if wrong := [label for label in flags.node_selector if not re.fullmatch("[^=]+=.+", label)]:
        raise ValueError(f"--node-selector: found {wrong[0]!r}; expected KEY=VALUE")
    labels = dict(label.split("=", 1) for label in flags.node_selector)
    given = json.loads(flags.images.read_text(encoding="utf-8")) if flags.images else {}
    references = {**PUSHED, **given}
    loose = [reference for reference in {**NAMES, **references}.values() if not DIGEST.fullmatch(reference)]
    if loose and not flags.allow_tags:
        raise ValueError(
            f"--images: found {', '.join(loose)} without a digest; expected JSON with a NAME@sha256:HEX for each of "
            f"{', '.join(NAMES)}, or what `make images REGISTRY=...` pushed; --allow-tags takes them, and has no task "
            "cached, for what a tag names may change"
        )
    more = ("models", "autoscaled", "gpu_memory_label", "queue", "fetch", "mlflow", "tensorboard")
    asked = {name: getattr(flags, name) for name in more}
    cluster = Cluster(flags.profile, flags.gpu_type, labels, references, cached=not loose, **asked)
    out.parent.mkdir(parents=True, exist_ok=True)
    study = choice.study_of(flags)
    if study and (flags.mlflow or flags.tensorboard):
        raise ValueError("--mlflow, --tensorboard: found one with --config; expected neither: a study tells no tracker")
    pipeline = choice.pipeline_of(study, cluster)
    check_lengths(pipeline.pipeline_spec)
    Compiler().compile(pipeline, str(out))
    if study:
        print(choice.outlay_of(study, flags.profile))
    if loose:
        print(f"no task will be cached: {', '.join(loose)} may change without a change of name", file=sys.stderr)


def check_lengths(spec: Any) -> None:
    """Raises: ValueError for a pipeline that Kubeflow could not start."""
    from google.protobuf.json_format import MessageToJson

    longest = max(len(MessageToJson(part, indent=None)) for part in (spec.root, *spec.components.values()))
    if longest > LONGEST:
        raise ValueError(
            f"--config: found a graph of {longest:,} bytes; expected at most {LONGEST:,}, which Kubeflow can hand to a "
            "task that starts; leave arms or seeds out, or make two studies of it"
        )


def read(path: Path) -> Package:
    """The package in a file. Raises: FileNotFoundError; ValueError for what is no package."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: found no file; expected a package; `python -m pipelines compile --out {path} --images FILE` "
            "writes one"
        )
    content = path.read_bytes()
    try:
        spec = next(iter(yaml.safe_load_all(content)), None)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: found no YAML ({_where(error)}); expected a compiled package") from error
    if not isinstance(spec, dict) or "pipelineInfo" not in spec or "root" not in spec:
        raise ValueError(f"{path}: found no pipeline; expected what `python -m pipelines compile` writes")
    return Package(path, hashlib.sha256(content).hexdigest(), spec)


def read_parameters(path: Path | None, package: Package) -> dict[str, Any]:
    """Parameters of a YAML file of `name: value`, checked against the package's; without a file, or where a value is
    left empty, the default.

    Raises: FileNotFoundError; ValueError that names everything that is wrong.
    """
    where, given = path or package.path, _mapping(path) if path else {}
    faults = [fault for name, value in given.items() for fault in _faults(name, value, package.inputs)]
    for name, about in package.inputs.items():
        if given.get(name) is None and not about.get("isOptional") and "defaultValue" not in about:
            faults.append(f"found no {name}; expected one, for it has no default")
    if faults:
        raise ValueError(f"{where}: {'; '.join(faults)}")
    return {name: value for name, value in given.items() if value is not None}


def _mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: found no file; expected YAML of `parameter: value`")
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: found no YAML ({_where(error)}); expected lines of `parameter: value`") from error
    if not isinstance(given, dict):
        raise ValueError(f"{path}: found a {type(given).__name__}; expected lines of `parameter: value`")
    return given


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}" if mark else " ".join(str(error).split())[:100]


def _faults(name: str, value: Any, inputs: Mapping[str, Any]) -> list[str]:
    """What is wrong with one parameter."""
    if name not in inputs:
        return [f"found parameter {name!r}; expected one of {', '.join(inputs)}"]
    if value is None:
        return []
    kind = inputs[name]["parameterType"]
    wanted: tuple[type, ...] = KINDS[kind]
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        hint = "; put it in quotes" if wanted == (str,) else ""
        return [f"found {name}: {value!r}; expected {kind.removeprefix('NUMBER_').lower()}{hint}"]
    if isinstance(value, list) and (strange := [item for item in value if not isinstance(item, str)]):
        return [f"found {name} with {strange[0]!r}; expected texts; YAML reads no, yes, on, off as such only in quotes"]
    if not str(value).isascii():
        return [f"found {name}: {value!r}; expected ASCII, for Kubeflow's database holds no more"]
    return []


def changes(before: Mapping[str, Any], now: Mapping[str, Any], versions: tuple[str, str]) -> str:
    """What differs between two runs' parameters and packages, in one line of ASCII.

    Args:
        before: Parameters that were given to the earlier.
        now: To the later.
        versions: Of the packages of both.
    """
    parts = [f"package {versions[0]} -> {versions[1]}"] if versions[0] != versions[1] else []
    for name in sorted({*before, *now}):
        old, new = before.get(name, "default"), now.get(name, "default")
        if old != new:
            parts.append(f"{name} {old} -> {new}")
    return "; ".join(parts).encode("ascii", "backslashreplace").decode() or "nothing"
