"""Flow: the whole of it on the toy world, once from an empty store and once again, and what the planner said of it.

    first run   `make run`: the toy world is looked at, then every stage is done
    cached run  the same where nothing changed: a process for each task finds its result in the store; the report
    starts      engines in the first run by stage and model, as vLLM itself says it starts one (engine_starts.py)
    planner     what it predicted of the first run, over what that took; `furthest off` is the worst of the totals,
                whichever way it is off

The planner's rates come from the ledger of a small run before it, with other prompts, languages, answers, iterations
and questions, and a store of its own, so that nothing is told about the run that is predicted, and neither takes what
the other made. Quick, nothing is run but the stages from `prepare` to `pair` in this process, for the planner; files
are so small there that it takes a second run to tell what a file has before its first row.

The released code has neither pipeline, store nor planner to compare.
"""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench import engine_starts
from bench.measuring import Figure, Result, Setting
from croco import pair, prepare, sample, score
from croco.page import findings
from pipelines import calibration
from pipelines.calibration import Calibration
from pipelines.estimate import Estimate, estimate
from pipelines.toy import parameters
from pipelines.workload import Settings

TARGET = 1.25
"""Of each total, and either way."""
SMALL = {
    "count": 40, "n": 32, "questions_limit": 12, "benchmark_iterations": 2,
    "languages": ["en", "de", "es"], "questions_languages": ["en", "de", "es"],
}  # fmt: skip
QUICK: tuple[Mapping[str, Any], ...] = (
    {"count": 4, "n": 4, "languages": ["en"]},
    {"count": 8, "n": 8, "languages": ["en"]},
    {"count": 24, "n": 16, "languages": ["en"]},
)
"""Two runs to measure, and the one that is predicted."""
TOTALS = {
    "tokens in": ("tokens_in", ["tokens_in"]),
    "tokens out": ("tokens_out", ["tokens_out"]),
    "seconds": ("seconds", ["seconds"]),
    "stored": ("stored", ["bytes_written"]),
    "network": ("network", ["bytes_read", "bytes_written"]),
}
"""Figure -> what the estimate calls it, and the ledger."""


def run(setting: Setting) -> Result:
    if setting.quick:
        smallest, small, other = QUICK
        reports = {name: alone(setting, name, given) for name, given in (("smallest", smallest), ("small", small))}
        rates, later = calibration.measure(reports), calibration.measure({"small": reports["small"]})
        started = {name: replace(one, seconds=later.stages[name].seconds) for name, one in rates.stages.items()}
        rates = replace(rates, stages=started)  # the first run in a process imports, which a later one does not
        return planned(setting, rates, other, alone(setting, "other", other))
    whole(setting, "small", "small-store", SMALL)
    rates = calibration.measure({"small": reported(setting, "small")})
    (first, again), starts = first_and_again(setting)
    told = planned(setting, rates, {}, reported(setting, "first"))
    figures = [
        Figure("first run", first, "s", note="an empty store"),
        Figure("cached run", again, "s", at_most=60.0),
        Figure("engine starts", sum(starts.values()), "starts", limit=len(starts)),
        Figure("starts of a model in a stage, at most", max(starts.values()), "starts", at_most=1),
    ]
    noted = [{"stage": stage, "model": model, "starts": number} for (stage, model), number in starts.items()]
    return Result([*figures, *told.figures], {"small": SMALL, **told.detail, "starts": noted})


def whole(
    setting: Setting,
    name: str,
    store: str,
    changed: Mapping[str, Any] = {},
    environment: Mapping[str, str] | None = None,
) -> float:
    """Run the whole flow as `make run` does, but for what is changed and where it is; seconds."""
    places = [f"--toy={setting.toy}", f"--out={setting.work / name}", f"--store={setting.work / store}"]
    settings = [f"--set={key}={json.dumps(value)}" for key, value in changed.items()]
    flow = ["pipelines", "run", *places, *settings]
    began = time.perf_counter()
    for command in (["croco", "toy", "--out", str(setting.toy)], flow):
        subprocess.run([sys.executable, "-m", *command], env=environment, check=True, stdout=sys.stderr)
    return time.perf_counter() - began


def first_and_again(setting: Setting) -> tuple[list[float], Counter[tuple[str, str]]]:
    """Seconds of the first run and of the same again; (stage, model) -> engines started in the first."""
    took, starts = [], []
    for name in ("first", "again"):
        notes = setting.work / "starts" / name
        took.append(whole(setting, name, "store", environment=engine_starts.environment(notes)))
        starts.append(engine_starts.noted(notes))
    if starts[1]:
        raise RuntimeError(f"cached run: found engines started: {dict(starts[1])}; expected none")
    return took, starts[0]


def reported(setting: Setting, name: str) -> dict[str, Any]:
    """The report of a run that `whole` made."""
    found: dict[str, Any] = json.loads((setting.work / name / "report.json").read_text(encoding="utf-8"))
    return found


def planned(setting: Setting, rates: Calibration, changed: Mapping[str, Any], report: Mapping[str, Any]) -> Result:
    """What `rates` say of a run with what is changed, beside its report."""
    settings = Settings.of(parameters(setting.toy) | changed)
    predicted = estimate(settings, rates, stages=rates.stages)
    measured = {calibration.stage_of(row): row for row in report["ledger"]["stages"]}
    return Result(figures(predicted, measured), {"stages": detail(predicted, measured)})


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
