"""Calibration: how fast a run's amounts grow, from the ledgers of runs that were, as a small JSON file.

python -m pipelines plan --calibrate report.json [another/report.json ...] --out calibration.json
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from pipelines.workload import GROWS, Shares

AMOUNTS = ("seconds", "tokens_in", "tokens_out", "read", "put")
MEASURED, RECKONED = "measured", "reckoned"
LEDGER = {"read": "bytes_read", "put": "bytes_written"}
"""Amount -> the ledger's word, where it has another."""
SIDES = {"benchmark": "benchmarks", "answer": "answers"}
"""Stage that a run has twice -> its input's name in a report."""


class Line(NamedTuple):
    """An amount: `each` for a unit of work, and `fixed` once: for each pod where it is seconds, else for each stage."""

    fixed: float = 0.0
    each: float = 0.0

    def at(self, work: float, times: int = 1) -> float:
        return self.fixed * times + self.each * work


NOTHING = Line()


@dataclass(frozen=True)
class Rates:
    """How one stage's amounts grow."""

    seconds: Line
    """Of a pod with `gpus` GPUs; `fixed` is its engine's start and all else that no language accounts for."""
    tokens_in: Line = NOTHING
    tokens_out: Line = NOTHING
    read: Line = NOTHING
    """Bytes of inputs and of the store; without models."""
    put: Line = NOTHING
    """Bytes of output: as an artifact of Kubeflow's, and in the store."""
    removed: Line = NOTHING
    """Of those, bytes that are removed again: checkpoints, where they are known."""
    gpus: float = 0.0
    """That a pod holds; 0 on CPUs."""
    basis: str = MEASURED
    """`measured`, or `reckoned` by arithmetic."""

    def __post_init__(self) -> None:
        if self.basis not in (MEASURED, RECKONED):
            raise ValueError(f"basis: found {self.basis!r}; expected {MEASURED} or {RECKONED}")
        for name in (*AMOUNTS, "removed", "gpus"):
            value = getattr(self, name)
            numbers = value if isinstance(value, Line) else [value]
            if not all(_number(number) for number in numbers):
                raise ValueError(f"{name}: found {value}; expected finite numbers from 0 on")


