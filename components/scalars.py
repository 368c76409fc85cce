"""Scalars: a manifest's numbers as a Metrics artifact, which Kubeflow compares between runs."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any


def log(manifest: Any, metrics: Any) -> None:
    """Put rows, drops by reason and every number among the stage's own metrics into `metrics`.

    Names of nested ones are joined by `/`: language_fidelity/da. What is not finite is left out, as JSON cannot say it.
    """
    dropped: Counter[str] = Counter()
    for count in manifest.counts:
        dropped.update({f"{count.unit}/{reason}": number for reason, number in count.dropped.items()})
    rows = {"rows": manifest.rows} if manifest.contract else {}
    for name, number in _numbers("", {**rows, "dropped": dropped, **manifest.metrics}):
        metrics.log_metric(name, number)


def _numbers(prefix: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _numbers(f"{prefix}/{name}" if prefix else str(name), part)
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield prefix, value
