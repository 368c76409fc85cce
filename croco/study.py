"""Study: what was measured of every arm, and what was meant beforehand -> one page that says what the study shows.

    python -m croco study --outcomes DIR --plan FILE --out DIR

The plan names the arms, the claims that are to be decided and the settings that were used, before anything is run.
Statistics: croco.effects. Numbers: croco.page.study. As the report's, the page loads nothing and runs no script.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croco import dataset, languages, report
from croco.page import ledger, study, study_charts, wording
from croco.page.study import BASE, CLAIMED, SHARED
from croco.writer import Writer, plain

VERSION = 2
SOURCES = ("paper", "reference code", "ours", "assumed", "default")
"""Where a setting's value may come from; `assumed`: public text does not give it; `default`: the study left it as the
pipeline has it, whose documentation says where it comes from."""
AGREES = {"higher": "agrees", "lower": "disagrees", "no evidence": "cannot tell", "unknown": "cannot tell"}
"""What an interval says of a claim that one side is better."""
SHORT = {"higher": "higher", "lower": "lower", "no evidence": "no evidence", "unknown": "no interval"}
RANKED = {
    "higher": "ranks arms as the reward does",
    "lower": "ranks arms against the reward",
    "no evidence": "no evidence that the two go together",
    "unknown": "too few arms to tell",
}
"""What a rank correlation says."""
CORRELATION = (
    "Spearman's rank correlation is over arms, each the mean of its seeds: +1 where the reward orders the arms as the "
    "evaluation does. With few arms little can be said: of 4 even a perfect order is p = .08, of 5 only a perfect one "
    "is below .05, and up to 8 the p-value counts every order. Arms of one study share base, data and judge, so this "
    "is about these arms, not about others."
)
FIELDS = {
    "plan": ({"name", "arms"}, {"claims", "values"}),
    "arms": ({"name", "says", "seeds"}, {"languages"}),
    "claims": ({"name", "says", "better", "worse", "measure"}, {"languages"}),
    "values": ({"name", "value", "source"}, set()),
}
"""Keys of a plan and of its lists' items: those that it must have, those that it may."""


@dataclass(frozen=True)
class StudyConfig:
    """How intervals are drawn."""

    repetitions: int = 10_000
    """Bootstrap samples, 1,000 to 100,000 (ours)."""
    seed: int = 0
    """Of the samples (ours)."""

    def __post_init__(self) -> None:
        if not 1_000 <= self.repetitions <= 100_000:
            raise ValueError(f"repetitions: found {self.repetitions}; expected 1,000 to 100,000")


def run(
    *,
    outcomes: Path,
    plan: Path | dict,  # bare: the command line would ask for the items of a dict[str, Any]
    out: Path,
    store: str | None = None,
    config: StudyConfig = StudyConfig(),
) -> dataset.Manifest:
    """Write study.html, study.md and study.json.

    Args:
        outcomes: Dataset of what was measured of every arm.
        plan: JSON file of what was meant: name, arms, claims, values.
        out: Directory to write.
        store: Where finished work is kept and looked for: s3://bucket/prefix or a folder.
    """
    meant = read_plan(plan)
    writer = Writer(
        out, None, stage="study", version=VERSION, config=config, inputs=[outcomes], store=store, also=meant
    )
    if writer.done:
        return writer.done
    numbers = study.collect(outcomes, meant, repetitions=config.repetitions, seed=config.seed)
    for name, page in render(numbers).items():
        (Path(out) / name).write_text(page, encoding="utf-8")
        writer.attach(Path(out) / name)
    number = len(meant["arms"])
    return writer.finish([dataset.Count("arms", None, number, number)], metrics=headline(numbers))


def read_plan(plan: Path | Mapping[str, Any]) -> dict[str, Any]:
    """The plan, checked, with every key; whole numbers are whole however JSON wrote them.

    Raises: ValueError for what is missing, unknown, twice there or of another kind, naming where.
    """
    where = str(plan) if isinstance(plan, Path) else "plan"
    try:
        given = plain(json.loads(plan.read_text(encoding="utf-8")) if isinstance(plan, Path) else plan)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: found {error}; expected a JSON object") from error
    found = {"claims": [], "values": [], **_keys(given, "plan", where)}
    _text(found, "name", where)
    for name in ("arms", "claims", "values"):
        if not isinstance(found[name], list):
            raise ValueError(f"{where}: {name}: found {found[name]!r}; expected a list")
        places = [(f"{where}: {name}[{at}]", item) for at, item in enumerate(found[name])]
        optional = dict.fromkeys(FIELDS[name][1])
        found[name] = [optional | _keys(item, name, place) for place, item in places]
        for (place, _), item in zip(places, found[name], strict=True):
            {"arms": _arm, "claims": _claim, "values": _value}[name](item, place)
        names = Counter(item["name"] for item in found[name] if name != "values")  # an arm's may be a parameter's
        if twice := [one for one, number in names.items() if number > 1]:
            raise ValueError(f"{where}: {name}: found {twice[0]!r} twice; expected every name once")
    _sides(found, where)
    return found


def _keys(given: Any, kind: str, where: str) -> dict[str, Any]:
    needed, optional = FIELDS[kind]
    if not isinstance(given, dict):
        raise ValueError(f"{where}: found {given!r}; expected an object of {', '.join(sorted(needed))}")
    if unknown := sorted(given.keys() - needed - optional):
        raise ValueError(f"{where}: found key {unknown[0]!r}; expected one of {', '.join(sorted(needed | optional))}")
    if missing := sorted(needed - given.keys()):
        raise ValueError(f"{where}: found no {missing[0]!r}; expected {', '.join(sorted(needed))}")
    return given


