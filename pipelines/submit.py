"""Submit: a package run on Kubeflow, and watched to its end."""

import argparse
import contextlib
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from pipelines import server
from pipelines.package import Package, add_compile_flags, changes, compile_package, read, read_parameters
from pipelines.server import Server

ACCOUNT = "croco-runner"
"""ServiceAccount of manifests/base."""
OUTCOMES = {"SUCCEEDED": 0, "SKIPPED": 0, "FAILED": 1, "ERROR": 1, "CANCELED": 3, "CANCELLED": 3}
"""State that a run ends in -> exit status."""
PATIENCE = 600.0
"""Seconds that a server may be away while its run is watched. Ours."""
EPILOG = "Exit status: 0 it succeeded (or was started, with --no-wait), 1 it failed or a mistake, 3 it was cancelled."


def add_package_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that say what is to be run."""
    parser.add_argument("--params", type=Path, help="YAML file of `parameter: value`; what it lacks has its default")
    parser.add_argument("--package", type=Path, help="what `compile` wrote; without it, compile now, as these say:")
    add_compile_flags(parser)


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of what is sent to Kubeflow."""
    parser.add_argument("--pipeline", help="its name in Kubeflow (default: the package's)")
    parser.add_argument(
        "--experiment", default=server.EXPERIMENT, help=f"made if it is not there (default {server.EXPERIMENT})"
    )
    parser.add_argument(
        "--service-account", default=ACCOUNT, help=f"whose rights its pods have (default {ACCOUNT}; '': Kubeflow's own)"
    )
    parser.add_argument("--pipeline-root", help="where its artifacts go (default: Kubeflow's)")
    parser.add_argument("--dry-run", action="store_true", help="check, say what would be sent, and send nothing")


@contextlib.contextmanager
def packaged(flags: argparse.Namespace) -> Iterator[Package]:
    """The package that the flags name, or compiled as they say. Raises: as `read` and `compile_package`."""
    if flags.package:
        yield read(flags.package)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "package.yaml"
        compile_package(path, flags)
        yield read(path)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add_package_flags(parser)
    add_run_flags(parser)
    parser.add_argument("--name", help="of the run (default: the pipeline and the time)")
    parser.add_argument("--no-wait", action="store_true", help="do not watch it")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between looks at it (default 10)")
    server.add_flags(parser)


def main(flags: argparse.Namespace, screen: TextIO) -> int:
    """Submit as the flags say; the exit status. Raises: as `read_parameters` and `server.connect`."""
    with packaged(flags) as package:
        return run(flags, package, read_parameters(flags.params, package), screen)


def run(flags: argparse.Namespace, package: Package, parameters: Mapping[str, Any], screen: TextIO) -> int:
    """Run a package with these parameters; the exit status."""
    pipeline = flags.pipeline or package.name
    name = flags.name or f"{pipeline} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    if flags.dry_run:
        print(f"would run version {package.version} of {pipeline}, as {name!r}", file=screen)
        print(f"with {json.dumps(parameters)} and every other parameter's default", file=screen)
        return 0
    found = server.connect(flags)
    pipeline_id, version_id, uploaded = found.publish(package, pipeline)
    print(f"{'uploaded' if uploaded else 'found'} version {package.version} of {pipeline}", file=screen)
    experiment = found.made_experiment(flags.experiment)
    body = found.client.api_models.V2beta1Run(
        experiment_id=experiment,
        display_name=name,
        description=f"package {package.version}; since the last run: "
        + since_last_run(found, experiment, pipeline_id, package, parameters),
        pipeline_version_reference=reference(found, pipeline_id, version_id),
        runtime_config=runtime(found, parameters, flags.pipeline_root),
        service_account=flags.service_account or None,
    )
    made = found.call(found.client.runs.run_service_create_run, run=body)
    link = f"{found.ui}/#/runs/details/{made.run_id}"
    print(f"{name}: {link}", file=screen, flush=True)
    if flags.no_wait:
        return 0
    try:
        return Watch(found, made.run_id, package.titles, screen, flags.every).to_its_end()
    except KeyboardInterrupt:
        print(f"the run goes on: {link}", file=screen)
        return 130


def reference(found: Server, pipeline: str, version: str) -> Any:
    return found.client.api_models.V2beta1PipelineVersionReference(pipeline_id=pipeline, pipeline_version_id=version)


def runtime(found: Server, parameters: Mapping[str, Any], root: str | None) -> Any:
    return found.client.api_models.V2beta1RuntimeConfig(parameters=dict(parameters), pipeline_root=root)


