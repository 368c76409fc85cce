"""Summary: a report's numbers -> a few sentences on top, no stronger than the intervals.

A sentence calls something a change only where its 95 % interval excludes none, and a win rate of a language among
several only where Holm's correction does too; otherwise it says that there is no evidence, which is not the same as no
change.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from croco.evidence import HIGHER, LOWER, NO_EVIDENCE, UNKNOWN
from croco.likeness import PASS
from croco.page.distributions import ALL
from croco.page.wording import (
    CHANGE,
    FACT,
    MISSING,
    MIXED,
    PARITY,
    PROMOTED,
    REFUSED,
    between,
    change,
    interval,
    marked,
    name,
    share,
    signed,
)

METHODS = {"dpo": "DPO", "sft": "SFT", "online": "online DPO"}
SECTIONS = {
    "promotion": "Promotion",
    "benchmarks": "EuroEval",
    "win_rates": "Win rates",
    "answers": "Language fidelity of answers",
    "translations": "Language fidelity of translations",
    "samples": "Language fidelity of samples",
    "rewards": "Rewards",
    "pairs": "Pairs",
    "training": "Training",
}

Statement = dict[str, str]
Rows = Sequence[dict[str, Any]]


def summarize(numbers: dict[str, Any]) -> list[Statement]:
    """What the numbers allow to say: {section, heading, verdict, text} each; last, what was not part of the run."""
    write: dict[str, Callable[[dict[str, Any]], tuple[str, str]]] = {
        "promotion": _promotion,
        "benchmarks": _benchmarks,
        "win_rates": _win_rates,
        "answers": _answers,
        "pairs": _pairs,
        "training": _training,
    }
    found = [(section, SECTIONS[section], *words(numbers)) for section, words in write.items() if numbers[section]]
    if absent := [heading for section, heading in SECTIONS.items() if not numbers[section]]:
        found.append((MISSING, "Not part of this run", MISSING, f"{', '.join(absent)}."))
    return [
        {"section": section, "heading": heading, "verdict": verdict, "text": _unbroken(text)}
        for section, heading, verdict, text in found
    ]


def _unbroken(text: str) -> str:
    """No line ends between a number and its percent sign, or within `n = 5`."""
    return text.replace(" %", "\u00a0%").replace("n = ", "n\u00a0=\u00a0")


def _promotion(numbers: dict[str, Any]) -> tuple[str, str]:
    found = numbers["promotion"]
    checks, reasons = len(found["checks"]), found["reasons"]
    against = f"its base and {found['name']} {found['last']}" if found["last"] else "its base"
    if found["promote"]:
        return PROMOTED, f"Promoted: the tuned model passed all {checks} checks against {against}."
    failed: dict[str, list[str]] = {}
    for check in found["checks"]:
        if check["verdict"] != PASS:
            failed.setdefault(check["name"], []).extend([name(check["language"])] if check["language"] else [])
    where = "; ".join(f"{what} in {', '.join(codes)}" if codes else what for what, codes in failed.items())
    passed = f"{checks - len(reasons)} of {checks} checks against {against} passed"
    return REFUSED, f"Not promoted: {passed}, and not {where}."


def _benchmarks(numbers: dict[str, Any]) -> tuple[str, str]:
    scores, means = numbers["benchmarks"], numbers["benchmark_languages"]
    if not means:
        return FACT, f"{len(scores)} scores of one model; nothing to compare them with."
    total = means[-1]
    text = (
        f"The mean of {total['n']} data sets changed by {signed(total['value'], 2)} points "
        f"({change(total)}){_said(total['verdict'])}.{_where(means, CHANGE)}"
    )
    told = [row for row in scores if row["low"] is not None]
    count = Counter(row["verdict"] for row in told)
    chance = f"about {round(0.05 * len(told))}" if len(told) >= 20 else "fewer than one"
    if len(told) > 1:
        text += (
            f" Each by itself, of {len(told)} scores with an interval {count[HIGHER]} are higher and {count[LOWER]} "
            f"lower; {chance} would be either had nothing changed."
        )
    return overall(row["verdict"] for row in means), text


def _said(verdict: str) -> str:
    return "" if verdict == UNKNOWN else f": {CHANGE[verdict]}"


def _win_rates(numbers: dict[str, Any]) -> tuple[str, str]:
    found = numbers["win_rates"]
    if not found["languages"]:
        return UNKNOWN, "No question was judged."
    rows = [row | {"verdict": marked(row)} for row in found["languages"]]
    total = rows[-1]
    place = "all languages" if total["language"] == ALL else name(total["language"])
    text = (
        f"{found['model']} against {found['reference']}, {place}: {share(total['win_rate'])} "
        f"({between(total['interval_95'])}, n = {total['questions']:,} questions): {PARITY[total['verdict']]}."
    )
    seen = {overall(row["verdict"] for row in rows)}
    for rate, prefix, words in (
        ("length_controlled", "lc_", "With answer length accounted for as the paper's code does"),
        ("alpaca_length_controlled", "alpaca_", "As AlpacaEval 2 does, without its difficulty term"),
    ):
        if total[rate] is not None:
            verdict = marked(total, prefix)
            said = f"{share(total[rate])} ({between(total.get(f'{prefix}interval_95'))}): {PARITY[verdict]}"
            text += f" {words}: {said}."
            seen |= {MIXED} if verdict != total["verdict"] else set()
    text += _where(rows, PARITY, "By language, corrected for their number" if len(rows) > 2 else "By language")
    if consistent := found["judging"][-1]["consistent"]:
        text += f" On {share(consistent['value'])} of the questions ({interval(consistent)}) both orders agree."
    return MIXED if MIXED in seen else seen.pop(), text


def _answers(numbers: dict[str, Any]) -> tuple[str, str]:
    rows = numbers["answers"]["languages"]
    total = rows[-1]
    if not total["change"]:
        side = "base" if total["base"] else "tuned"
        one = total[side]
        return FACT, f"{side.capitalize()} model only: {share(one['value'])} ({interval(one)})."
    text = (
        f"{share(total['base']['value'])} before, {share(total['tuned']['value'])} after; "
        f"{signed(100 * total['change']['value'])} points ({interval(total['change'], points=True)}): "
        f"{CHANGE[total['verdict']]}."
    )
    return overall(row["verdict"] for row in rows), text + _where(rows, CHANGE)


def _pairs(numbers: dict[str, Any]) -> tuple[str, str]:
    total = numbers["pairs"]["margins"][-1]
    pairs = f"{total['n']:,} {'pair' if total['n'] == 1 else 'pairs'}"
    text = f"{pairs}, chosen above rejected by {total['value']:.2f} on average"
    if total["low"] is not None:
        text += f" (95 % interval {total['low']:z.2f} to {total['high']:z.2f})"
    return FACT, text + " units of reward: an opinion of the reward model, not yet quality."


def _training(numbers: dict[str, Any]) -> tuple[str, str]:
    found = numbers["training"]
    method = f" by {METHODS[found['method']]}" if found["method"] else ""
    losses: list[Any] = next((curve["train"] for curve in found["curves"] if curve["metric"] == "loss"), [])
    last = f", last logged loss {losses[-1][1]:.4g}" if losses and losses[-1][1] is not None else ""
    return FACT, f"{found['steps']:,} steps{method}{last}."


def overall(verdicts: Iterable[str]) -> str:
    """One verdict for several: MIXED where some are HIGHER and some LOWER, else the strongest."""
    seen = set(verdicts)
    if {HIGHER, LOWER} <= seen:
        return MIXED
    return next((verdict for verdict in (HIGHER, LOWER, NO_EVIDENCE) if verdict in seen), UNKNOWN)


def _where(rows: Rows, words: dict[str, str], lead: str = "By language") -> str:
    """` By language: higher in Danish; no evidence of a change in German.`; nothing where there is one language."""
    parts = []
    for verdict, said in words.items():
        if codes := [name(row["language"]) for row in rows if row["verdict"] == verdict and row["language"] != ALL]:
            parts.append(f"{said} in {', '.join(codes)}")
    return f" {lead}: {'; '.join(parts)}." if len(rows) > 1 else ""
