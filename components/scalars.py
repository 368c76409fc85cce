"""Scalars: a manifest's numbers as a Metrics artifact, which Kubeflow compares between runs."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def log(manifest: Any, metrics: Any) -> None:
    """Put rows, drops by reason, the ledger and every number among the stage's own metrics into `metrics`, and into its
    file: an artifact without one is lost to kfp.local's cache.

    Names of nested ones are joined by `/`: language_fidelity/da. What is not finite is left out, as JSON cannot say it.
    """
    dropped: Counter[str] = Counter()
    for count in manifest.counts:
        dropped.update({f"{count.unit}/{reason}": number for reason, number in count.dropped.items()})
    rows = {"rows": manifest.rows} if manifest.contract else {}
    numbers = dict(_numbers("", {**rows, "dropped": dropped, "ledger": _sums(manifest.ledger), **manifest.metrics}))
    for name, number in numbers.items():
        metrics.log_metric(name, number)
    Path(metrics.path).write_text(json.dumps(numbers, indent=1), encoding="ascii")


def _sums(ledger: Iterable[Any]) -> Counter[str]:
    """What the ledger's rows have in all, such as tokens_in, and in a language, such as tokens_in/da."""
    sums: Counter[str] = Counter()
    for row in ledger:
        amounts = {name: amount for name, amount in dataclasses.asdict(row).items() if name != "language" and amount}
        sums.update(amounts)
        if row.language:
            sums.update({f"{name}/{row.language}": amount for name, amount in amounts.items()})
    return sums


def _numbers(prefix: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _numbers(f"{prefix}/{name}" if prefix else str(name), part)
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield prefix, value
