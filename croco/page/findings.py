"""Findings: the stages' outputs -> every number of the report, as plain dicts that JSON can hold.

A section is None where its input was not part of the run; no number is ever made up.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from croco import dataset
from croco.page import attached, distributions, evaluations, ledger, wording
from croco.page.distributions import Rows
from croco.writer import key_of

Manifests = Sequence[tuple[str, dataset.Manifest]]
"""(name of the input, its manifest), in the order of the flow."""
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
    decision: Path | None = None

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
    scores = evaluations.benchmarks(inputs.benchmarks_base, inputs.benchmarks_tuned) if benchmarked else None
    found = {
        "promotion": attached.decision(inputs.decision) if inputs.decision else None,
        "flow": flow(manifests),
        "ledger": ledger.collect(manifests),
        "translations": distributions.translated([m for name, m in manifests if name == "prompts"]) or None,
        "samples": distributions.sampled(inputs.samples) if inputs.samples else None,
        "answers": distributions.answered(inputs.answers_base, inputs.answers_tuned) if answers else None,
        "rewards": rewards,
        "pairs": pairs,
        "training": attached.training(inputs.training) if inputs.training else None,
        "benchmarks": scores,
        "benchmark_languages": evaluations.benchmark_languages(scores) if scores else None,
        "win_rates": evaluations.win_rates(inputs.verdicts) if inputs.verdicts else None,
        "warnings": warnings(manifests),
        "provenance": provenance(manifests),
    }
    return {name: plain(section) for name, section in found.items()}


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


def plain(value: Any) -> Any:
    """`value` with None for every float that is not finite, which JSON cannot hold, and with strings made visible:
    names and warnings may quote what a model wrote.
    """
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, str):
        cut = f" (cut: {LONGEST:,} of {len(value):,} characters)" if len(value) > LONGEST else ""
        return wording.visible(value[:LONGEST]) + cut
    return None if isinstance(value, float) and not math.isfinite(value) else value
