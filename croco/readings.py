"""Readings: what a model's evaluations say, item by item, as those who compare models need it."""

from pathlib import Path

from croco import dataset, languages
from croco.winrate import SCORE


def main_scores(path: Path) -> dict[tuple[str, str], list[float]]:
    """(language, data set) -> the iterations of its first metric, which is EuroEval's main one."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in dataset.read(path, "benchmarks").to_pylist():
        found.setdefault((row["language"], row["benchmark"]), row["iterations"])
    return found


def question_scores(path: Path) -> dict[tuple[str, str], float]:
    """(language, question) -> mean score of its two orders, where both could be read."""
    columns = ["question_id", "language", "verdict"]
    verdicts: dict[tuple[str, str], list[str | None]] = {}
    for row in dataset.read(path, "verdicts", columns).to_pylist():
        verdicts.setdefault((row["language"], row["question_id"]), []).append(row["verdict"])
    return {
        key: sum(SCORE[verdict] for verdict in pair if verdict) / len(pair)
        for key, pair in verdicts.items()
        if all(pair)
    }


def faithful(path: Path) -> dict[str, dict[str, bool]]:
    """Language -> question -> whether its answer is in that language."""
    found: dict[str, dict[str, bool]] = {}
    for row in dataset.read(path, "answers", ["question_id", "language", "identified"]).to_pylist():
        in_language = row["identified"] == languages.get(row["language"]).base
        found.setdefault(row["language"], {})[row["question_id"]] = in_language
    return found
