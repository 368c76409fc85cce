"""Local: a pipeline run on this machine by kfp.local, one process a task, without containers or network.

The console gets a line a task; everything the tasks print goes to `log.txt`. Artifacts lie below `tasks`.
"""

import contextlib
import copy
import functools
import io
import itertools
import re
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from kfp import local

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
STARTED = re.compile(r"INFO - Executing task '([^']+)'")
FINISHED = re.compile(r"- Task '([^']+)' finished with status (SUCCESS|FAILURE)")
PROGRESS = re.compile(r"\d+%\|")
ERROR = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt)\b.*")
MARGIN = "    "
"""kfp.local indents what a task prints by this much."""


class Console(io.TextIOBase):
    """Takes what kfp.local prints; shows when tasks start, get on, finish and fail, and logs the rest."""

    def __init__(self, screen: TextIO, log: TextIO, titles: Mapping[str, str]) -> None:
        self.screen, self.log, self.titles = screen, log, titles
        self.width = max(map(len, titles.values()))
        self.title, self.since, self.error, self.rest = "", 0.0, "", ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self.take(COLOUR.sub("", line))
        return len(text)

    def take(self, line: str) -> None:
        """One whole line of kfp.local's output."""
        if PROGRESS.search(line):
            self.show(line.strip())
            return
        self.log.write(line.rstrip() + "\n")
        self.log.flush()
        message = line.removeprefix(MARGIN)
        if found := STARTED.search(line):
            self.title, self.since, self.error = self.titles.get(found[1], found[1]), time.monotonic(), ""
            self.show("")
        elif found := FINISHED.search(line):
            seconds = f"{time.monotonic() - self.since:7.1f} s"
            self.end(f"{seconds}  failed: {self.error or 'it said nothing'}" if found[2] == "FAILURE" else seconds)
        elif ERROR.fullmatch(message):
            self.error = message

    def show(self, state: str) -> None:
        """Where the current task is, on a terminal only and overwritten by the next state."""
        if self.screen.isatty():
            room = shutil.get_terminal_size().columns - self.width - 3
            self.screen.write(f"\r\x1b[K{self.title:{self.width}}  {state[:room]}")
            self.screen.flush()

    def end(self, result: str) -> None:
        """The current task's line for good."""
        clear = "\r\x1b[K" if self.screen.isatty() else ""
        self.screen.write(f"{clear}{self.title:{self.width}}  {result}\n")
        self.screen.flush()


def fit(pipeline: Any, parameters: Mapping[str, Any]) -> Any:
    """A copy of the pipeline that kfp.local 2.17 can run well.

    Without retries, for what fails on a laptop would fail again; without optional parameters that have no value, which
    it cannot hand on (the bodies then use their own default, as they do on a cluster); and in the flow's order, for it
    runs one task at a time and would pick any that is ready.
    """
    pipeline = copy.deepcopy(pipeline)
    spec = pipeline.pipeline_spec
    tasks = spec.root.dag.tasks
    for before, after in itertools.pairwise(flow({name: list(task.dependent_tasks) for name, task in tasks.items()})):
        tasks[after].dependent_tasks.append(before)
    absent = _drop_valueless(spec.root, parameters)
    for task in tasks.values():
        task.ClearField("retry_policy")
        given = task.inputs.parameters
        for name in [name for name, value in given.items() if value.component_input_parameter in absent]:
            del given[name]
        _drop_valueless(spec.components[task.component_ref.name], given)
    return pipeline


def flow(upstream: Mapping[str, Sequence[str]]) -> list[str]:
    """Tasks in an order that respects `upstream` (task -> those it waits for); farther from the end is earlier."""

    @functools.cache
    def steps_to_end(name: str) -> int:
        return max((1 + steps_to_end(later) for later, waits in upstream.items() if name in waits), default=0)

    return sorted(upstream, key=lambda name: (-steps_to_end(name), name))


def _drop_valueless(component: Any, given: Mapping[str, Any]) -> set[str]:
    """Remove from a component's inputs the parameters that are neither given nor have a default; their names."""
    known = component.input_definitions.parameters
    absent = {name for name, spec in known.items() if name not in given and not spec.HasField("default_value")}
    for name in absent:
        del known[name]
    return absent


def run(pipeline: Any, parameters: Mapping[str, Any], out: Path, screen: TextIO) -> Path:
    """The directory of the finished run's artifacts, one folder a task.

    Raises: RuntimeError if a task fails; its line on `screen` says why.
    """
    tasks = out / "tasks"
    tasks.mkdir(parents=True)
    pipeline = fit(pipeline, parameters)
    dag = pipeline.pipeline_spec.root.dag
    titles = {task.component_ref.name.removeprefix("comp-"): task.task_info.name for task in dag.tasks.values()}
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tasks))
    with (out / "log.txt").open("w", encoding="utf-8") as log, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"kfp\.local")  # it has neither images nor resources, as we know
        console = Console(screen, log, titles)
        try:
            with contextlib.redirect_stdout(console):
                pipeline(**parameters)
        except RuntimeError as error:
            raise RuntimeError(f"{console.title}: failed; all it printed is in {log.name}") from error
    return next(tasks.iterdir())
