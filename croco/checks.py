"""Checks: what several stages' configs ask of their fields, with one wording."""

from collections.abc import Collection
from typing import Any

from croco import languages


def one_or_more(config: Any, *names: str) -> None:
    """Raises: ValueError for a field below 1; None passes, it stands for a default."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}: found {value}; expected 1 or more")


def part(config: Any) -> None:
    """Raises: ValueError for `languages` that are unknown or given twice, or an `n` below 2; none of either passes."""
    if config.languages:
        languages.check(config.languages)
    if config.n is not None and config.n < 2:
        raise ValueError(f"n: found {config.n}; expected 2 answers or more")


def one_of(config: Any, name: str, allowed: Collection[str]) -> None:
    """Raises: ValueError for a field that is not among `allowed`."""
    value = getattr(config, name)
    if value not in allowed:
        raise ValueError(f"{name}: found {value!r}; expected one of {', '.join(allowed)}")
