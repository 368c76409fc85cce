"""Planner: what grows with what, rates from ledgers and by arithmetic, and one clear line for what is wrong."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from croco.dataset import Count, Manifest, Spent
from croco.page import findings, ledger
from pipelines import __main__ as command
from pipelines import calibration, reckoning
from pipelines.calibration import Calibration, Line, Rates
from pipelines.estimate import Estimate, at_once, estimate, notes, wall_hours
from pipelines.placement import Cluster
from pipelines.preference import preference
from pipelines.profiles import PROFILES
from pipelines.reckoning import Engine, Gpu, Model
from pipelines.workload import GROWS, Settings, Shares, dealt, units

SMALL = Settings(
    count=10, languages=("en", "de", "fr"), n=4, epochs=2, global_batch=8, questions_limit=5,
    questions_languages=("en", "de"), benchmark_iterations=2, workers=1,
)  # fmt: skip


def manifest(stage: str, counts: list[Count], spent: list[Spent], config: Mapping[str, Any] = {}) -> Manifest:
    return Manifest(stage, 1, None, [], config, [], {}, counts, {}, [], {}, spent)


def rows(unit: str, number: float) -> list[Count]:
    return [Count(unit, "en", round(number), round(number))]


def took(start: float, work: float, reads: float, writes: float, read: float = 0, put: float = 0) -> list[Spent]:
    """Of a stage with an engine; seconds, tokens, bytes."""
    english = Spent("en", round(reads), round(writes), work)
    return [english, Spent(None, seconds=start, bytes_read=round(read), bytes_written=round(put))]


def report(settings: Settings, tasks: int = 1) -> dict[str, Any]:
    """Of a run in which sampling took 30 s to start and .5 s an answer, scoring 40 s and .25 s, training 4 s a pair,
    which is 30 tokens; a prompt has 20, an answer 7. Answers repeat, and not all pairs are made or trained on.
    """
    n, asked = settings.n, settings.count * len(settings.languages)
    answers, distinct = asked * n, asked * Shares(duplicates=0.1).distinct(n)
    pairs, trained = round(asked * 0.9), round(asked * 0.9 * 0.8)
    questions = (settings.questions_limit or 0) * len(settings.questions_languages)
    translations = settings.count * (len(settings.languages) - 1)
    pairing = [Count("pairs", "en", asked, pairs, {"same_text": asked - pairs})]
    training = {"epochs": settings.epochs, "global_batch": settings.global_batch, "checkpoint_steps": 50}
    trained_on = Spent(None, trained * 60, 0, trained * 4.0, bytes_written=5000)
    iterations, part = {"iterations": settings.benchmark_iterations}, 1 / tasks
    sampled = took(30, answers / 2 * part, asked * 20 * part, answers * 7 * part, asked, answers * 9 * part)
    scored = took(40, distinct / 4 * part, distinct * 27 * part, 0, asked + answers * part, answers * part)
    written = [
        ("prompts", manifest("prepare", rows("prompts", settings.count), [Spent(None, seconds=3)])),
        ("prompts", manifest("translate", rows("prompts", translations), took(20, translations, 100, 90))),
        *[("samples", manifest("sample", rows("samples", answers * part), sampled, {"n": n}))] * tasks,
        *[("scores", manifest("score", rows("scores", answers * part), scored))] * tasks,
        ("pairs", manifest("pair", pairing, [Spent(None, seconds=answers)])),
        ("training", manifest("train", rows("train pairs", trained), [trained_on], training)),
    ]
    for side, more in (("base", 5), ("tuned", 6)):
        replies = took(15, questions, questions * 3, questions * more)
        scores = manifest("benchmark", rows("benchmarks", 20), took(60, 88, 880, 88), iterations)
        written += [(f"benchmarks, {side}", scores)]
        written += [(f"answers, {side}", manifest("answer", rows("answers", questions), replies))]
    judged = took(25, questions, questions * 30, questions * 2)
    written += [("verdicts", manifest("arena", rows("verdicts", 2 * questions), judged))]
    written += [("decision", manifest("promote", rows("checks", 3), [Spent(None, seconds=1)]))]
    found = {"ledger": ledger.collect(written), "flow": findings.flow(written)}
    return dict(json.loads(json.dumps(found | {"provenance": findings.provenance(written)})))


def by_stage(found: list[Estimate]) -> dict[str, Estimate]:
    return {one.stage: one for one in found}


# What grows with what


def test_the_defaults_are_the_pipelines() -> None:
    inputs = preference(Cluster()).component_spec.inputs
    for field in fields(Settings):
        default = inputs[field.name].default
        assert field.default == (tuple(default) if isinstance(default, list) else default), field.name


def test_the_numbers_of_a_run_by_hand() -> None:
    found = units(SMALL, Shares(paired=0.5, trained=0.8))
    assert found["prompts"] == 10
    assert found["translations"] == 20
    assert found["asked"] == found["handed"] == 30
    assert found["answers"] == found["distinct"] == 120
    assert (found["pairs"], found["trained"], found["checkpoints"]) == (15, 24, 1)
    assert (found["benchmarks"], found["evaluations"]) == (20, 40), "7 in English, 6 in German, 7 in French"
    assert (found["questions"], found["calls"]) == (10, 20)


@pytest.mark.parametrize(
    ("change", "times"),
    [
        ({"count": 20}, {"prompts": 2, "translations": 2, "answers": 2, "pairs": 2, "questions": 1, "evaluations": 1}),
        ({"n": 8}, {"asked": 1, "answers": 2, "distinct": 2, "pairs": 1}),
        ({"languages": ("en", "de", "fr", "es", "it", "nl")}, {"translations": 2.5, "asked": 2, "pairs": 2}),
        ({"pool": "all"}, {"answers": 1, "pairs": 1 / 3, "trained": 1 / 3}),
        ({"epochs": 4}, {"pairs": 1, "trained": 2}),
        ({"benchmark_iterations": 6}, {"benchmarks": 1, "evaluations": 3}),
        ({"questions_limit": None}, {"questions": 99.6, "calls": 99.6}),
        ({"workers": 3}, {"handed": 3, "asked": 1}),
    ],
)
def test_each_parameter_moves_what_it_should(change: dict[str, Any], times: dict[str, float]) -> None:
    before, after = units(SMALL, Shares()), units(Settings(**asdict(SMALL) | change), Shares())
    assert {name: after[name] / before[name] for name in times} == pytest.approx(times)


def test_of_repeating_answers_fewer_are_distinct_and_never_fewer_for_more() -> None:
    assert Shares().distinct(64) == pytest.approx(64)
    shares = Shares(duplicates=0.03)
    assert shares.distinct(1) == 1
    assert shares.distinct(64) == pytest.approx(64 ** (1 - 0.03 * math.log(64)))
    many = [Shares(duplicates=0.2).distinct(n) for n in range(1, 200)]
    assert many == sorted(many)


def test_local_questions_and_data_sets_are_counted(tmp_path: Path) -> None:
    line = {"question_id": "", "category": "c", "subcategory": "s", "prompt": "p", "language": ""}
    asked = [line | {"question_id": str(i), "language": code} for code in ("en", "de", "fr") for i in range(4)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    given = asdict(SMALL) | {"questions": str(tmp_path / "q.jsonl")}
    assert units(Settings(**given), Shares())["questions"] == 8
    assert units(Settings(**given | {"questions_limit": 3}), Shares())["questions"] == 6


def test_work_is_dealt_as_the_flow_deals_it() -> None:
    found = dealt(Settings(count=100_000, languages=("en", "de", "fr"), workers=4))
    assert found["sample"] == found["score"] == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1 / 3])
    assert found["translate"] == pytest.approx([1 / 4] * 4)


# Rates from ledgers


def test_a_ledger_gives_its_rates_back() -> None:
    found = calibration.measure({"report.json": report(SMALL)})
    sample, score, train = found.stages["sample"], found.stages["score"], found.stages["train"]
    assert sample.seconds == pytest.approx((30, 0.5))
    assert (sample.tokens_in.each, sample.tokens_out.each) == (20, 7)
    assert (sample.read.each, sample.put.each) == (1, 9)
    assert score.seconds == pytest.approx((40, 0.25), rel=0.01)
    assert score.tokens_in.each == pytest.approx(27, rel=0.01)
    assert score.read.each == 1, "without the prompts, which it is handed as sampling is"
    assert (found.shares.paired, found.shares.duplicates) == (0.9, pytest.approx(0.1, rel=0.01))
    assert train.put == (5000, 0), "its weights do not grow with the pairs"
    assert train.tokens_in.each == 30
    assert found.stages["answer-base"].tokens_out.each == 5
    assert found.stages["answer-tuned"].tokens_out.each == 6
    assert set(found.stages) == set(GROWS)


def test_the_estimate_of_another_run_by_hand() -> None:
    """Twice the prompts, four times the answers."""
    larger = Settings(**asdict(SMALL) | {"count": 20, "n": 16, "questions_limit": 10})
    rates = calibration.measure({"report.json": report(SMALL)})
    found, truth = by_stage(estimate(larger, rates)), by_stage(estimate(SMALL, rates))
    sample = found["sample"]
    assert (sample.tokens_in, sample.tokens_out) == (60 * 20, 960 * 7)
    assert sample.seconds == pytest.approx(30 + 960 / 2)
    assert sample.stored == 960 * 9
    distinct = 60 * 16 ** (1 - rates.shares.duplicates * math.log(16))
    assert found["score"].tokens_in == pytest.approx(distinct * 27, rel=0.01)
    assert found["score"].computed == pytest.approx(distinct * 7 + 60 * 20, rel=0.02), "each prompt once"
    assert found["train"].tokens_in == pytest.approx(2 * truth["train"].tokens_in)
    once = found["train"].tokens_in * (30 - 20) / 30
    assert found["train"].computed == pytest.approx(3 * once), "each prompt once; on a CPU, activations are kept"
    assert found["train"].stored == truth["train"].stored == 5000
    assert found["benchmark-tuned"].seconds == truth["benchmark-tuned"].seconds == pytest.approx(60 + 88)
    assert found["arena"].tokens_out == 2 * truth["arena"].tokens_out == 40


def test_a_start_is_paid_for_by_each_pod() -> None:
    rates = calibration.measure({"report.json": report(SMALL, tasks=2)})
    assert rates.stages["sample"].seconds == pytest.approx((30, 0.5))
    found = by_stage(estimate(Settings(**asdict(SMALL) | {"workers": 3}), rates))
    assert (found["sample"].pods, found["sample"].seconds) == (3, pytest.approx(3 * 30 + 120 / 2))


def test_two_runs_tell_what_is_fixed_from_what_grows() -> None:
    assert calibration.through([(1, 5), (3, 9)]) == (3, 2)
    assert calibration.through([(2, 8)]) == (0, 4)
    assert calibration.through([(2, 8)], keep_fixed=True) == (8, 0)
    assert calibration.through([(1, 9), (3, 5)]) == (7, 0), "noise: no amount falls as work grows"
    assert calibration.through([(1, 1), (2, 3), (3, 5)]) == (0, 1.5), "nor is less than nothing fixed"


def test_stages_that_ran_alone_are_estimated_alone() -> None:
    whole = report(SMALL)
    part = {
        name: [row for row in (rows["stages"] if name == "ledger" else rows) if row["stage"] in ("prepare", "sample")]
        for name, rows in whole.items()
    }
    rates = calibration.measure({"report.json": part | {"ledger": {"stages": part["ledger"]}}})
    assert set(rates.stages) == {"prepare", "sample"}
    found = estimate(SMALL, rates, stages=["prepare", "sample"])
    assert [one.stage for one in found] == ["prepare", "gather", "sample", "report"]
    with pytest.raises(ValueError, match="calibration: found no stage translate; expected it"):
        estimate(SMALL, rates)


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    written = calibration.measure({"report.json": report(SMALL)})
    path.write_text(written.to_json())
    assert calibration.load([path]) == written


# Rates by arithmetic


def test_an_engine_by_hand() -> None:
    gpu = Gpu(flops=100.0, bandwidth=50.0, memory=1000.0, sequences=4)
    engine = Engine(Model(parameters=5, active=5, cache=1.0), gpu, gpus=2)
    assert engine.reads(10) == 2 * 5 * 10 / (2 * 100 * 0.5)
    bytes_a_step = 10 + 4 * (6 + 8 / 2)  # weights; 4 answers, half written on average
    assert engine.writes(6, 8) == pytest.approx(8 * bytes_a_step / (2 * 50 * 0.6) / 4)
    cramped = Engine(engine.model, Gpu(100.0, 50.0, memory=20.0, sequences=4), gpus=1)  # 8 bytes left
    assert cramped.writes(2, 2, shared=1) == pytest.approx(2 * (10 + 2 * 3) / (50 * 0.6) / 2)
    with pytest.raises(ValueError, match="found 1 GPUs for a model of 0 GB; expected more"):
        cramped.writes(5, 4)


def test_what_is_reckoned_says_so_and_grows_as_what_is_measured() -> None:
    paper = Settings()
    rates = reckoning.reckon(paper, PROFILES["gpu-80gb"])
    assert set(rates.stages) == set(GROWS)
    assert {one.basis for one in rates.stages.values()} == {"reckoned"}
    found, passes = by_stage(estimate(paper, rates)), 4 * (reckoning.PROMPT + 2 * reckoning.ANSWER)
    assert found["sample"].tokens_out == 20_000 * 7 * 64 * reckoning.ANSWER
    assert found["train"].tokens_in == pytest.approx(140_000 * 0.99 * 2 * (reckoning.PROMPT + reckoning.ANSWER))
    assert found["train"].computed == pytest.approx(140_000 * 0.99 * passes)
    scored = reckoning.ANSWER + reckoning.PROMPT / (64 * 0.8)
    assert rates.stages["score"].seconds.each == pytest.approx(2 * 7.57e9 * scored / (312e12 * 0.5))
    assert rates.stages["train"].seconds.each == pytest.approx(2 * 9.15e9 * passes / (312e12 * 0.4))
    distinct = 140_000 * 64 * (1 - reckoning.DUPLICATES)
    assert found["score"].computed == pytest.approx(distinct * reckoning.ANSWER + 140_000 * reckoning.PROMPT)
    step = (18.3e9 + 256 * 172_032 * (512 + 256 / 2)) / (2.04e12 * 0.6)  # 256 answers, one token of each
    assert rates.stages["sample"].seconds.each == pytest.approx(step + 2 * 9.15e9 * 512 / 64 / (312e12 * 0.5))
    rows = 7 * 140_000 * 1088 + 2 * 140_000 * 64 * 1088  # prompts to each pod; answers, put twice
    assert found["sample"].network == pytest.approx(7 * 18.3e9 + rows)
    assert 2 * 18.3e9 < found["train"].stored < found["train"].network
    assert found["arena"].gpu_hours == 2 * found["arena"].hours


@pytest.mark.parametrize(("pool", "passes"), [("language", 3), ("all", 4)])
def test_references_from_sampling_save_a_pass_where_answers_are_to_their_own_prompts(pool: str, passes: int) -> None:
    settings = Settings(sampled_reference=True, pool=pool)
    rates = reckoning.reckon(settings, PROFILES["gpu-80gb"])
    once = reckoning.PROMPT + 2 * reckoning.ANSWER
    assert rates.stages["train"].seconds.each == pytest.approx(2 * 9.15e9 * passes * once / (312e12 * 0.4))
    found = by_stage(estimate(settings, rates))["train"]
    assert found.computed == pytest.approx(
        found.tokens_in / (2 * (reckoning.PROMPT + reckoning.ANSWER)) * passes * once
    )


def test_the_models_of_the_defaults_have_sizes() -> None:
    assert set(Settings().models.values()) <= set(reckoning.MODELS)


def test_what_was_measured_stands_before_what_is_reckoned() -> None:
    rates = reckoning.reckon(Settings(), PROFILES["gpu-80gb"])
    one = Calibration({"sample": Rates(Line(1, 2))}, Shares(duplicates=0.3))
    both = calibration.with_reckoned(one, rates)
    assert (both.stages["sample"].basis, both.stages["score"].basis) == ("measured", "reckoned")
    assert both.shares.duplicates == 0.3
    assert both.about[-1].startswith("reckoned, not measured: A100-80GB") and "score" in both.about[-1]


def test_the_readme_has_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["plan", "--scale", "1", "10", "100", "--gpus", "64"]) == 0
    printed = capsys.readouterr().out.split("\n\n")[0]
    assert printed in (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8"), printed


# From start to end


def stage(name: str, seconds: float = 0.0, **more: Any) -> Estimate:
    return Estimate(**{"stage": name, "pods": 1, "gpus": 1, "seconds": seconds * 3600, **more})


def test_hours_from_start_to_end_by_hand() -> None:
    found = [
        stage("prepare", 1, gpus=0),
        stage("sample", 12, pods=4, longest=0.4),
        stage("train", 3, gpus=2),
        stage("benchmark-tuned", 5),
        stage("answer-tuned", 1),
        stage("arena", 2, gpus=2),
    ]
    assert wall_hours(found, 4) == pytest.approx(1 + 12 * 0.4 + 3 + 5), "the longest pod decides"
    assert wall_hours(found, 2) == pytest.approx(1 + 12 / 2 + 3 + 5), "pods wait for GPUs"
    with pytest.raises(ValueError, match="--gpus: found 1; expected 2 or more, which a pod of train holds"):
        wall_hours(found, 1)


def test_there_are_workers_for_all_gpus() -> None:
    rates = reckoning.reckon(Settings(), PROFILES["gpu-80gb"])
    assert at_once(Settings(), rates, 64).workers == 64


def test_the_plan_says_where_it_outgrows_profile_and_data() -> None:
    profile = PROFILES["gpu-80gb"]
    fits = [stage("sample", 7 * 100, pods=7, longest=1 / 7), stage("pair", 1, gpus=0, files=2**30)]
    assert notes(Settings(), fits, profile) == []
    grown = [stage("sample", 7 * 130, pods=7, longest=1 / 7), stage("pair", 1, gpus=0, files=60 * 2**30)]
    said = notes(Settings(count=2_000_000), grown, profile)
    assert [text.split(":")[0] for text in said] == ["count", "sample", "pair"]
    assert "130 hours a pod; the profile ends an attempt after 120" in said[1]
    assert "besides the 50 GiB" in said[2]


# The command


def test_the_default_plan_says_that_nothing_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["plan", "--price", "2"]) == 0
    said = capsys.readouterr().out
    lines = [line.split(" | ") for line in said.splitlines() if line.startswith("| ")]
    assert [line[0].strip("| ") for line in lines[1:]] == [
        *list(GROWS)[:2],
        "gather",
        *list(GROWS)[2:],
        "report",
        "all",
    ]
    assert "- reckoned, not measured: A100-80GB" in said
    assert "at 2 an hour" in said


def test_a_measured_plan_by_file_scale_and_params(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.json").write_text(json.dumps(report(SMALL)))
    chosen = {name: value for name, value in asdict(SMALL).items() if value is not None}
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(given | {"seed": 3}))
    made = tmp_path / "calibration.json"
    assert command.main(["plan", "--calibrate", str(tmp_path / "report.json"), "--out", str(made)]) == 0
    flags = ["--params", str(tmp_path / "params.yaml"), "--calibration", str(made), "--profile", "toy"]
    assert command.main(["plan", *flags, "--scale", "1", "10", "--gpus", "2"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows[1].startswith("| 1 | 10 |") and rows[2].startswith("| 10 | 100 |")


@pytest.mark.parametrize(
    ("flags", "wrong"),
    [
        (["--scale", "-1"], "--scale: found -1; expected a number above 0"),
        (["--price", "0"], "--price: found 0; expected a number above 0"),
        (["--profile", "moon"], "--profile: found 'moon'; expected one of gpu-80gb, "),
        (["--profile", "toy"], "--profile: found no GPU for translate; expected a profile with GPUs, or a --calibr"),
        (["--gpu", "abacus"], "--gpu: found 'abacus'; expected one of A100-80GB"),
        (["--gpus", "1"], "--gpus: found 1; expected 2 or more, which a pod of arena holds"),
        (["--calibrate", "report.json"], "--calibrate: found no --out"),
        (["--params", "{params}"], "params.yaml: found parameter 'cuont'; expected one of "),
        (["--params", "{negative}"], "negative.yaml: count: found -3; expected 1 or more"),
        (["--params", "{unknown}"], "policy: found someone/some-model; expected one of utter-project/"),
        (["--calibration", "{absent}"], "absent.json: found no file; expected a calibration"),
        (["--calibration", "{list}"], "list.json: found a list; expected a calibration"),
        (["--calibration", "{key}"], "key.json: found key 'speed'; expected stages, shares, about"),
        (["--calibration", "{stage}"], "stage.json: stages: found key 'dance'; expected prepare, "),
        (["--calibration", "{line}"], "line.json: stages.sample.put: found 3; expected [fixed, each]"),
        (["--calibration", "{below}"], "below.json: stages.sample.seconds: found "),
        (["--calibration", "{empty}"], "empty.json: found KeyError 'sample'; expected the report.json of a run"),
    ],
)
def test_what_is_wrong_is_one_line(
    flags: list[str], wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = json.loads(Calibration({"sample": Rates(Line(1, 2))}).to_json())
    sample = good["stages"]["sample"]
    contents: dict[str, Any] = {
        "list": [],
        "key": good | {"speed": 1},
        "stage": good | {"stages": {"dance": sample}},
        "line": good | {"stages": {"sample": sample | {"put": 3}}},
        "below": good | {"stages": {"sample": sample | {"seconds": [1, -2]}}},
        "empty": {"ledger": {"stages": []}, "provenance": [], "flow": []},
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    texts = {"params": "cuont: 3", "negative": "count: -3", "unknown": "policy: someone/some-model"}
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    paths = {path.stem: str(path) for path in tmp_path.iterdir()} | {"absent": str(tmp_path / "absent.json")}
    assert command.main(["plan", *(flag.format(**paths) for flag in flags)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and wrong in said
