"""Study charts: the study's numbers -> inline SVG: intervals of the arms, and reward against evaluation."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from croco.page import plots, wording
from croco.page.charts import Chart
from croco.page.distributions import ALL
from croco.page.plots import LEFT, RIGHT, WIDTH, Mark
from croco.page.study import MEASURES

Point = tuple[str, float, float, str, str]
"""Series, x, y, label beside it, and what it says in words."""


def draw(numbers: dict[str, Any]) -> dict[str, list[Chart]]:
    """Charts by section."""
    rewards = numbers["rewards"]
    order = {arm["name"]: arm["number"] for arm in numbers["arms"]}
    names = rewards["measures"][1:] if rewards else []
    return {
        "differences": [chart for one in numbers["differences"] for chart in _differences(one)],
        "rewards": [chart for name in names for chart in _rewards(name, rewards, order)],
    }


def gain(value: float, measure: str) -> str:
    """A difference as its measure is shown: shares in percentage points."""
    how = MEASURES[measure]
    return wording.signed(how.scale * value, how.digits)


def span(row: dict[str, Any], measure: str) -> str:
    """The 95 % interval of a difference."""
    return "no interval" if row["low"] is None else f"{gain(row['low'], measure)} to {gain(row['high'], measure)}"


def _differences(one: dict[str, Any]) -> list[Chart]:
    """Each arm's difference to the base over all languages."""
    name, scale = one["measure"], one["scale"]
    cells = [(row["arm"], row["cells"][ALL]) for row in one["rows"]]
    lines = []
    for arm, cell in cells:
        if cell and cell["value"] is not None:
            low, high = (None if cell[end] is None else scale * cell[end] for end in ("low", "high"))
            said = f"{gain(cell['value'], name)} (95 % interval {span(cell, name)}, n = {cell['n']:,})"
            words = f"{gain(cell['value'], name)} {wording.SYMBOLS[cell['verdict']]}"
            lines.append((wording.visible(arm), words, [Mark("second", scale * cell["value"], low, high, said)]))
    marks = [mark for *_, found in lines for mark in found]
    reach = max([abs(end) for mark in marks for end in (mark.value, mark.low, mark.high) if end is not None], default=0)
    title = f"{one['label']}, {one['unit']}, all languages"
    reach = reach * 1.05 or 1.0
    return [(title, plots.intervals(title, lines, low=-reach, high=reach, parity=0))] if lines else []


def _rewards(name: str, rewards: dict[str, Any], order: dict[str, int]) -> list[Chart]:
    """The change of the reward (across) and of an evaluation (up): a circle a run, a diamond an arm."""
    scale = MEASURES[name].scale
    points: list[Point] = []
    for series, rows in (("first", rewards["runs"]), ("second", rewards["arms"])):
        for row in (row for row in rows if None not in (row["reward"], row[name])):
            who = wording.visible(row["arm"]) + (f", seed {row['seed']}" if series == "first" else "")
            said = f"{who}: reward {gain(row['reward'], 'reward')}, {MEASURES[name].label} {gain(row[name], name)}"
            label = str(order[row["arm"]]) if series == "second" else ""
            points.append((series, row["reward"], scale * row[name], label, said))
    title = f"{MEASURES[name].label} ({MEASURES[name].unit}) by change of reward"
    return [(title, scatter(title, points))] if points else []


def scatter(title: str, points: Sequence[Point]) -> Markup:
    """Points with their series, the second's labels beside them, and dotted lines where nothing changed."""
    height, base = 220, 194
    x = _axis([0.0, *(point[1] for point in points)], LEFT, WIDTH - RIGHT - 14)
    y = _axis([0.0, *(point[2] for point in points)], base, 10)
    parts = [plots._ticks_below(x, base, height)]
    for tick in plots.ticks(y.low, y.high, 4):
        parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, y(tick), WIDTH - RIGHT))
        parts.append(plots._text(LEFT - 5, y(tick) + 4, f"{tick:g}".replace("-", "−"), "tick e"))
    parts.append(Markup('<path class="parity" d="M{:.1f} 10V{}"/>').format(x(0), base))
    parts.append(Markup('<path class="parity" d="M{} {:.1f}H{}"/>').format(LEFT, y(0), WIDTH - RIGHT))
    for series, right, top, label, said in points:
        parts.append(Markup("<g><title>{}</title>{}").format(said, plots._mark(series, x(right), y(top))))
        parts += [plots._text(x(right) + 7, y(top) + 4, label), Markup("</g>")]
    arms = "; ".join(said for series, *_, said in points if series == "second")
    return plots._svg("scatter", title, f"A point an arm. {arms}", height, parts)


def _axis(values: Sequence[float], start: float, end: float) -> plots._Scale:
    """An axis that holds `values` with room around them."""
    pad = (max(values) - min(values)) * 0.08 or 1.0
    return plots._Scale(min(values) - pad, max(values) + pad, start, end)
