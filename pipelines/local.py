"""Local: a pipeline run on this machine by kfp.local, one process a task, without containers or network.

The console gets a line a task; everything the tasks print goes to `log.txt`. Artifacts lie below `tasks`.
"""

import contextlib
import copy
import functools
import io
import itertools
import logging
import re
import shutil
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from kfp import local

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
STARTED = re.compile(r"INFO - Executing task '([^']+)'")
FINISHED = re.compile(r"- Task '([^']+)' finished with status (SUCCESS|FAILURE)")
CACHED = re.compile(r"Task (\S+) cache hit ")
SHARE = re.compile(r"to parent value: \{.*'languages': '([^']*)'")
PROGRESS = re.compile(r"\d+%\|")
ERROR = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt)\b.*")
MARGIN = "    "
"""kfp.local indents what a task prints by this much."""


class Console(io.TextIOBase):
    """Takes what kfp.local prints; shows when tasks start, get on, finish and fail, and logs the rest.

    A task in a loop is shown with the languages of its share.
    """

    def __init__(self, screen: TextIO, log: TextIO, titles: Mapping[str, str], looped: Collection[str] = ()) -> None:
        self.screen, self.log, self.titles, self.looped = screen, log, titles, looped
        self.width = max(map(len, titles.values()))
        self.title, self.since, self.error, self.rest = "", 0.0, "", ""
        self.share, self.part = "", ""
        """Languages of the loop's iteration; of the current task, if it is in the loop."""
        self.failed = ""
        """Title of the first task that failed."""

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
        if found := STARTED.search(line):
            self.begin(found[1])
        elif found := CACHED.search(line):
            self.begin(found[1])
            self.end(f"{'cached':>9}{self.part}")
        elif found := SHARE.search(line):
            self.share = found[1]
        elif found := FINISHED.search(line):
            result = f"{time.monotonic() - self.since:7.1f} s{self.part}"
            if found[2] == "FAILURE":
                self.failed = self.failed or self.title
                result += f"  failed: {self.error or 'it said nothing'}"
            self.end(result)
        elif ERROR.fullmatch(message := line.removeprefix(MARGIN)):
            self.error = message

    def begin(self, task: str) -> None:
        """From now on, all that comes is of this task."""
        self.title, self.part = self.titles.get(task, task), f"  {self.share}" if task in self.looped else ""
        self.since, self.error = time.monotonic(), ""
        self.show("")

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

    Without retries, for what fails on a laptop would fail again. Without optional parameters that have no value, which
    it cannot hand on (the bodies then use their own default, as they do on a cluster). In the flow's order, for it
    would pick any task that is ready. With a component for each task, for it keeps what tasks of one component write in
    one folder. And loops one task at a time: two engines at once gain nothing on shared cores, and it loses what tasks
    print while another runs.
    """
    pipeline = copy.deepcopy(pipeline)
    _name_apart(pipeline.pipeline_spec)
    _fit(pipeline.pipeline_spec, pipeline.pipeline_spec.root, parameters)
    return pipeline


def _fit(spec: Any, component: Any, given: Collection[str]) -> None:
    """`fit` for one component of `spec` and all below it; `given`: which of its parameters it is handed."""
    absent = _drop_valueless(component, given)
    tasks = component.dag.tasks
    always = {name: list(task.dependent_tasks) for name, task in tasks.items() if not task.trigger_policy.condition}
    for before, after in itertools.pairwise(flow(always)):
        tasks[after].dependent_tasks.append(before)
    for task in tasks.values():
        task.ClearField("retry_policy")
        inputs, inner = task.inputs.parameters, spec.components[task.component_ref.name]
        for name in [name for name, value in inputs.items() if value.component_input_parameter in absent]:
            del inputs[name]
        if task.HasField("parameter_iterator"):
            task.iterator_policy.parallelism_limit = 1
            _take_from_producers(task, inner)
        _fit(spec, inner, {*inputs, task.parameter_iterator.item_input})


def _name_apart(spec: Any) -> None:
    """Give each task a component of its own, with another name where the name is taken."""
    taken: set[str] = set()
    for component in [spec.root, *(spec.components[name] for name in sorted(spec.components))]:
        for _, task in sorted(component.dag.tasks.items()):
            name = task.component_ref.name
            if name in taken:
                names = (f"{name}-{number}" for number in itertools.count(2))
                task.component_ref.name = next(other for other in names if other not in spec.components)
                spec.components[task.component_ref.name].CopyFrom(spec.components[name])
            taken.add(task.component_ref.name)


def _take_from_producers(loop: Any, inner: Any) -> None:
    """Let a loop's tasks take other tasks' outputs from where they are made: kfp.local would hand the loop the item
    of the iteration in place of each.
    """
    inputs, items = loop.inputs.parameters, loop.parameter_iterator.items.input_parameter
    outputs = {name for name, value in inputs.items() if value.HasField("task_output_parameter")} - {items}
    for task in inner.dag.tasks.values():
        for value in task.inputs.parameters.values():
            if value.component_input_parameter in outputs:
                value.CopyFrom(inputs[value.component_input_parameter])
    for name in outputs:
        del inputs[name], inner.input_definitions.parameters[name]


def flow(upstream: Mapping[str, Sequence[str]]) -> list[str]:
    """Tasks in an order that respects `upstream` (task -> those it waits for); farther from the end is earlier."""

    @functools.cache
    def steps_to_end(name: str) -> int:
        return max((1 + steps_to_end(later) for later, waits in upstream.items() if name in waits), default=0)

    return sorted(upstream, key=lambda name: (-steps_to_end(name), name))


def _drop_valueless(component: Any, given: Collection[str]) -> set[str]:
    """Remove from a component's inputs the parameters that are neither given nor have a default; their names."""
    known = component.input_definitions.parameters
    absent = {name for name, spec in known.items() if name not in given and not spec.HasField("default_value")}
    for name in absent:
        del known[name]
    return absent