def _text(item: Mapping[str, Any], name: str, where: str) -> None:
    if not isinstance(item[name], str) or not item[name].strip():
        raise ValueError(f"{where}: {name}: found {item[name]!r}; expected text")


def _codes(item: dict[str, Any], where: str) -> None:
    """Languages as a list, or None: an empty list states none."""
    codes = item["languages"] = None if item["languages"] == [] else item["languages"]
    if codes is not None and not isinstance(codes, list):
        raise ValueError(f"{where}: languages: found {codes!r}; expected a list of codes, or null")
    if codes is not None:
        try:
            languages.check(codes)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def _arm(arm: dict[str, Any], where: str) -> None:
    for name in ("name", "says"):
        _text(arm, name, where)
    if arm["name"] in (BASE, SHARED):
        raise ValueError(f"{where}: found {arm['name']!r}; expected another name: every study has that one by itself")
    seeds = arm["seeds"]
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int for seed in seeds):
        raise ValueError(f"{where}: seeds: found {seeds!r}; expected a list of one or more whole numbers")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{where}: seeds: found {seeds}; expected each once")
    _codes(arm, where)


def _claim(claim: dict[str, Any], where: str) -> None:
    for name in ("name", "says", "better", "worse", "measure"):
        _text(claim, name, where)
    if claim["measure"] not in CLAIMED:
        raise ValueError(f"{where}: measure: found {claim['measure']!r}; expected one of {', '.join(CLAIMED)}")
    if claim["better"] == claim["worse"]:
        raise ValueError(f"{where}: found {claim['better']!r} on both sides; expected two arms, or one and {BASE}")
    _codes(claim, where)


def _value(value: dict[str, Any], where: str) -> None:
    _text(value, "name", where)
    if not isinstance(value["value"], str):
        raise ValueError(f"{where}: value: found {value['value']!r}; expected text, empty where nothing is set")
    if value["source"] not in SOURCES:
        raise ValueError(f"{where}: source: found {value['source']!r}; expected one of {', '.join(SOURCES)}")


def _sides(plan: Mapping[str, Any], where: str) -> None:
    arms = [arm["name"] for arm in plan["arms"]]
    if not arms:
        raise ValueError(f"{where}: found no arm; expected one or more")
    for at, claim in enumerate(plan["claims"]):
        for side in ("better", "worse"):
            if claim[side] not in (BASE, *arms):
                text = (
                    f"{where}: claims[{at}]: {side}: found {claim[side]!r}; expected one of {', '.join(arms)}, {BASE}"
                )
                raise ValueError(text)


def headline(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers by which studies are compared: how many claims agree, disagree and cannot be told; by measure and
    arm the `difference` to the base over all languages and in how many languages it matches or exceeds the base."""
    said = Counter(AGREES[claim["verdict"]] for claim in numbers["claims"])
    found: dict[str, Any] = {
        "claims": {words.replace(" ", "_"): said[words] for words in dict.fromkeys(AGREES.values())}
    }
    for one in numbers["differences"]:
        cells = {row["arm"]: row["cells"][study.ALL] for row in one["rows"]}
        values = {arm: cell["value"] for arm, cell in cells.items() if cell and cell["value"] is not None}
        if values:
            found.setdefault("difference", {})[one["measure"]] = values
    for row in numbers["matches"]:
        found.setdefault("matches", {}).setdefault(row["measure"], {})[row["arm"]] = row["matches"]
    return found


def render(numbers: Mapping[str, Any]) -> dict[str, str]:
    """study.html, study.md and study.json by name. Every text goes through autoescape, in Markdown too."""
    environment = report.environment()
    filters = (
        wording.share, wording.signed, wording.number, wording.name, wording.visible, wording.between, wording.short,
        ledger.duration, ledger.size, ledger.tokens, study_charts.gain, study_charts.span,
    )  # fmt: skip
    environment.filters |= {function.__name__: function for function in filters}
    environment.filters |= {"plain": report.markdown, "amount": amount}
    environment.globals |= {"SYMBOLS": wording.SYMBOLS, "MEASURES": study.MEASURES, "AMOUNTS": study.AMOUNTS}
    environment.globals |= {"SHORT": SHORT, "AGREES": AGREES, "ALL": study.ALL, "counted": counted}
    environment.globals |= {"RANKED": RANKED, "CORRELATION": CORRELATION}
    shown = {"numbers": numbers, "codes": [study.ALL, *numbers["languages"]], "trained": trained(numbers["arms"])}
    return {
        "study.html": environment.get_template("study.html.j2").render(
            **shown, charts=study_charts.draw(dict(numbers))
        ),
        "study.md": environment.get_template("study.md.j2").render(**shown),
        "study.json": json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    }


def trained(arms: Sequence[Mapping[str, Any]]) -> dict[str, list[str] | None]:
    """Which languages each arm was trained in; None where the plan does not say."""
    return {arm["name"]: arm["languages"] for arm in arms}


def amount(row: Mapping[str, Any], name: str) -> str:
    """An amount of the ledger; a dash for one that was not counted."""
    if row[name] is None:
        return "–"
    return ledger.duration(row[name]) if name.endswith("seconds") else f"{row[name]:,.0f}"


def counted(claim: Mapping[str, Any]) -> str:
    """What a claim's difference was counted from."""
    of_questions = f"{claim['n']:,} items of {claim['clusters']:,} questions"
    number = f"{claim['n']:,} data sets" if claim["measure"] == "euroeval" else of_questions
    return f"{number}; {claim['seeds'][0]} against {claim['seeds'][1]} seeds"
