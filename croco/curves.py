"""Curves: what a trainer logged -> metrics.jsonl, final numbers, and a plot."""

import json
from pathlib import Path
from typing import Any

UNSTABLE = ("_runtime", "_per_second", "total_flos", "num_tokens")
"""Ends of the names of logged numbers that a clock decides, or that TRL counts anew after a resume."""


def write(path: Path, logged: list[dict[str, Any]], mode: str = "w") -> None:
    """One JSON object a logged step: `step`, then what the trainer logged, without what no rerun would repeat."""
    with path.open(mode, encoding="utf-8") as file:
        for line in logged:
            kept = {name: line[name] for name in sorted(line) if not name.endswith(UNSTABLE) and name != "step"}
            if "loss" in kept or "eval_loss" in kept:
                file.write(json.dumps({"step": line["step"], **kept}) + "\n")


def read(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def final(lines: list[dict[str, float]]) -> dict[str, float]:
    """The last numbers logged on the training rows and, where there are any, on the eval rows."""
    names = {"loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "accuracy"}
    last: dict[str, float] = {}
    for prefix, split in (("", "train"), ("eval_", "eval")):
        for line in [line for line in lines if f"{prefix}loss" in line][-1:]:
            last["steps"] = line["step"]
            last |= {f"{split}_{name}": line[prefix + key] for key, name in names.items() if prefix + key in line}
    return last


def plot(lines: list[dict[str, float]], path: Path) -> None:
    """Draw loss, and for DPO margin and accuracy, over the steps as SVG; the same lines give the same file."""
    import matplotlib
    from matplotlib.figure import Figure

    panels = [("loss", "loss (nats)"), ("rewards/margins", "reward margin (nats)"), ("rewards/accuracies", "accuracy")]
    panels = [(name, label) for name, label in panels if any(name in line for line in lines)]
    figure = Figure(figsize=(4 * len(panels), 3), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for key, style in ((name, "-"), (f"eval_{name}", "o")):
            points = [(line["step"], line[key]) for line in lines if key in line]
            if points:
                axes.plot(*zip(*points, strict=True), style, label="eval" if style == "o" else "train")
        axes.set(xlabel="step", ylabel=label)
        axes.legend()
    with matplotlib.rc_context({"svg.hashsalt": "croco", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
