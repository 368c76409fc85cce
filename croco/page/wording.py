"""Wording: numbers -> words, and never more than their intervals allow.

A sentence calls something a change only where its 95 % interval excludes none; otherwise it says that there is no
evidence, which is not the same as no change.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from croco import languages
from croco.evidence import HIGHER, LOWER, NO_EVIDENCE, UNKNOWN
from croco.page.distributions import ALL

MIXED, FACT, MISSING = "mixed", "fact", "missing"
SYMBOLS = {HIGHER: "▲", LOWER: "▼", NO_EVIDENCE: "≈", UNKNOWN: "?", MIXED: "◆", FACT: "•", MISSING: "–"}
CHANGE = {HIGHER: "higher", LOWER: "lower", NO_EVIDENCE: "no evidence of a change", UNKNOWN: "no interval"}
PARITY = {HIGHER: "above parity", LOWER: "below parity", NO_EVIDENCE: "no evidence either way", UNKNOWN: "no interval"}

SECTIONS = {
    "benchmarks": "EuroEval",
    "win_rates": "Win rates",
    "answers": "Language fidelity of answers",
    "translations": "Language fidelity of translations",
    "samples": "Language fidelity of samples",
    "rewards": "Rewards",
    "pairs": "Pairs",
    "training": "Training",
}

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)
"""All but tab and line feed; the joiners U+200C and U+200D stay, as scripts and emoji need them."""

Statement = dict[str, str]
Rows = Sequence[dict[str, Any]]


def summarize(numbers: dict[str, Any]) -> list[Statement]:
    """What the numbers allow to say: {section, heading, verdict, text} each; last, what was not part of the run."""
    write: dict[str, Callable[[Any], tuple[str, str]]] = {
        "benchmarks": _benchmarks,
        "win_rates": _win_rates,
        "answers": _answers,
        "pairs": _pairs,
        "training": _training,
    }
    found = [
        (section, SECTIONS[section], *words(numbers[section])) for section, words in write.items() if numbers[section]
    ]
    if absent := [name for section, name in SECTIONS.items() if not numbers[section]]:
        found.append((MISSING, "Not part of this run", MISSING, f"{', '.join(absent)}."))
    return [
        {"section": section, "heading": heading, "verdict": verdict, "text": _unbroken(text)}
        for section, heading, verdict, text in found
    ]


def _unbroken(text: str) -> str:
    """No line ends between a number and its percent sign, or within `n = 5`."""
    return text.replace(" %", "\u00a0%").replace("n = ", "n\u00a0=\u00a0")


def _benchmarks(rows: Rows) -> tuple[str, str]:
    compared = [row for row in rows if row["verdict"]]
    if not compared:
        return FACT, f"{len(rows)} scores of one model; nothing to compare them with."
    count = Counter(row["verdict"] for row in compared)
    text = (
        f"Of {len(compared)} scores, {count[HIGHER]} higher and {count[LOWER]} lower after tuning, beyond "
        f"their 95 % intervals; no evidence of a change in {count[NO_EVIDENCE]}"
    )
    text += f"; no interval for {count[UNKNOWN]}." if count[UNKNOWN] else "."
    for verdict in (HIGHER, LOWER):
        where = Counter(row["language"] for row in compared if row["verdict"] == verdict)
        if where:
            text += (
                f" {CHANGE[verdict].capitalize()}: {', '.join(f'{n} in {code}' for code, n in sorted(where.items()))}."
            )
    return overall(count), text


def _win_rates(found: dict[str, Any]) -> tuple[str, str]:
    rows = found["languages"]
    total = rows[-1]
    place = "all languages" if total["language"] == ALL else name(total["language"])
    where = f"{found['model']} against {found['reference']}, {place}"
    text = (
        f"{where}: {share(total['win_rate'])} ({between(total['interval_95'])}, n = {total['questions']:,} "
        f"questions): {PARITY[total['verdict']]}."
    )
    verdict = overall(row["verdict"] for row in rows)
    if total.get("length_controlled") is not None:
        verdict = verdict if total["lc_verdict"] == total["verdict"] else MIXED
        text += (
            f" With answer length accounted for: {share(total['length_controlled'])} "
            f"({between(total['lc_interval_95'])}): {PARITY[total['lc_verdict']]}."
        )
    return verdict, text + _where(rows, PARITY)


def _answers(found: dict[str, Any]) -> tuple[str, str]:
    total = found["languages"][-1]
    if not total["change"]:
        side = "base" if total["base"] else "tuned"
        one = total[side]
        text = f"{side.capitalize()} model only: {share(one['value'])} ({interval(one)})."
        return FACT, text
    change = total["change"]
    text = (
        f"{share(total['base']['value'])} before, {share(total['tuned']['value'])} "
        f"after; {signed(100 * change['value'])} points ({interval(change, points=True)}): {CHANGE[total['verdict']]}."
    )
    return overall(row["verdict"] for row in found["languages"]), text + _where(found["languages"], CHANGE)


def _pairs(found: dict[str, Any]) -> tuple[str, str]:
    total = found["margins"][-1]
    text = f"{total['n']:,} pairs, chosen above rejected by {total['value']:.2f} on average"
    if total["low"] is not None:
        text += f" (95 % interval {total['low']:.2f} to {total['high']:.2f})"
    return FACT, text + " units of reward: an opinion of the reward model, not yet quality."


def _training(found: dict[str, Any]) -> tuple[str, str]:
    method = f" by {found['method'].upper()}" if found["method"] else ""
    losses: list[Any] = next((curve["train"] for curve in found["curves"] if curve["metric"] == "loss"), [])
    last = f", last logged loss {losses[-1][1]:.4g}" if losses and losses[-1][1] is not None else ""
    return FACT, f"{found['steps']:,} steps{method}{last}."


def overall(verdicts: Iterable[str]) -> str:
    """One verdict for several: MIXED where some are HIGHER and some LOWER, else the strongest."""
    seen = set(verdicts)
    if {HIGHER, LOWER} <= seen:
        return MIXED
    return next((verdict for verdict in (HIGHER, LOWER, NO_EVIDENCE) if verdict in seen), UNKNOWN)


def _where(rows: Rows, words: dict[str, str]) -> str:
    """` By language: higher in da; no evidence of a change in de, fr.`; nothing where there is one language."""
    parts = []
    for verdict, said in words.items():
        if codes := [row["language"] for row in rows if row["verdict"] == verdict and row["language"] != ALL]:
            parts.append(f"{said} in {', '.join(codes)}")
    return f" By language: {'; '.join(parts)}." if len(rows) > 1 else ""


# Numbers as text


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
    """With a true minus."""
    return "not measured" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def between(bounds: Sequence[float | None] | None, *, points: bool = False) -> str:
    """The 95 % interval of a share, or with `points` of a difference of shares."""
    low, high = bounds or (None, None)
    if low is None or high is None:
        return "no interval"
    if points:
        return f"95 % interval {signed(100 * low)} to {signed(100 * high)}"
    return f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"


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
