"""Scalars: a manifest's numbers as a Metrics artifact, which Kubeflow compares between runs."""

import json
import math
from pathlib import Path
from typing import Any


def log(manifest: Any, metrics: Any) -> None:
    """Put rows, drops by reason, the ledger and every number among the stage's own metrics into `metrics`, and into its
    file: an artifact without one is lost to kfp.local's cache.

    Names of nested ones are joined by `/`: language_fidelity/da. What is not finite is left out, as JSON cannot say it.
    """
    from croco.measures import numbers

    finite = {name: number for name, number in numbers(manifest) if math.isfinite(number)}
    for name, number in finite.items():
        metrics.log_metric(name, number)
    Path(metrics.path).write_text(json.dumps(finite, indent=1), encoding="ascii")