@dataclass(frozen=True)
class Calibration:
    """What a plan is reckoned from."""

    stages: Mapping[str, Rates]
    shares: Shares = field(default_factory=Shares)
    about: Sequence[str] = field(default_factory=tuple)
    """What it was made from, and what it assumes, in words."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def load(paths: Sequence[Path]) -> Calibration:
    """From one file that `to_json` wrote, or from the report.json of one or more runs.

    Raises: FileNotFoundError; ValueError naming file and key.
    """
    contents = [_read(path) for path in paths]
    if len(contents) == 1 and "ledger" not in contents[0]:
        return _parse(paths[0], contents[0])
    if other := next((path for path, found in zip(paths, contents, strict=True) if "ledger" not in found), None):
        raise ValueError(f"{other}: found no ledger; expected report.json files, or one calibration alone")
    return measure({str(path): report for path, report in zip(paths, contents, strict=True)})


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: found no file; expected a calibration, or the report.json of a run")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: found no JSON ({error}); expected a calibration, or a report.json") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found a {type(content).__name__}; expected a calibration, or a report.json")
    return content


def _parse(path: Path, content: Mapping[str, Any]) -> Calibration:
    """Raises: ValueError naming file and key."""
    _keys(str(path), content, [field.name for field in fields(Calibration)])
    _keys(f"{path}: shares", content["shares"], [field.name for field in fields(Shares)])
    _keys(f"{path}: stages", content["stages"], GROWS, all_of_them=False)
    if bad := next((name for name, value in content["shares"].items() if not _number(value)), None):
        raise ValueError(f"{path}: shares.{bad}: found {content['shares'][bad]!r}; expected a number from 0 on")
    stages = {}
    for stage, rates in content["stages"].items():
        where = f"{path}: stages.{stage}"
        _keys(where, rates, [field.name for field in fields(Rates)])
        lines = {name: _line(f"{where}.{name}", rates[name]) for name in (*AMOUNTS, "removed")}
        try:
            stages[stage] = Rates(**{**rates, **lines})
        except ValueError as error:
            raise ValueError(f"{where}.{error}") from error
    return Calibration(stages, Shares(**content["shares"]), tuple(map(str, content["about"])))


def _keys(where: str, content: Any, expected: Collection[str], *, all_of_them: bool = True) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{where}: found {content!r}; expected an object with {', '.join(expected)}")
    if strange := [name for name in content if name not in expected]:
        raise ValueError(f"{where}: found key {strange[0]!r}; expected {', '.join(expected)}")
    if (missing := [name for name in expected if name not in content]) and all_of_them:
        raise ValueError(f"{where}: found no {missing[0]}; expected {', '.join(expected)}")


def _line(where: str, value: Any) -> Line:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{where}: found {value!r}; expected [fixed, each]")
    return Line(*value)


# From reports


def measure(reports: Mapping[str, Mapping[str, Any]]) -> Calibration:
    """What the runs of these reports (name -> content) took, stage by stage; the mean of several runs.

    The ledger tells a start from work, by language. What it does not tell apart grows with the work, but for what
    training puts away, which is its weights; of several runs of different sizes, a straight line through them tells.
    Raises: ValueError naming the report and what it lacks.
    """
    runs = []
    for name, report in reports.items():
        try:
            runs.append(_run(report))
        except (KeyError, TypeError, ZeroDivisionError, StopIteration) as error:
            what = "the report.json of a run that sampled, with its ledger"
            raise ValueError(f"{name}: found {type(error).__name__} {error}; expected {what}") from error
    shares = Shares(*(fmean(getattr(run.shares, name.name) for run in runs) for name in fields(Shares)))
    units = [run.units | {"distinct": run.units["asked"] * shares.distinct(run.n)} for run in runs]
    stages = {}
    for stage in GROWS:
        if took := [(run.took[stage], of) for run, of in zip(runs, units, strict=True) if stage in run.took]:
            stages[stage] = _rates(stage, took)
    return Calibration(stages, shares, tuple(f"measured: {name}" for name in reports))


class _Run(NamedTuple):
    units: dict[str, float]
    n: int
    shares: Shares
    took: dict[str, dict[str, Any]]
    """Stage -> its row of the ledger, and how many `pods` wrote it."""


def _run(report: Mapping[str, Any]) -> _Run:
    """What one report says; stages after sampling may be missing. Raises: KeyError for what it lacks."""
    rows = {stage_of(row): row for row in report["ledger"]["stages"]}
    about = {stage_of(row): row for row in report["provenance"]}
    n = about["sample"]["config"]["n"]

    def count(stage: str, unit: str, side: str = "rows_out") -> int:
        return sum(row[side] for row in report["flow"] if (stage_of(row), row["unit"]) == (stage, unit))

    answers, pools, pairs = count("sample", "samples"), count("pair", "pairs", "rows_in"), count("pair", "pairs")
    asked, kept, data_sets = answers / n, count("train", "train pairs"), count("benchmark-base", "benchmarks")
    training = about["train"]["config"] if "train" in about else {"epochs": 1, "global_batch": 1, "checkpoint_steps": 1}
    trained = kept * training["epochs"]
    iterations = about["benchmark-base"]["config"]["iterations"] if data_sets else 0
    units = {
        "": 0,
        "prompts": count("prepare", "prompts"),
        "translations": count("translate", "prompts", "rows_in"),
        "shown": count("prepare", "prompts") * (len(about["translate"]["parts"]) if "translate" in about else 1),
        "asked": asked,
        "handed": asked * len(about["sample"]["parts"]),
        "answers": answers,
        "pairs": pairs,
        "trained": trained,
        "checkpoints": math.ceil(trained / training["global_batch"] / training["checkpoint_steps"]),
        "benchmarks": data_sets,
        "evaluations": data_sets * iterations,
        "questions": count("answer-base", "answers"),
        "calls": count("arena", "verdicts", "rows_in"),
    }
    shares = Shares(_duplicates(rows, n), pairs / pools if pools else 1.0, kept / pairs if kept else 1.0)
    took = {stage: {**row, "pods": len(about[stage]["parts"])} for stage, row in rows.items() if stage in GROWS}
    if "score" in took:  # what sample was handed, score is handed too: pipelines.estimate adds it
        read = took["score"]["bytes_read"] - took["sample"]["bytes_read"]
        took["score"] = took["score"] | {"bytes_read": max(read, 0)}
    return _Run(units, n, shares, took)


def stage_of(row: Mapping[str, Any]) -> str:
    """A row's stage, by the name that profiles have for it."""
    stage, name = str(row["stage"]), str(row["input"])
    return f"{stage}-{name.rpartition(', ')[2]}" if name.startswith(f"{SIDES.get(stage)}, ") else stage


