"""Tasks: things to do in processes of their own, some at a time, each once what it needs is done."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.attempt import die_with_parent


@dataclass(frozen=True)
class Task:
    """What `work` returns is kept as JSON."""

    name: str
    needs: tuple[str, ...]
    work: Callable[[], Any]


def needed(tasks: Mapping[str, Task], wanted: Iterable[str]) -> list[Task]:
    """The tasks that are wanted, and those that they need."""
    names = list(wanted)
    for name in names:
        names += [other for other in tasks[name].needs if other not in names]
    return [task for name, task in tasks.items() if name in names]


def together(tasks: Iterable[Task], folder: Path, at_once: int) -> dict[str, Any]:
    """Do tasks; name -> what each returned, which is in `folder` as soon as it is done.

    Raises: RuntimeError if one fails.
    """
    waiting, running, done = list(tasks), dict[int, Task](), dict[str, Any]()
    while waiting or running:
        ready = [task for task in waiting if done.keys() >= set(task.needs)]
        for task in ready[: at_once - len(running)]:
            waiting.remove(task)
            running[_start(task, folder)] = task
        pid, status = os.wait()
        task = running.pop(pid)
        if status:
            raise RuntimeError(f"{task.name}: {(folder / f'{task.name}.log').read_text(encoding='utf-8')[-3000:]}")
        done[task.name] = read(task.name, folder)
        print(f"chaos: {task.name} done", file=sys.stderr)
    return done


def read(name: str, folder: Path) -> Any:
    """What a task returned."""
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def _start(task: Task, folder: Path) -> int:
    """The id of a child of this process that does the task."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        die_with_parent()
        result = json.dumps(task.work(), default=str)
        (folder / f"{task.name}.json").write_text(result, encoding="utf-8")
        status = 0
    finally:
        if status:
            (folder / f"{task.name}.log").write_text(traceback.format_exc(), encoding="utf-8")
        os._exit(status)
