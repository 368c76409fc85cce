"""Charts: the report's numbers -> inline SVG, a list for each section; empty where the section is."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from croco.page import plots, wording
from croco.page.distributions import ALL
from croco.page.plots import Mark

Rows = Sequence[dict[str, Any]]
Chart = tuple[str, Markup]
"""Caption and picture."""
CURVES = (
    "loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected", "mean_token_accuracy",
    "grad_norm", "learning_rate",
)  # fmt: skip
"""Metrics that are drawn, where `train` logged them; report.json has them all."""


def draw(numbers: dict[str, Any], stages: Rows) -> dict[str, list[Chart]]:
    """Charts by section; `stages` are the flow's rows over all languages."""
    return {
        "flow": _flow(stages),
        "benchmark_languages": _benchmark_languages(numbers["benchmark_languages"] or []),
        "benchmarks": _benchmarks(numbers["benchmarks"] or []),
        "win_rates": _win_rates("Win rate by language", (numbers["win_rates"] or {}).get("languages", [])),
        "subcategories": _win_rates("Win rate by subcategory", (numbers["win_rates"] or {}).get("subcategories", [])),
        "answers": _answers(numbers["answers"]["languages"] if numbers["answers"] else []),
        "rewards": _rewards(numbers["rewards"], numbers["pairs"]),
        "margins": _margins(numbers["pairs"]),
        "mix": _mix(numbers["pairs"]),
        "training": _training(numbers["training"]),
    }


def _flow(rows: Rows) -> list[Chart]:
    bars = [
        (
            f"{wording.step(row)} · {row['unit']}",
            f"{row['rows_out']:,} of {row['rows_in']:,}",
            [("second", row["rows_out"] / row["rows_in"])],
        )
        for row in rows
        if row["rows_in"]
    ]
    title = "Rows kept by each stage"
    return [(title, plots.bars(title, bars))] if bars else []


def _benchmark_languages(rows: Rows) -> list[Chart]:
    """Each language's mean change over its data sets."""
    lines = [
        (
            wording.name(row["language"]),
            f"{wording.signed(row['value'], 2)} {wording.SYMBOLS[row['verdict']]}",
            [_changed(row["value"], row, f"{row['n']} data sets")],
        )
        for row in rows
    ]
    reach = _reach(rows, "value")
    title = "Mean change by language"
    return [(title, plots.intervals(title, lines, low=-reach, high=reach, parity=0))] if lines else []


def _benchmarks(rows: Rows) -> list[Chart]:
    """Changes of the data sets' main metrics, all languages on one axis around no change."""
    compared = [row for row in rows if row["main"] and row["verdict"]]
    reach = _reach(compared, "change")
    drawn = []
    for code in sorted({row["language"] for row in compared}):
        lines = [
            (
                f"{row['benchmark']} {row['metric']}",
                _before_after(row),
                [_changed(row["change"], row, f"{row['tuned']['n']} iterations")],
            )
            for row in compared
            if row["language"] == code
        ]
        title = wording.name(code)
        drawn.append((title, plots.intervals(title, lines, low=-reach, high=reach, parity=0)))
    return drawn


def _reach(rows: Rows, value: str) -> float:
    """How far from 0 the axis of changes goes."""
    ends = [abs(end) for row in rows for end in (row[value], row["low"], row["high"]) if end is not None]
    return max(ends, default=0) * 1.05 or 1.0


def _before_after(row: dict[str, Any]) -> str:
    return f"{row['base']['score']:.1f} → {row['tuned']['score']:.1f} {wording.SYMBOLS[row['verdict']]}"


def _changed(value: float, row: dict[str, Any], counted: str) -> Mark:
    said = f"{wording.signed(value, 2)} ({wording.change(row)}, {counted})"
    return Mark("second", value, row["low"], row["high"], said)


