"""The pipelines' command line: `python -m pipelines compile` for Kubeflow, `python -m pipelines run` for a laptop."""

import argparse
import json
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

TOY = Path(".cache/toy")
STORE = ".cache/store"
RUNS = Path("runs")
PAGES = ("report.html", "report.md", "report.json")
DIGEST = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")


def compile_package(
    out: Path, profile: str, gpu_type: str, node_selector: list[str], images: Path | None, allow_tags: bool
) -> None:
    """Write the package that Kubeflow takes: the pipeline and what its tasks ask of Kubernetes."""
    from kfp.compiler import Compiler

    from components.images import NAMES
    from pipelines.preference import preference
    from pipelines.profiles import Cluster

    if out.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--out: found {out}; expected a name that ends in .yaml")
    if wrong := [label for label in node_selector if not re.fullmatch("[^=]+=.+", label)]:
        raise ValueError(f"--node-selector: found {wrong[0]!r}; expected KEY=VALUE")
    labels = dict(label.split("=", 1) for label in node_selector)
    references = json.loads(images.read_text(encoding="utf-8")) if images else {}
    loose = [reference for reference in {**NAMES, **references}.values() if not DIGEST.fullmatch(reference)]
    if loose and not allow_tags:
        raise ValueError(
            f"--images: found {', '.join(loose)} without a digest; expected JSON with a NAME@sha256:HEX for each of "
            f"{', '.join(NAMES)}; --allow-tags takes them, and has no task cached, for what a tag names may change"
        )
    cluster = Cluster(profile, gpu_type, labels, references, cached=not loose)
    out.parent.mkdir(parents=True, exist_ok=True)
    Compiler().compile(preference(cluster), str(out))
    if loose:
        print(f"no task will be cached: {', '.join(loose)} may change without a change of name", file=sys.stderr)
    print(out)


def run(toy: Path, out: Path | None, store: str, cache: Path | None, given: list[str]) -> None:
    """Run the pipeline here, on the toy world but for what is `given`; print the path of its report."""
    from croco.toy import build
    from pipelines import local
    from pipelines.preference import preference
    from pipelines.profiles import Cluster
    from pipelines.toy import parameters

    pipeline = preference(Cluster("toy"))
    place = store if not store or store.startswith("s3://") else str(Path(store).resolve())
    chosen = parameters(toy.resolve()) | {"store": place} | dict(parse(setting, pipeline) for setting in given)
    folder = (out or RUNS / time.strftime("%Y%m%d-%H%M%S")).resolve()
    if (folder / "tasks").exists():
        raise ValueError(f"--out: found an earlier run in {folder}; expected a new folder")
    build.run(out=toy)
    print(f"artifacts and log: {folder}", flush=True)
    outputs = local.run(pipeline, chosen, folder, sys.stdout, cache)
    for page in PAGES:
        shutil.copy(Path(outputs["Output"].path) / page, folder / page)
    if out is None:
        latest = RUNS / "latest"
        latest.unlink(missing_ok=True)
        latest.symlink_to(folder.name)
    print(folder / "report.html")


def parse(setting: str, pipeline: Any) -> tuple[str, Any]:
    """Name and value of `name=value`; a list is JSON or codes with commas between them.

    Raises: ValueError for a name the pipeline does not have, or a value of another type.
    """
    name, equals, text = setting.partition("=")
    inputs = pipeline.component_spec.inputs
    if name not in inputs or not equals:
        raise ValueError(f"--set: found {setting!r}; expected name=value, with a name of {', '.join(sorted(inputs))}")
    kind = inputs[name].type.split("[")[0]
    if kind == "String":
        return name, text
    if kind == "List" and not text.startswith("["):
        return name, [part.strip() for part in text.split(",")]
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--set: found {setting!r}; expected a value of type {kind}") from error
    wanted: Any = {"Integer": int, "Float": (int, float), "Boolean": bool, "List": list, "Dict": dict}[kind]
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "Boolean"):
        raise ValueError(f"--set: found {setting!r}; expected a value of type {kind}")
    return name, value


def main(arguments: list[str]) -> int:
    """Run one command; the exit status. A mistake or a failed task is one line on standard error, not a traceback."""
    parser = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    compiling = commands.add_parser("compile", help="write the package that Kubeflow takes")
    compiling.add_argument("--out", type=Path, required=True, help="file to write, .yaml")
    compiling.add_argument("--profile", default="gpu-80gb", help="kind of cluster (pipelines/profiles.py)")
    compiling.add_argument("--gpu-type", default="nvidia.com/gpu", help="resource name of the GPUs")
    compiling.add_argument(
        "--node-selector", action="append", default=[], metavar="KEY=VALUE", help="a label of the nodes for GPU tasks"
    )
    compiling.add_argument(
        "--images", type=Path, help='JSON file: {"cpu": "NAME@sha256:HEX", "gpu": ..., "euroeval": ...}'
    )
    compiling.add_argument("--allow-tags", action="store_true", help="take images without a digest, and cache no task")
    running = commands.add_parser("run", help="run the same pipeline on this machine, on the toy world")
    running.add_argument("--toy", type=Path, default=TOY, help=f"toy world, built if it is not there (default {TOY})")
    running.add_argument("--out", type=Path, help=f"folder for artifacts, log and report (default {RUNS}/TIME)")
    running.add_argument(
        "--store", default=STORE, help=f"where finished work is kept (default {STORE}; '' for nowhere)"
    )
    running.add_argument("--cache", type=Path, help="folder of notes on finished tasks, so that none is run twice")
    running.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a pipeline parameter")
    flags = parser.parse_args(arguments)
    try:
        if flags.command == "compile":
            compile_package(
                flags.out, flags.profile, flags.gpu_type, flags.node_selector, flags.images, flags.allow_tags
            )
        else:
            run(flags.toy, flags.out, flags.store, flags.cache, flags.set)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(f"pipelines {flags.command}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
