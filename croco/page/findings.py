"""Findings: the stages' outputs -> every number of the report, as plain dicts that JSON can hold.

A section is None where its input was not part of the run; no number is ever made up.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from croco import dataset, evidence
from croco.page import distributions, ledger, wording
from croco.page.distributions import ALL, Rows
from croco.writer import key_of

Manifests = Sequence[tuple[str, dataset.Manifest]]
"""(name of the input, its manifest), in the order of the flow."""
SIDES = ("base", "tuned")
LONGEST = 4000
"""Characters of a name, setting or warning that are kept."""


@dataclass(frozen=True)
class Inputs:
    """What a report is made of; each may be missing."""

    prompts: Sequence[Path] = ()
    samples: Sequence[Path] = ()
    scores: Sequence[Path] = ()
    pairs: Path | None = None
    training: Path | None = None
    benchmarks_base: Path | None = None
    benchmarks_tuned: Path | None = None
    answers_base: Path | None = None
    answers_tuned: Path | None = None
    verdicts: Path | None = None

    def named(self) -> list[tuple[str, Path]]:
        """(name, directory) of all that is there, in the order of the flow."""
        found = []
        for name, value in vars(self).items():
            directories = [value] if isinstance(value, Path) else value or ()
            found += [(name.replace("_", ", "), directory) for directory in directories]
        return found


def collect(inputs: Inputs, *, bins: int) -> dict[str, Any]:
    """Every number of the report. Raises: as dataset.read, for an input that is not whole."""
    manifests = [(name, dataset.load_manifest(directory)) for name, directory in inputs.named()]
    rewards, pairs = distributions.rewards(inputs.scores, inputs.pairs, bins)
    answers = inputs.answers_base or inputs.answers_tuned
    benchmarked = inputs.benchmarks_base or inputs.benchmarks_tuned
    found = {
        "flow": flow(manifests),
        "ledger": ledger.collect(manifests),
        "translations": distributions.translated([m for name, m in manifests if name == "prompts"]) or None,
        "samples": distributions.sampled(inputs.samples) if inputs.samples else None,
        "answers": distributions.answered(inputs.answers_base, inputs.answers_tuned) if answers else None,
        "rewards": rewards,
        "pairs": pairs,
        "training": training(inputs.training) if inputs.training else None,
        "benchmarks": benchmarks(inputs.benchmarks_base, inputs.benchmarks_tuned) if benchmarked else None,
        "win_rates": win_rates(inputs.verdicts) if inputs.verdicts else None,
        "warnings": warnings(manifests),
        "provenance": provenance(manifests),
    }
    return {name: _plain(section) for name, section in found.items()}


def flow(manifests: Manifests) -> Rows:
    """Rows in, out and dropped by each input's stage, unit and language, over all tasks that shared the stage."""
    tallies: dict[tuple[str, str, str], dataset.Tally] = {}
    for name, manifest in manifests:
        for count in manifest.counts:
            key = (name, manifest.stage, count.unit)
            tallies.setdefault(key, dataset.Tally(count.unit)).add(count)
    return [
        {"input": name, "stage": stage, **asdict(count)}
        for (name, stage, _), tally in tallies.items()
        for count in tally.counts()
    ]


