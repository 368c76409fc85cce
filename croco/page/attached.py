"""Attached: the files that stages write beside their rows -> the curves of training, the decision of `promote`."""

import json
from pathlib import Path
from typing import Any

from croco import dataset

KEPT = ("promote", "name", "last", "policy", "reasons", "checks")
"""Of a decision; whose it is and what it rests on stands in the provenance."""


def text(directory: Path, name: str, stage: str) -> str:
    """The content of an attached file. Raises: ValueError where it is not the one that the manifest lists."""
    path = Path(directory) / name
    listed = [entry["sha256"] for entry in dataset.load_manifest(directory).files if entry["path"] == name]
    if not path.is_file() or [dataset.sha256_file(path)] != listed:
        raise ValueError(
            f"{path}: found no such file, or not the one its manifest lists; run `python -m croco {stage}`"
        )
    return path.read_text(encoding="utf-8")


def training(directory: Path) -> dict[str, Any]:
    """Curves from metrics.jsonl: one JSON object a step; `eval_*` beside the metric it belongs to."""
    path = Path(directory) / "metrics.jsonl"
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    steps = 0
    for number, line in enumerate(text(directory, path.name, "train").splitlines(), 1):
        try:
            record = json.loads(line)
            step = int(record["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}:{number}: found {line[:60]!r}; expected a JSON object with a step") from error
        steps = max(steps, step)
        for name, value in record.items():
            if name not in ("step", "epoch", "eval_epoch") and isinstance(value, int | float):
                curve = curves.setdefault(name.removeprefix("eval_"), {"train": [], "eval": []})
                curve["eval" if name.startswith("eval_") else "train"].append((step, value))
    return {
        "steps": steps,
        "method": dataset.load_manifest(directory).config.get("method"),
        "curves": [{"metric": name, **curve} for name, curve in sorted(curves.items())],
    }


def decision(directory: Path) -> dict[str, Any]:
    """What `promote` decided: `promote`, its `reasons` not to, and `checks`, {name, language, verdict, text} each."""
    found = json.loads(text(directory, "decision.json", "promote"))
    if missing := [name for name in KEPT if name not in found]:
        path = Path(directory) / "decision.json"
        raise ValueError(f"{path}: found no {', '.join(missing)}; expected what this version of promote writes")
    return {name: found[name] for name in KEPT}
