"""Checks: what several stages' configs ask of their fields, with one wording."""

from collections.abc import Collection
from typing import Any


def one_or_more(config: Any, *names: str) -> None:
    """Raises: ValueError for a field below 1; None passes, it stands for a default."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}: found {value}; expected 1 or more")


def one_of(config: Any, name: str, allowed: Collection[str]) -> None:
    """Raises: ValueError for a field that is not among `allowed`."""
    value = getattr(config, name)
    if value not in allowed:
        raise ValueError(f"{name}: found {value!r}; expected one of {', '.join(allowed)}")
