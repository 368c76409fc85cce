"""Benchmark records: what EuroEval wrote of a model on a data set, in the form of its version 16 or 17, and what of it
the store has.
"""

import json
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croco.store import Store


@dataclass(frozen=True)
class Score:
    """One metric of one data set."""

    metric: str
    score: float
    """Up to 100, higher is better; from 0, or from -100 for a correlation (mcc)."""
    half_width_95: float
    """1.96 standard errors of the mean over the iterations; EuroEval calls this number `se`."""
    iterations: list[float]
    """The score of each iteration, on the same scale."""


@dataclass(frozen=True)
class Record:
    """EuroEval's result of one model on one data set."""

    benchmark: str
    model: str
    task: str
    split: str
    """`test` or `validation`."""
    generative_type: str | None
    scores: list[Score]


def parse_record(record: Mapping[str, Any]) -> Record:
    """A line of EuroEval's results, of version 16 or of 17 (Every-Eval-Ever).

    Raises: KeyError or ValueError for what is neither, or whose numbers do not agree with one another.
    """
    if "schema_version" in record:
        about, model = record["eval_library"]["additional_details"], record["model_info"]
        raw, total = json.loads(about["raw_results"]), {}
        for result in record["evaluation_results"]:
            name, details = result["evaluation_name"], result["score_details"]
            interval = details["uncertainty"]["confidence_interval"]
            total[name] = details["score"]
            total[f"{name}_se"] = (interval["upper"] - interval["lower"]) / 2
        return Record(
            about["dataset"],
            model["id"],
            about["task"],
            "validation" if about["validation_split"] == "true" else "test",
            model["additional_details"]["generative_type"],
            _scores(raw, total),
        )
    return Record(
        record["dataset"],
        record["model"],
        record["task"],
        "validation" if record["validation_split"] else "test",
        record["generative_type"],
        _scores(record["results"]["raw"], record["results"]["total"]),
    )


def _scores(raw: Sequence[Mapping[str, Any]], total: Mapping[str, float]) -> list[Score]:
    """The metrics of `total` (test_NAME and test_NAME_se) with their iterations, on one scale of 0 to 100.

    Iterations are stored as the metric computes them, most from 0 to 1; which, shows in their mean.
    """
    scores = []
    for metric in [key.removeprefix("test_") for key in total if key.startswith("test_") and not key.endswith("_se")]:
        score, half_width = total[f"test_{metric}"], total[f"test_{metric}_se"]
        values = [float(one[metric] if metric in one else one[f"test_{metric}"]) for one in raw]
        scale = 100 if math.isclose(100 * statistics.fmean(values), score, abs_tol=1e-6) else 1
        values = [scale * value for value in values]
        error = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
        if not math.isclose(statistics.fmean(values), score, abs_tol=1e-6) or not math.isclose(
            error, half_width, abs_tol=1e-6
        ):
            raise ValueError(
                f"{metric}: found {score} +- {half_width}; expected {statistics.fmean(values)} +- {error}, the mean of "
                f"{values} and 1.96 standard errors"
            )
        scores.append(Score(metric, score, half_width, values))
    return scores


def read_lines(path: Path) -> dict[str, str]:
    """Data set -> its line in a results file, which EuroEval 16 starts with an empty one. Raises: as `parse_line`."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return {parse_line(line, f"{path}:{number}").benchmark: line for number, line in numbered}


def parse_line(line: str, where: str) -> Record:
    """The record in a line of EuroEval's results. Raises: ValueError that starts with `where` for what is none."""
    try:
        return parse_record(json.loads(line))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: found {error!r}; expected a record of EuroEval 16 or 17") from error


def find(store: Store, places: Mapping[str, str], model: str) -> dict[str, dict[str, Any]]:
    """Data set -> what the store has at its place: EuroEval's `line` of the model, and what it took.

    One that is damaged, or of something else, is not taken, with a warning.
    """
    found = {}
    for name, place in places.items():
        try:
            if (stored := store.read(place)) is None:
                continue
            record = parse_line(stored["line"], f"{store.location}/{place}")
            if (record.benchmark, record.model) != (name, model):
                raise ValueError(
                    f"{store.location}/{place}: found {record.model} on {record.benchmark}; expected {model} on {name}"
                )
        except ValueError as error:
            warnings.warn(f"benchmark: a stored record is of no use ({error}); it is made again", stacklevel=3)
            continue
        store.touch(place)
        found[name] = stored
    return found