def _percent(series: str, value: float | None, bounds: Sequence[float | None] | None, n: int) -> list[Mark]:
    """A share as a mark on an axis of percent; none where it was not measured."""
    low, high = (None if bound is None else 100 * bound for bound in bounds or (None, None))
    said = f"{wording.share(value)} ({wording.between(bounds)}, n = {n:,})"
    return [] if value is None else [Mark(series, 100 * value, low, high, said)]


def _win_rates(title: str, rows: Rows) -> list[Chart]:
    rates = zip(("second", "first", "third"), wording.RATES.items(), strict=True)
    drawn = [(series, rate, f"{prefix}interval_95") for series, (rate, (prefix, *_)) in rates]
    lines = [
        (
            wording.name(row["language"]) if "language" in row else row["subcategory"],
            f"{wording.share(row['win_rate'])} {wording.SYMBOLS[wording.marked(row)]}",
            [
                mark
                for series, rate, bounds in drawn
                for mark in _percent(series, row[rate], row.get(bounds), row["questions"])
            ],
        )
        for row in rows
    ]
    marks = [mark for *_, found in lines for mark in found]
    ends = [end for mark in marks for end in (mark.value, mark.low, mark.high) if end is not None]
    reach = min(max([10.0, *(abs(end - 50) for end in ends)]) + 2, 50.0)
    if not lines:
        return []
    return [(title, plots.intervals(title, lines, low=50 - reach, high=50 + reach, parity=50, unit=" %"))]


def _answers(rows: Rows) -> list[Chart]:
    lines = []
    for row in rows:
        sides = [(series, row[side]) for series, side in (("first", "base"), ("second", "tuned")) if row[side]]
        words = " → ".join(wording.share(side["value"]) for _, side in sides)
        words += f" {wording.SYMBOLS[row['verdict']]}" if row["verdict"] else ""
        marks = [_percent(series, one["value"], (one["low"], one["high"]), one["n"]) for series, one in sides]
        lines.append((wording.name(row["language"]), words, [mark for found in marks for mark in found]))
    lows = [mark.low for *_, marks in lines for mark in marks if mark.low is not None]
    low = max(min([*lows, 90.0]) - 2, 0.0)
    title = "Answers in the language asked for"
    return [(title, plots.intervals(title, lines, low=low, high=100.0, unit=" %"))] if lines else []


def _rewards(rewards: dict[str, Any] | None, pairs: dict[str, Any] | None) -> list[Chart]:
    everything = {row["language"]: row["histogram"] for row in rewards["languages"]} if rewards else {}
    picked = {row["language"]: (row["chosen"], row["rejected"]) for row in pairs["picked"]} if pairs else {}
    edges = (rewards or pairs or {}).get("edges", [])
    drawn = []
    for code in sorted({*everything, *picked} - {ALL}):
        chosen, rejected = picked.get(code, (None, None))
        title = wording.name(code)
        drawn.append((title, plots.histogram(title, edges, everything.get(code), rejected, chosen, of="answers")))
    return drawn


def _margins(pairs: dict[str, Any] | None) -> list[Chart]:
    if not pairs:
        return []
    rows = [row for row in pairs["margins"] if row["language"] != ALL]
    edges, titles = pairs["margin_edges"], [wording.name(row["language"]) for row in rows]
    return [
        (title, plots.histogram(title, edges, row["histogram"], of="pairs"))
        for title, row in zip(titles, rows, strict=True)
    ]


def _mix(pairs: dict[str, Any] | None) -> list[Chart]:
    if not pairs:
        return []
    bars = [
        (
            wording.name(row["language"]),
            f"{wording.share(row['chosen']['value'])} / {wording.share(row['rejected']['value'])}",
            [("second", row["chosen"]["value"]), ("first", row["rejected"]["value"])],
        )
        for row in pairs["mix"]
    ]
    title = "Languages of chosen and rejected"
    return [(title, plots.bars(title, bars))]


def _training(training: dict[str, Any] | None) -> list[Chart]:
    curves = {curve["metric"]: curve for curve in training["curves"]} if training else {}
    drawn = [name for name in CURVES if name in curves]
    return [(name, plots.lines(name, curves[name]["train"], curves[name]["eval"])) for name in drawn]
