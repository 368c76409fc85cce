"""Matches: two models' answers to the same questions, side by side."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from croco import dataset, evidence, languages

ORDERS = ("model_first", "reference_first")
SIDES = ("model", "reference")
Side = dict[tuple[str, str], dict[str, Any]]
"""One model's answers: (question_id, language) -> row."""


@dataclass(frozen=True)
class Match:
    """Two answers to one question."""

    question_id: str
    language: str
    category: str
    subcategory: str
    prompt: str
    model: str
    reference: str


def load_side(directory: Path) -> tuple[str, Side]:
    """The generator of an answers dataset, and its rows.

    Raises: ValueError if it holds more than one model's answers.
    """
    table = dataset.unique(dataset.read(directory, "answers"), "answers", str(directory))
    names = sorted(set(table["generator"].to_pylist()))
    if len(names) != 1:
        raise ValueError(f"{directory}: found answers of {', '.join(names) or 'no model'}; expected one model's")
    return names[0], {(row["question_id"], row["language"]): row for row in table.to_pylist()}


def join(answers: Side, reference: Side, tally: dataset.Tally) -> list[Match]:
    """Questions both models answered, by language and id; the others are counted, as two verdicts dropped each.

    Raises: ValueError where the two were asked different things under one id.
    """
    matches = []
    for key in sorted(answers | reference, key=lambda key: key[::-1]):
        question_id, language = key
        if key not in reference or key not in answers:
            reason = "no_model_answer" if key in reference else "no_reference_answer"
            tally.take(language, len(ORDERS))
            tally.drop(language, reason, len(ORDERS))
            continue
        model, other = answers[key], reference[key]
        if model["prompt"] != other["prompt"]:
            raise ValueError(
                f"question {question_id} ({language}): found different prompts; expected both models to be asked "
                "the same; run answer for both with one revision of the questions"
            )
        texts = (model["prompt"], model["output"], other["output"])
        matches.append(Match(*key, model["category"], model["subcategory"], *texts))
    return matches


def in_language(matches: Sequence[Match], sides: Sequence[Side]) -> list[dict[str, Any]]:
    """By language, and for `all` of several: the share of each side's answers in the language of the question, the
    model's minus the reference's (`change`), each an evidence.Estimate over questions, and what the change shows.
    """
    codes = list(dict.fromkeys(match.language for match in matches))
    found = []
    for code in [*codes, "all"] if len(codes) > 1 else codes:
        asked: dict[str, list[Match]] = {}
        for match in matches:
            if code in (match.language, "all"):
                asked.setdefault(match.question_id, []).append(match)
        hits = [[sum(_in_language(side, match) for match in ours) for ours in asked.values()] for side in sides]
        totals = [len(ours) for ours in asked.values()]
        changed = evidence.change(hits[1], hits[0], totals)
        shares = {name: asdict(evidence.share(hit, totals)) for name, hit in zip(SIDES, hits, strict=True)}
        verdict = evidence.verdict(changed.low, changed.high)
        found.append({"language": code, **shares, "change": asdict(changed), "verdict": verdict})
    return found


def _in_language(side: Side, match: Match) -> bool:
    """Whether the side's answer is in the language of its question."""
    identified = side[match.question_id, match.language]["identified"]
    return bool(identified == languages.get(match.language).base)


def differences(manifests: Sequence[dataset.Manifest]) -> list[str]:
    """What was not the same when the two models answered."""

    def asked(manifest: dataset.Manifest) -> dict[str, Any]:
        template = manifest.models.get("policy", {}).get("chat_template_sha256")
        return {"sampling": None, "questions": None, **manifest.metrics, "chat template": template}

    model, other = map(asked, manifests)
    return [
        f"the two models answered with different {name}: {model[name]} and {other[name]}; where one is tuned "
        "from the other, only the weights should differ"
        for name in ("sampling", "questions", "chat template")
        if model[name] != other[name]
    ]
