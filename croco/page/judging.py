"""Judging: a judge's verdicts -> how far they can be trusted, each share with its interval over questions."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from croco import dataset, evidence, judges
from croco.page.distributions import ALL, Rows

LENGTHS = ("model_chars", "reference_chars")
MEASURES = ("readable", "consistent", "ties", "identical", *LENGTHS)


def judging(directory: Path) -> Rows:
    """Estimates by language and, of several, over ALL: the share of verdicts that were `readable`; and of questions
    with all their verdicts the share that is `consistent` in both orders, that of `ties` among the verdicts, that of
    `identical` answers, which tied without a call, and both answers' mean lengths in characters. None where there is
    no such question.
    """
    table = dataset.read(directory, "verdicts", ["language", "question_id", "verdict", "judge_text", *LENGTHS])
    same = pc.equal(table["judge_text"], judges.IDENTICAL)
    asked: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in table.drop_columns("judge_text").append_column("identical", same).to_pylist():
        asked.setdefault((row["language"], row["question_id"]), []).append(row)
    codes = sorted({language for language, _ in asked})
    return [
        {"language": code, **_estimates([(key[1], pair) for key, pair in asked.items() if code in (key[0], ALL)])}
        for code in ([*codes, ALL] if len(codes) > 1 else codes)
    ]


def _estimates(pairs: Sequence[tuple[str, Rows]]) -> dict[str, Any]:
    """Of (question, its verdicts); a question's rows in several languages are one cluster."""
    values: dict[str, dict[str, list[float]]] = {name: {} for name in MEASURES}
    for question, pair in pairs:
        for name, found in _measured(pair).items():
            values[name].setdefault(question, []).extend(found)
    return {name: _estimate(name, list(by_question.values())) for name, by_question in values.items()}


def _measured(pair: Rows) -> dict[str, list[float]]:
    """What one question adds to each estimate."""
    verdicts = [row["verdict"] for row in pair]
    found: dict[str, list[float]] = {"readable": [verdict is not None for verdict in verdicts]}
    if None not in verdicts:
        found |= {"consistent": [len(set(verdicts)) == 1], "ties": [verdict == "tie" for verdict in verdicts]}
        found |= {name: [pair[0][name]] for name in ("identical", *LENGTHS)}
    return found


def _estimate(name: str, clusters: Sequence[Sequence[float]]) -> dict[str, Any] | None:
    estimate = evidence.mean if name in LENGTHS else evidence.share
    return asdict(estimate([sum(one) for one in clusters], [len(one) for one in clusters])) if clusters else None