def _duplicates(rows: Mapping[str, Mapping[str, Any]], n: int) -> float:
    """From the tokens that were scored of all there were, as if the reward model had the policy's tokenizer."""
    if n == 1 or "score" not in rows:
        return 0.0
    sampled = rows["sample"]["tokens_in"] * n + rows["sample"]["tokens_out"]
    return max(-math.log(rows["score"]["tokens_in"] / sampled) / math.log(n) ** 2, 0.0)


def _rates(stage: str, took: Sequence[tuple[Mapping[str, Any], Mapping[str, float]]]) -> Rates:
    """Of one stage in several runs, each a ledger's row and the run's units."""
    grows, lines = GROWS[stage], dict[str, Any]()
    for amount in AMOUNTS:
        points = [(of[getattr(grows, amount)], row[LEDGER.get(amount, amount)] or 0) for row, of in took]
        if amount == "seconds" and all(_works(row) for row, _ in took):
            start = fmean((row["seconds"] - _works(row)) / row["pods"] for row, _ in took)
            lines[amount] = Line(start, fmean(_works(row) / of[grows.seconds] for row, of in took))
        elif amount.startswith("tokens"):
            lines[amount] = Line(0.0, fmean(y / x if x else 0.0 for x, y in points))
        else:
            lines[amount] = through(points, keep_fixed=(stage, amount) == ("train", "put"))
    seconds = sum(row["seconds"] for row, _ in took)
    gpus = sum(row["gpu_seconds"] for row, _ in took) / seconds if seconds else 0.0
    return Rates(**lines, gpus=round(gpus, 2))


def _works(row: Mapping[str, Any]) -> float:
    """Seconds that the ledger has for languages."""
    return sum(part["seconds"] for part in row["languages"] if part["language"] is not None)


def through(points: Sequence[tuple[float, float]], *, keep_fixed: bool = False) -> Line:
    """The line that is nearest to (units, amount); through zero, or flat if `keep_fixed`, where all have equal units.

    Neither of its parts is below 0: an amount that falls as work grows is noise, and its mean is the best guess.
    """
    x, y = fmean(x for x, _ in points), fmean(y for _, y in points)
    spread = sum((a - x) ** 2 for a, _ in points)
    if not spread:
        return Line(y, 0.0) if keep_fixed or not x else Line(0.0, y / x)
    each = sum((a - x) * (b - y) for a, b in points) / spread
    if each < 0:
        return Line(y, 0.0)
    return Line(y - each * x, each) if y >= each * x else Line(0.0, y / x)


def with_reckoned(calibration: Calibration, reckoned: Calibration) -> Calibration:
    """The calibration, and what is reckoned of stages that it lacks."""
    lacking = ", ".join(stage for stage in reckoned.stages if stage not in calibration.stages)
    about = [*calibration.about, *(f"{text} ({lacking})" for text in reckoned.about if lacking)]
    return replace(calibration, stages={**reckoned.stages, **calibration.stages}, about=tuple(about))