def provenance(manifests: Manifests) -> Rows:
    """Where each input comes from. Directories that differ in their rows alone, as those of tasks that shared a stage
    do, are the `parts` of one entry.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, manifest in manifests:
        kept = ("stage", "stage_version", "contract", "config", "models", "libraries")
        about = {"input": name} | {field: getattr(manifest, field) for field in kept}
        entry = found.setdefault(key_of(about), about | {"inputs": [], "parts": []})
        entry["inputs"] += [source for source in manifest.inputs if source not in entry["inputs"]]
        entry["parts"].append({"digest": manifest.digest, "rows": manifest.rows})
    return list(found.values())


def warnings(manifests: Manifests) -> Rows:
    """What the stages warned of, once each though several tasks may say it, and `strangers`."""
    said = [{"input": name, "text": text} for name, manifest in manifests for text in manifest.warnings]
    return [row for at, row in enumerate(said) if row not in said[:at]] + strangers(manifests)


def strangers(manifests: Manifests) -> Rows:
    """A warning for each input that was made from another dataset than the one reported beside it."""
    given: dict[str, set[str]] = {}
    for _, manifest in manifests:
        if manifest.contract:
            given.setdefault(manifest.contract, set()).add(manifest.digest)
    return [
        {"input": name, "text": f"made from {source['contract']} {source['digest'][:12]}, not from those reported here"}
        for name, manifest in manifests
        for source in manifest.inputs
        if source["digest"] not in given.get(source["contract"], {source["digest"]})
    ]


def training(directory: Path) -> dict[str, Any]:
    """Curves from metrics.jsonl: one JSON object a step; `eval_*` beside the metric it belongs to."""
    manifest, path = dataset.load_manifest(directory), Path(directory) / "metrics.jsonl"
    listed = [entry["sha256"] for entry in manifest.files if entry["path"] == path.name]
    if not path.is_file() or [dataset.sha256_file(path)] != listed:
        raise ValueError(f"{path}: found no such file, or not the one its manifest lists; run `python -m croco train`")
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    steps = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
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
        "method": manifest.config.get("method"),
        "curves": [{"metric": name, **curve} for name, curve in sorted(curves.items())],
    }


def benchmarks(base: Path | None, tuned: Path | None) -> Rows:
    """Each score before and after with its 95 % half-width; `verdict` is None where only one of the two is there."""
    key = ("language", "benchmark", "metric", "task", "split")
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for side, path in zip(SIDES, (base, tuned), strict=True):
        table = dataset.unique(dataset.read(path, "benchmarks"), "benchmarks", str(path)).to_pylist() if path else []
        for row in table:
            entry = found.setdefault(tuple(row[column] for column in key), dict.fromkeys(SIDES))
            entry[side] = {name: row[name] for name in ("score", "half_width_95")} | {"n": len(row["iterations"])}
    result = []
    for names, entry in sorted(found.items(), key=lambda item: item[0]):
        row = dict(zip(key, names, strict=True)) | entry | {"change": None, "low": None, "high": None, "verdict": None}
        if entry["base"] and entry["tuned"]:
            before, after = ((entry[side]["score"], entry[side]["half_width_95"]) for side in SIDES)
            low, high = evidence.gap(*before, *after)
            verdict = evidence.verdict(low, high)
            row |= {"change": after[0] - before[0], "low": low, "high": high, "verdict": verdict}
        result.append(row)
    return result


def win_rates(directory: Path) -> dict[str, Any]:
    """What `arena` measured of `model` against `reference`: in `languages`, ALL last, shares in [0, 1], each with what
    its interval says against parity.
    """
    metrics = dataset.load_manifest(directory, "verdicts").metrics
    found = []
    for row in _plain(metrics.get("win_rates", [])):
        low, high = row["interval_95"] or (None, None)
        lc_low, lc_high = row.get("lc_interval_95") or (None, None)
        if not all(0 <= value <= 1 for value in (row["win_rate"], low, high) if value is not None):
            raise ValueError(f"{directory}: found a win rate of {row['win_rate']}; expected shares between 0 and 1")
        said = {"verdict": evidence.verdict(low, high, 0.5), "lc_verdict": evidence.verdict(lc_low, lc_high, 0.5)}
        found.append(row | said)
    found.sort(key=lambda row: (row["language"] == ALL, row["language"]))
    names = {side: metrics.get(side) or side for side in ("model", "reference")}
    return names | {"languages": found}


def _plain(value: Any) -> Any:
    """`value` with None for every float that is not finite, which JSON cannot hold, and with strings made visible:
    names and warnings may quote what a model wrote.
    """
    if isinstance(value, dict):
        return {_plain(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, str):
        cut = f" (cut: {LONGEST:,} of {len(value):,} characters)" if len(value) > LONGEST else ""
        return wording.visible(value[:LONGEST]) + cut
    return None if isinstance(value, float) and not math.isfinite(value) else value
