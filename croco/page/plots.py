"""Plots: numbers -> small inline SVG charts that follow the page's light or dark colours.

Hand-written rather than matplotlib's: a chart is 2 to 6 kB, takes its colours from CSS variables, is 340 units wide so
that its 12-unit text stays readable on a phone, and names itself (<title>, <desc>) to those who do not see it. Series
differ in shape (hollow circle, filled diamond, hollow square; solid and dashed line), never in colour alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 340
LEFT, RIGHT = 46, 8
POINTS = 300
"""A line with more points is drawn as that many means of neighbours."""


@dataclass(frozen=True)
class Mark:
    """A value with its interval, as series `first`, `second` or `third`; `text` says it in words."""

    series: str
    value: float
    low: float | None
    high: float | None
    text: str


def histogram(
    title: str,
    edges: Sequence[float],
    filled: Sequence[int] | None,
    first: Sequence[int] | None = None,
    second: Sequence[int] | None = None,
    *,
    of: str,
) -> Markup:
    """Shares of three counts over the same `edges`: one filled, two as outlines; `of` says what is counted."""
    height, base, x = 150, 124, _Scale(edges[0], edges[-1], 8, WIDTH - RIGHT)
    shares = [[count / sum(counts) for count in counts] if counts and sum(counts) else None
              for counts in (filled, first, second)]  # fmt: skip
    highest = max((max(share) for share in shares if share), default=1.0)
    y = _Scale(0, highest, base, 20)
    grid = Markup('<path class="grid" d="M8 20H{}"/>').format(WIDTH - RIGHT)
    parts = [grid, _ticks_below(x, base, height), _text(8, 14, f"{100 * highest:.0f} % of {of}", "s")]
    for name, share in zip(("area", "first", "second"), shares, strict=True):
        if share:
            steps = [f"{x(a):.1f},{y(s):.1f} {x(b):.1f},{y(s):.1f}"
                     for a, b, s in zip(edges, edges[1:], share, strict=False)]  # fmt: skip
            outline = f"{x(edges[0]):.1f},{base} {' '.join(steps)} {x(edges[-1]):.1f},{base}"
            parts.append(Markup('<polyline class="{}" points="{}"/>').format(name, outline))
    return _svg(
        "histogram",
        title,
        f"Histogram, {len(edges) - 1} bins from {edges[0]:.3g} to {edges[-1]:.3g}",
        height,
        parts,
    )


def lines(title: str, first: Sequence[tuple[int, float | None]], second: Sequence[tuple[int, float | None]]) -> Markup:
    """One metric over the steps of training (`first`, solid) and on held-out rows (`second`, dashed with diamonds)."""
    height, base = 150, 124
    curves = [_thin([(s, v) for s, v in curve if v is not None]) for curve in (first, second)]
    points = [point for curve in curves for point in curve]
    if not points:
        return _svg("lines", title, "No finite value", 30, [_text(8, 18, "no finite value")])
    low, high = min(v for _, v in points), max(v for _, v in points)
    pad = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    x = _Scale(min(s for s, _ in points), max(s for s, _ in points), LEFT, WIDTH - RIGHT)
    y = _Scale(low - pad, high + pad, base, 10)
    parts = [_ticks_below(x, base, height)]
    for tick in ticks(y.low, y.high, 4):
        parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, y(tick), WIDTH - RIGHT))
        parts.append(_text(LEFT - 5, y(tick) + 4, f"{tick:g}".replace("-", "−"), "tick e"))
    for name, curve in zip(("first", "second"), curves, strict=True):
        path = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in curve)
        parts.append(Markup('<polyline class="{}" points="{}"/>').format(name, path))
        parts += [_mark(name, x(s), y(v)) for s, v in curve if name == "second" or len(curve) == 1]
    return _svg("lines", title, f"From {points[0][1]:.4g} at step {points[0][0]}; {len(points)} points", height, parts)


def intervals(
    title: str,
    rows: Sequence[tuple[str, str, Sequence[Mark]]],
    *,
    low: float,
    high: float,
    parity: float | None = None,
    unit: str = "",
) -> Markup:
    """A row each of (label, value in words, marks with their intervals) on one axis from `low` to `high`."""
    most = max((len(marks) for _, _, marks in rows), default=1)
    row = 22 + 10 * most if most > 1 else 34
    height, x = row * len(rows) + 26, _Scale(low, high, 12, WIDTH - 12)
    base = height - 22
    parts = [_ticks_below(x, base, height, unit)]
    if parity is not None:
        parts.append(Markup('<path class="parity" d="M{:.1f} 0V{}"/>').format(x(parity), base))
    for number, (label, words, marks) in enumerate(rows):
        top = number * row
        parts += [_text(0, top + 13, _short(label, words)), _text(WIDTH, top + 13, words, "e b")]
        for place, mark in enumerate(marks):
            at = top + (24 if len(marks) == 1 else 22 + 10 * place)
            parts.append(Markup("<g><title>{}</title>").format(f"{label}: {mark.text}"))
            if mark.low is not None and mark.high is not None:
                ends = (x(max(mark.low, low)), at, x(min(mark.high, high)))
                parts.append(Markup('<path class="bar {}" d="M{:.1f} {}H{:.1f}"/>').format(mark.series, *ends))
            parts += [_mark(mark.series, x(mark.value), at), Markup("</g>")]
    spoken = "; ".join(f"{label} {words}" for label, words, _ in rows)
    return _svg("intervals", title, f"Dots with 95 % intervals. {spoken}", height, parts)


def bars(title: str, rows: Sequence[tuple[str, str, Sequence[tuple[str, float]]]]) -> Markup:
    """A row each of (label, value in words, bars): bars of (series, share of the full width), one below the other."""
    thick = max((len(drawn) for _, _, drawn in rows), default=1)
    step, parts = 20 + 11 * thick + 6, []
    for number, (label, words, drawn) in enumerate(rows):
        top = number * step
        parts += [_text(0, top + 13, _short(label, words)), _text(WIDTH, top + 13, words, "e b")]
        for place, (series, share) in enumerate(drawn):
            at = top + 19 + 11 * place
            parts.append(Markup('<rect class="track" x="0.5" y="{}" width="{}" height="8"/>').format(at, WIDTH - 1))
            wide = share * (WIDTH - 1)
            parts.append(Markup('<rect class="fill {}" x="0.5" y="{}" width="{:.1f}" height="8"/>').format(
                series, at, wide))  # fmt: skip
    spoken = "; ".join(f"{label}: {words}" for label, words, _ in rows)
    return _svg("bars", title, f"Bars. {spoken}", step * len(rows), parts)


def ticks(low: float, high: float, number: int = 5) -> list[float]:
    """About `number` round values in [low, high]."""
    raw = (high - low) / number
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * unit for unit in (1, 2, 2.5, 5, 10) if power * unit >= raw * 0.999)
    return [round(index * step, 12) for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


class _Scale:
    """Maps low..high to start..end."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = (low, high) if high > low else (low - 0.5, low + 0.5)
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _ticks_below(x: _Scale, base: float, height: int, unit: str = "") -> Markup:
    drawn = [Markup('<path class="axis" d="M{:.1f} {}H{:.1f}"/>').format(x.start, base, x.end)]
    for tick in ticks(x.low, x.high, 5):
        drawn.append(Markup('<path class="axis" d="M{:.1f} {}v4"/>').format(x(tick), base))
        name = f"{tick:g}{unit}".replace("-", "−")
        drawn.append(_text(min(max(x(tick), 3.5 * len(name)), WIDTH - 3.5 * len(name)), height - 4, name, "tick m"))
    return Markup("").join(drawn)


