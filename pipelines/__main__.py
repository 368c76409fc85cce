"""The pipelines' command line: `run` on a laptop; `compile`, `preflight`, `submit` and `schedule` for Kubeflow; and
`profiles`, what its pods get and cost, and `plan`, what a run would take."""

import argparse
import importlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from pipelines import choice, costs, plan
from pipelines.package import add_compile_flags, compile_package

TOY = Path(".cache/toy")
STORE = ".cache/store"
RUNS = Path("runs")
PAGES = (".html", ".md", ".json")


def run(flags: argparse.Namespace) -> None:
    """Run the pipeline here, on the toy world but for what is set; print the paths of its reports."""
    from croco.toy import build
    from pipelines import calibration, local, outlay
    from pipelines.placement import Cluster
    from pipelines.toy import parameters

    world = parameters(flags.toy.resolve())
    study = choice.study_of(flags, world, flags.toy.resolve())
    pipeline = choice.pipeline_of(study, Cluster("toy"))
    place = flags.store if not flags.store or "://" in flags.store else str(Path(flags.store).resolve())
    given = {} if study else world | ({} if flags.store else {"promote_as": ""})  # published where work is kept
    chosen = given | {"store": place} | dict(parse(setting, pipeline) for setting in flags.set)
    folder = (flags.out or RUNS / time.strftime("%Y%m%d-%H%M%S")).resolve()
    if flags.jobs < 1 or (flags.jobs > 1 and not (study and flags.store)):
        raise ValueError(f"--jobs: found {flags.jobs}; expected 1, or more with a study (--config) and a --store")
    if (folder / "tasks").exists():
        raise ValueError(f"--out: found an earlier run in {folder}; expected a new folder")
    if study:
        rates = calibration.load(flags.calibration) if flags.calibration else None
        print(f"{outlay.show(study, rates)}\n- GPU hours: none, for no task of a run here has a GPU\n", flush=True)
    build.run(out=flags.toy, study=bool(study))
    print(f"artifacts and log: {folder}", flush=True)
    if study and flags.jobs > 1:
        from pipelines import shares

        shares.run(study, chosen, folder, flags.jobs)
        print("all arms are in the store; together:", flush=True)
    outputs = local.run(pipeline, chosen, folder, sys.stdout, flags.cache)
    written = [
        _copied(Path(output.path), folder, f"-{name}" if len(outputs) > 1 else "") for name, output in outputs.items()
    ]
    if flags.out is None:
        latest = RUNS / "latest"
        latest.unlink(missing_ok=True)
        latest.symlink_to(folder.name)
    print(*written, sep="\n")


def _copied(report: Path, folder: Path, which: str) -> Path:
    """The page of a report, now with its other forms in the run's folder, `which` behind their names."""
    from croco.dataset import MANIFEST

    pages = [page for page in sorted(report.iterdir()) if page.suffix in PAGES and page.name != MANIFEST]
    for page in pages:
        shutil.copy(page, folder / f"{page.stem}{which}{page.suffix}")
    return next(folder / f"{page.stem}{which}.html" for page in pages)


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
    choice.add_kind(compiling)
    add_compile_flags(compiling)
    running = commands.add_parser("run", help="run the same pipeline on this machine, on the toy world")
    choice.add_kind(running)
    choice.add_flags(running)
    running.add_argument("--toy", type=Path, default=TOY, help=f"toy world, built if it is not there (default {TOY})")
    running.add_argument("--out", type=Path, help=f"folder for artifacts, log and report (default {RUNS}/TIME)")
    running.add_argument(
        "--store", default=STORE, help=f"where finished work is kept (default {STORE}; '' for nowhere)"
    )
    running.add_argument("--cache", type=Path, help="folder of notes on finished tasks, so that none is run twice")
    running.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="processes that a study's arms are dealt to (default 1)"
    )
    running.add_argument("--calibration", type=Path, nargs="+", help="for a study's hours, as `plan` takes it")
    running.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a pipeline parameter")
    costs.add_flags(commands.add_parser("profiles", help="what each stage's pods get, and what a run can cost, or did"))
    plan.add_flags(commands.add_parser("plan", help="what a run would take, by stage, before it runs"))
    _add_kubeflow(commands)
    flags = parser.parse_args(arguments)
    try:
        if flags.command == "compile":
            compile_package(flags.out, flags)
            print(flags.out)
        elif flags.command == "run":
            run(flags)
        elif flags.command == "profiles":
            return costs.main(flags, sys.stdout)
        else:
            return int(importlib.import_module(f"pipelines.{flags.command}").main(flags, sys.stdout))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"pipelines {flags.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _add_kubeflow(commands: Any) -> None:
    """The commands that speak with a Kubeflow; each is a module of its name."""
    from pipelines import preflight, schedule, submit

    preflight.add_flags(commands.add_parser("preflight", help="look whether a run would find what it needs"))
    submit.add_flags(commands.add_parser("submit", help="upload the package, run it, and watch it to its end"))
    schedule.add_flags(
        commands.add_parser("schedule", help="have Kubeflow run it again and again; list, pause, delete")
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
