"""Wording: numbers, verdicts and names -> words, the same on the page, in Markdown and in the summary."""

import re
from collections.abc import Sequence
from typing import Any

from croco import languages, winrate
from croco.evidence import HIGHER, LOWER, NO_EVIDENCE, UNKNOWN
from croco.likeness import PASS, REFUSE
from croco.likeness import UNKNOWN as CANNOT_TELL
from croco.page.distributions import ALL

MIXED, FACT, MISSING, PROMOTED, REFUSED = "mixed", "fact", "missing", "promoted", "refused"
SYMBOLS = {
    HIGHER: "▲", LOWER: "▼", NO_EVIDENCE: "≈", UNKNOWN: "?", MIXED: "◆", FACT: "•", MISSING: "–",
    PROMOTED: "✓", REFUSED: "✕",
}  # fmt: skip
CHANGE = {HIGHER: "higher", LOWER: "lower", NO_EVIDENCE: "no evidence of a change", UNKNOWN: "no interval"}
PARITY = {HIGHER: "above parity", LOWER: "below parity", NO_EVIDENCE: "no evidence either way", UNKNOWN: "no interval"}
CHECKED = {PASS: "✓ passed", REFUSE: "✕ refused", CANNOT_TELL: "? cannot tell"}
"""Outcome of a check of `promote`."""
_RATES = {
    "win_rate": ("Win rate", "wins and half of the ties, as they were judged"),
    "length_controlled": (
        "Length-controlled (reference code)",
        "the two-parameter fit of the paper's released code: the win rate at equal length",
    ),
    "alpaca_length_controlled": (
        "Length-controlled (AlpacaEval 2)",
        "AlpacaEval 2's fit, without the difficulties that only its own instructions have",
    ),
}
RATES = {rate: (prefix, *_RATES[rate]) for rate, prefix in winrate.RATES.items()}
"""Each rate of `arena`: how the names of what belongs to it begin, its own name, and what it is."""

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)
"""All but tab and line feed; the joiners U+200C and U+200D stay, as scripts and emoji need them."""


def share(value: float | None) -> str:
    """A share in [0, 1] as a percentage; never rounded to a whole that it is not."""
    if value is None:
        return "not measured"
    if 0.9995 <= value < 1 or 0 < value < 0.0005:
        return "> 99.9 %" if value > 0.5 else "< 0.1 %"
    return f"{100 * value:.1f} %"


def signed(value: float, digits: int = 1) -> str:
    """With + or a true minus; a zero has no sign."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text[1:] if not float(f"{value:.{digits}f}") else text


def number(value: float | None, digits: int = 2) -> str:
    """With a true minus; a zero has no sign."""
    return "not measured" if value is None else f"{value:z,.{digits}f}".replace("-", "−")


def between(bounds: Sequence[float | None] | None, *, points: bool = False) -> str:
    """The 95 % interval of a share, or with `points` of a difference of shares."""
    low, high = bounds or (None, None)
    if low is None or high is None:
        return "no interval"
    if points:
        return f"95 % interval {signed(100 * low)} to {signed(100 * high)}"
    return f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"


def change(row: dict[str, Any]) -> str:
    """The 95 % interval of a change in points of a score."""
    return "no interval" if row["low"] is None else f"95 % interval {signed(row['low'], 2)} to {signed(row['high'], 2)}"


def marked(row: dict[str, Any], prefix: str = "") -> str:
    """What a win rate shows against parity: its interval, and Holm's correction too where it is one of several."""
    alone, together = row[f"{prefix}verdict"], row.get(f"{prefix}verdict_holm")
    return alone if together in (None, alone) or alone == UNKNOWN else NO_EVIDENCE


def short(words: str) -> str:
    """`between` under a heading that already says what it is."""
    return words.removeprefix("95 % interval ")


def interval(estimate: dict[str, Any], *, points: bool = False) -> str:
    """The interval and n of an estimate of a share."""
    return f"{between((estimate['low'], estimate['high']), points=points)}, n = {estimate['n']:,}"


def visible(text: str) -> str:
    """`text` with what nobody would see, or what would turn the text around it, spelled out."""
    return _INVISIBLE.sub(lambda found: f"⟨U+{ord(found.group()):04X}⟩", text.replace("\r\n", "\n"))


def name(code: str) -> str:
    """A language's English name; the code itself where the project does not know it."""
    if code == ALL:
        return "All languages"
    return languages.LANGUAGES[code].name if code in languages.LANGUAGES else code


def step(row: dict[str, Any]) -> str:
    """The stage of a row of the flow or the ledger, with the model it was about where there are two: answer, base."""
    return ", ".join([row["stage"], *row["input"].split(", ")[1:]])
