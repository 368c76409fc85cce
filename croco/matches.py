"""Matches: two models' answers to the same questions, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croco import dataset, languages

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


def in_language(matches: Sequence[Match], sides: Sequence[Side]) -> dict[str, dict[str, float]]:
    """By side and language: the share of answers in the language of the question."""
    keys: dict[str, list[tuple[str, str]]] = {}
    for match in matches:
        keys.setdefault(match.language, []).append((match.question_id, match.language))
    return {
        name: {
            code: sum(side[key]["identified"] == languages.get(code).base for key in asked) / len(asked)
            for code, asked in keys.items()
        }
        for name, side in zip(SIDES, sides, strict=True)
    }


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