def _mark(series: str, x: float, y: float) -> Markup:
    if series == "first":
        return Markup('<circle class="dot first" cx="{:.1f}" cy="{:.1f}" r="3.6"/>').format(x, y)
    if series == "third":
        return Markup('<path class="dot third" d="M{:.1f} {:.1f}h6.4v6.4h-6.4z"/>').format(x - 3.2, y - 3.2)
    return Markup('<path class="dot second" d="M{:.1f} {:.1f}l4.6 4.6l-4.6 4.6l-4.6-4.6z"/>').format(x, y - 4.6)


def _text(x: float, y: float, text: str, kind: str = "") -> Markup:
    """`kind`: e ends at x, m is centred on it; b bold, s and tick small."""
    return Markup('<text x="{:.0f}" y="{:.0f}" class="{}">{}</text>').format(x, y, kind, text)


def _short(label: str, beside: str) -> str:
    """`label`, cut to the room (about 52 characters a row) that `beside` leaves."""
    room = max(50 - len(beside), 10)
    return label if len(label) <= room else label[: room - 1] + "…"


def _thin(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    size = math.ceil(len(curve) / POINTS) or 1
    groups = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [(group[-1][0], sum(v for _, v in group) / len(group)) for group in groups]


def _svg(kind: str, title: str, description: str, height: int, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img"><title>{}</title><desc>{}</desc>{}</svg>').format(
        kind, WIDTH, height, title, description, Markup("").join(parts)
    )
