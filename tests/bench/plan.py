"""Plan: what the planner says of a run, over what the run then takes. The released code has no such thing to compare.

Rates come from the ledger of one small run; what is predicted is another, with other prompts, languages, answers,
iterations and questions, so that nothing is told about the run that is predicted. Both have stores of their own, so
none takes what the other made. Whole runs are `python -m pipelines run` on the toy world; quick, the stages from
`prepare` to `pair` in this process, where files are so small that it takes a second run to tell what a file has before
its first row.

A figure is predicted over measured; `furthest off` is the worst of the totals, whichever way it is off.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.measuring import Figure, Result, Setting
from croco import pair, prepare, sample, score
from croco.page import findings
from pipelines import calibration
from pipelines.estimate import Estimate, estimate
from pipelines.toy import parameters
from pipelines.workload import Settings

TARGET = 1.25
"""Of each total, and either way."""
SMALL = {"count": 24, "n": 16, "questions_limit": 8, "benchmark_iterations": 2}
OTHER = {
    "count": 64, "n": 32, "questions_limit": 24, "benchmark_iterations": 3,
    "languages": ["en", "de", "es"], "questions_languages": ["en", "de", "es"],
}  # fmt: skip
QUICK_SMALLEST = {"count": 4, "n": 4, "languages": ["en"]}
QUICK_SMALL, QUICK_OTHER = {"count": 8, "n": 8, "languages": ["en"]}, {"count": 24, "n": 16, "languages": ["en"]}
TOTALS = {
    "tokens in": ("tokens_in", ["tokens_in"]),
    "tokens out": ("tokens_out", ["tokens_out"]),
    "seconds": ("seconds", ["seconds"]),
    "stored": ("stored", ["bytes_written"]),
    "network": ("network", ["bytes_read", "bytes_written"]),
}
"""Figure -> what the estimate calls it, and the ledger."""


def run(setting: Setting) -> Result:
    small, other = (QUICK_SMALL, QUICK_OTHER) if setting.quick else (SMALL, OTHER)
    run_of = alone if setting.quick else whole
    smallest = {"smallest": run_of(setting, "smallest", QUICK_SMALLEST)} if setting.quick else {}
    reports = {"small": run_of(setting, "small", small)}
    rates, alone_rates = calibration.measure(smallest | reports), calibration.measure(reports)
    started = {name: replace(one, seconds=alone_rates.stages[name].seconds) for name, one in rates.stages.items()}
    rates = replace(rates, stages=started)  # the first run in a process imports, which a later one does not
    settings = Settings.of(parameters(setting.toy) | other)
    predicted = estimate(settings, rates, stages=rates.stages)
    report = run_of(setting, "other", other)
    measured = {calibration.stage_of(row): row for row in report["ledger"]["stages"]}
    return Result(figures(predicted, measured), {"small": small, "other": other, "stages": detail(predicted, measured)})


def whole(setting: Setting, name: str, changed: Mapping[str, Any]) -> dict[str, Any]:
    """The report of a run of the whole flow."""
    given = [f"{key}={json.dumps(value)}" for key, value in changed.items()]
    flags = ["--toy", setting.toy, "--out", setting.work / name, "--store", setting.work / f"{name}-store"]
    command = [sys.executable, "-m", "pipelines", "run", *map(str, flags)]
    command += [part for text in given for part in ("--set", text)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    found: dict[str, Any] = json.loads((setting.work / name / "report.json").read_text(encoding="utf-8"))
    return found


def alone(setting: Setting, name: str, changed: Mapping[str, Any]) -> dict[str, Any]:
    """The report of a run in English from its prompts to its pairs."""
    given, out, store = parameters(setting.toy) | changed, setting.work / name, str(setting.work / f"{name}-store")
    prompts, samples, scores, pairs = (out / stage for stage in ("prompts", "samples", "scores", "pairs"))
    decoding = {key: given[key] for key in ("n", *sample.DECODED)}
    read: dict[str, Any] = {"prompts": [prompts], "store": store}
    chosen = prepare.PrepareConfig(count=given["count"])
    prepare.run(source=given["source"], out=prompts, store=store, config=chosen)
    sample.run(**read, model=given["policy"], out=samples, config=sample.SampleConfig(**decoding))
    score.run(**read, samples=[samples], model=given["reward"], out=scores)
    pair.run(**read, samples=[samples], scores=[scores], out=pairs)
    return findings.collect(findings.Inputs([prompts], [samples], [scores], pairs), bins=10)


def figures(predicted: Sequence[Estimate], measured: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """Of all stages that keep a ledger, and of each that reads tokens or takes long."""
    kept = {one.stage: one for one in predicted if one.stage in measured}
    found = [Figure(name, _ratio(kept.values(), measured, name), "x measured") for name in TOTALS]
    furthest = max(max(figure.value, 1 / figure.value) for figure in found)
    rows = {stage: one for stage, one in kept.items() if stage != "train"}
    found += [Figure("stored, without the tuned model", _ratio(rows.values(), measured, "stored"), "x measured")]
    for stage, one in kept.items():
        if measured[stage]["tokens_in"]:
            found.append(Figure(f"{stage}: tokens in", _ratio([one], measured, "tokens in"), "x measured"))
            found.append(Figure(f"{stage}: seconds", _ratio([one], measured, "seconds"), "x measured"))
        if measured[stage]["tokens_out"]:
            found.append(Figure(f"{stage}: tokens out", _ratio([one], measured, "tokens out"), "x measured"))
    return [Figure("furthest off, of the totals", furthest, "times", at_most=TARGET, limit=1.0), *found]


def _ratio(stages: Iterable[Estimate], measured: Mapping[str, Mapping[str, Any]], name: str) -> float:
    pairs = [_both(one, measured[one.stage], name) for one in stages]
    return sum(predicted for predicted, _ in pairs) / sum(truth for _, truth in pairs)


def _both(one: Estimate, row: Mapping[str, Any], name: str) -> tuple[float, float]:
    """Of a total, what is predicted of a stage, and what its row of the ledger has."""
    mine, theirs = TOTALS[name]
    return float(getattr(one, mine)), float(sum(row[key] or 0 for key in theirs))


def detail(predicted: Sequence[Estimate], measured: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Stage -> amount -> [predicted, measured]."""
    return {
        one.stage: {name: _both(one, measured[one.stage], name) for name in TOTALS}
        for one in predicted
        if one.stage in measured
    }