@contextlib.contextmanager
def _logging_to(console: Console) -> Iterator[None]:
    """What kfp.local logs outside of its tasks (which come from its cache, which share is next) goes to `console`."""
    root, handler = logging.getLogger(), logging.StreamHandler(console)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def _tasks_of(spec: Any) -> tuple[dict[str, str], set[str]]:
    """(task as kfp.local names it, by its component -> its title, the tasks that are in a loop), at any depth."""
    titles, looped = {}, set()
    for component in (spec.root, *spec.components.values()):
        for task in component.dag.tasks.values():
            titles[_named(task)] = task.task_info.name
            if task.HasField("parameter_iterator"):
                looped |= set(map(_named, spec.components[task.component_ref.name].dag.tasks.values()))
    return titles, looped


def _named(task: Any) -> str:
    return str(task.component_ref.name).removeprefix("comp-")


def run(
    pipeline: Any, parameters: Mapping[str, Any], out: Path, screen: TextIO, cache: Path | None = None
) -> Mapping[str, Any]:
    """The finished run's outputs; what its tasks wrote is in `out`/tasks.

    `cache`: folder of what earlier runs noted of their tasks, so that a task is not run again with the same inputs.
    Raises: RuntimeError if a task fails; its line on `screen` says why.
    """
    tasks = out / "tasks"
    tasks.mkdir(parents=True)
    pipeline = fit(pipeline, parameters)
    caching: dict[str, Any] = {"enable_caching": True, "cache_root": str(cache)} if cache else {}
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tasks), **caching)
    with (out / "log.txt").open("w", encoding="utf-8") as log, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"kfp\.local")  # it has neither images nor resources, as we know
        console = Console(screen, log, *_tasks_of(pipeline.pipeline_spec))
        try:
            with contextlib.redirect_stdout(console), _logging_to(console):
                outputs: Mapping[str, Any] = pipeline(**parameters).outputs
        except RuntimeError as error:
            failed = console.failed or console.title
            raise RuntimeError(f"{failed}: failed; all it printed is in {log.name}") from error
    return outputs
