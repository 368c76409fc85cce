"""Shallow: what a build sees above it, and that nothing else of it is another."""

import inspect

import pytest

from pipelines.preference import preference
from pipelines.shallow import shallow
from pipelines.study import study


@shallow
def functions_above(missing: str = "") -> list[str]:
    """Names of the functions that this call is under."""
    if missing:
        raise KeyError(missing)
    return [frame.function for frame in inspect.stack()]


def test_a_build_has_no_more_above_it_than_a_thread() -> None:
    found = functions_above()
    assert found[0] == "functions_above"
    assert "test_a_build_has_no_more_above_it_than_a_thread" not in found
    assert found[-1] == "_bootstrap"  # of threading


def test_what_a_build_raises_is_raised() -> None:
    with pytest.raises(KeyError, match="'policy'"):
        functions_above(missing="policy")


def test_pipelines_are_built_so_and_keep_what_they_are() -> None:
    for build in (preference, study):
        assert inspect.unwrap(build) is not build
        assert inspect.signature(build) == inspect.signature(inspect.unwrap(build))
        assert build.__doc__