def since_last_run(
    found: Server, experiment: str, pipeline: str, package: Package, parameters: Mapping[str, Any]
) -> str:
    """What differs from the newest run of this pipeline in this experiment."""
    runs = found.client.runs.run_service_list_runs
    for run in found.pages(runs, "runs", experiment_id=experiment, sort_by="created_at desc"):
        given = run.pipeline_version_reference
        if given and given.pipeline_id == pipeline:
            before = (run.runtime_config and run.runtime_config.parameters) or {}
            return changes(before, parameters, (found.version_name(given), package.version))
    return "it is the first"


class Watch:
    """A run, watched: on a terminal a table of its tasks, elsewhere a line whenever one changes."""

    def __init__(
        self,
        found: Server,
        run: str,
        titles: Mapping[str, str],
        screen: TextIO,
        every: float,
        patience: float = PATIENCE,
    ) -> None:
        self.found, self.run, self.titles = found, run, titles
        self.screen, self.every, self.patience = screen, every, patience
        self.shown: dict[str, str] = {}
        self.lines = 0

    def to_its_end(self) -> int:
        """Watch until the run ends; OUTCOMES' exit status. Raises: ConnectionError if the server is away for long."""
        since = time.monotonic()
        while True:
            try:
                run = self.found.call(self.found.client.runs.run_service_get_run, run_id=self.run)
            except ConnectionError as error:
                if time.monotonic() - since > self.patience:
                    raise ConnectionError(f"{error}; the run goes on without being watched") from error
            else:
                since = time.monotonic()
                self.show(states(run, self.titles))
                if run.state in OUTCOMES:
                    return self.end(run)
            time.sleep(self.every)

    def show(self, rows: Mapping[str, str]) -> None:
        """Title -> state of each task that has begun."""
        width = max(map(len, self.titles.values()))
        lines = [f"{title:{width}}  {state}\n" for title, state in rows.items()]
        if self.screen.isatty():
            self.screen.write((f"\x1b[{self.lines}A" if self.lines else "") + "".join(f"\x1b[K{li}" for li in lines))
            self.lines = len(lines)
        else:
            new = zip(rows, lines, strict=True)
            self.screen.write("".join(line for title, line in new if self.shown.get(title) != rows[title]))
        self.screen.flush()
        self.shown = dict(rows)

    def end(self, run: Any) -> int:
        """Say how the run ended, and why if badly."""
        self.screen.write(f"{run.display_name}: {run.state.lower()}\n")
        if OUTCOMES[run.state]:
            for text in faults(run, self.titles):
                self.screen.write(f"  {text}\n")
        self.screen.flush()
        return OUTCOMES[run.state]


def states(run: Any, titles: Mapping[str, str]) -> dict[str, str]:
    """Title -> how far its tasks are, of those that are there, in the order in which they were made.

    Kubeflow lists each pod, that of a task's driver too; a loop's task is there once an iteration, under one name.
    """
    counted: dict[str, Counter[str]] = {}
    for task in sorted(details(run), key=lambda task: str(task.create_time)):
        if (name := own_name(task)) in titles:
            counted.setdefault(titles[name], Counter())[(task.state or "PENDING").lower()] += 1
    return {title: said(counts) for title, counts in counted.items()}


def said(counts: Mapping[str, int]) -> str:
    """`succeeded`, or `3 succeeded, 1 running` of several."""
    if sum(counts.values()) == 1:
        return next(iter(counts))
    return ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))


def faults(run: Any, titles: Mapping[str, str]) -> list[str]:
    """What went wrong, one line a task, and what the run says itself."""
    found = [
        f"{titles.get(own_name(task), own_name(task))}: {message(task.error)}"
        for task in details(run)
        if task.error and message(task.error)
    ]
    failed = [
        f"{titles[own_name(task)]}: failed; its log is behind the link"
        for task in details(run)
        if task.state == "FAILED" and not task.error and own_name(task) in titles
    ]
    whole = [message(run.error)] if run.error and message(run.error) else []
    return list(dict.fromkeys([*found, *failed, *whole]))


def details(run: Any) -> Sequence[Any]:
    return (run.run_details and run.run_details.task_details) or []


def own_name(task: Any) -> str:
    """A task's name without the number of its attempt."""
    return re.sub(r"\(\d+\)$", "", task.display_name or "")


def message(error: Any) -> str:
    return " ".join((error.message or "").split())
