"""Shallow: build a pipeline where the stack above it is short."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Built = TypeVar("Built")


def shallow(build: Callable[Given, Built]) -> Callable[Given, Built]:
    """`build` in a thread of its own, whose stack begins there; what it returns or raises is the same.

    kfp 2.17 asks `inspect.stack()` for its caller whenever a task is told its image, CPU or memory
    (PipelineTask._ensure_container_spec_exists), a hundred times a pipeline; and for every frame without a file, which
    are those of `python -m`, inspect goes through all modules there are. That was a fifth of what compiling took.
    """

    @functools.wraps(build)
    def built(*given: Given.args, **named: Given.kwargs) -> Built:
        with ThreadPoolExecutor(max_workers=1) as pool:
            return pool.submit(build, *given, **named).result()

    return built
