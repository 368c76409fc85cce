"""Measures: the numbers of a manifest, flat and by name, for those who compare runs."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from croco import dataset


def numbers(manifest: dataset.Manifest) -> Iterator[tuple[str, float]]:
    """Rows, drops by reason, the ledger's sums and every number among the stage's own metrics, finite or not.

    Names of nested ones are joined by `/`: language_fidelity/da.
    """
    dropped, spent = Counter[str](), Counter[str]()
    for count in manifest.counts:
        dropped.update({f"{count.unit}/{reason}": number for reason, number in count.dropped.items()})
    for row in manifest.ledger:
        amounts = {name: amount for name, amount in dataclasses.asdict(row).items() if name != "language" and amount}
        spent.update(amounts)
        spent.update({f"{name}/{row.language}": amount for name, amount in amounts.items() if row.language})
    rows = {"rows": manifest.rows} if manifest.contract else {}
    for name, value in leaves("", {**rows, "dropped": dropped, "ledger": spent, **manifest.metrics}):
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value


def leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from leaves(f"{prefix}/{name}" if prefix else str(name), part)
    else:
        yield prefix, value
