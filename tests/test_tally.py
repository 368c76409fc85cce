"""Tally: every value that was measured of a run, once, after those of the runs before; nothing of another model."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from kfp import compiler, dsl
from kfp.dsl import Artifact, Dataset, Output

from components.tally import tally
from croco import dataset
from croco.dataset import Count, Manifest, Spent
from croco.tally import TallyConfig, costs, run
from croco.toy import world
from croco.writer import Writer
from pipelines import local

TUNED, BASE = {"id": "merged", "sha256": "a" * 64}, {"id": "base", "sha256": "b" * 64}
CATS, HELLO = "What do you know about cats?", "Hallo. Wie leben Hunde?"
BENCHMARKS = [
    ("scala-de", "mcc", [10.0, 20.0, 30.0]),
    ("scala-de", "accuracy", [50.0, 60.0, 70.0]),
    ("mmlu-de", "accuracy", [40.0]),
]
ANSWERS = [
    ("q1", "en", CATS, "That is a good question! Many cats live near the river. Some cats sleep all day.", "en"),
    ("q2", "en", CATS, "You should know this already...", "en"),
    ("q1", "de", HELLO, "Many dogs live near the river.", "en"),
    ("q2", "de", HELLO, ":)", None),
]
VERDICTS = [
    ("q1", "en", "model", "model"),
    ("q2", "en", "tie", "reference"),
    ("q1", "de", "model", None),
    ("q2", "de", None, None),
]
REWARDS = [("q1", "en", 1.5), ("q2", "en", -2.0), ("q1", "de", 0.25)]


def written(out: Path, contract: str | None, stage: str, rows: Sequence[Mapping[str, Any]], unit: str,
            inputs: Sequence[Path] = (), spent: Sequence[Spent] = (), **manifest: Any) -> Path:  # fmt: skip
    """A dataset as `stage` would have written it."""
    writer = Writer(out, contract, stage=stage, version=1, config={}, inputs=inputs)
    for row in spent:
        writer.spent(row.language).add(tokens_in=row.tokens_in, tokens_out=row.tokens_out, seconds=row.seconds)
    if contract:
        writer.add(rows)
    writer.finish([Count(unit, None, len(rows), len(rows))], **manifest)
    return out


def benchmarks(out: Path, policy: Mapping[str, str] = TUNED) -> Path:
    rows = [
        {"benchmark": name, "task": "t", "language": "de", "metric": metric, "score": sum(scores) / len(scores)}
        | {"half_width_95": 1.0, "iterations": scores, "split": "test"}
        for name, metric, scores in BENCHMARKS
    ]
    return written(out, "benchmarks", "benchmark", rows, "benchmark scores", models={"policy": policy})


def answers(out: Path, policy: Mapping[str, str] = TUNED, rows: Sequence[Any] = ANSWERS) -> Path:
    about = {"finish_reason": "stop", "generator": policy["id"], "category": "c", "subcategory": "s"}
    columns = ("question_id", "language", "prompt", "output", "identified")
    table = [dict(zip(columns, row, strict=True)) | about for row in rows]
    return written(out, "answers", "answer", table, "answers", models={"policy": policy})


def verdicts(out: Path, judged: Path, rates: Sequence[tuple[str, float | None]] = (("en", 0.75), ("all", 0.7))) -> Path:
    about = {"model_chars": 3, "reference_chars": 2, "category": "c", "subcategory": "s", "judge_text": "[[A]]"}
    rows = [
        {"question_id": question, "language": code, "order": order, "verdict": verdict, **about}
        for question, code, *pair in VERDICTS
        for order, verdict in zip(("model_first", "reference_first"), pair, strict=True)
    ]
    found = [
        {"language": code, "length_controlled": rate, "lc_standard_error": 0.1 if code == "all" else None}
        for code, rate in rates
    ]
    return written(out, "verdicts", "arena", rows, "verdicts", [judged], metrics={"win_rates": found})


def rewards(out: Path, scored: Path, stage: str = "rate", model: str = "reward") -> Path:
    columns = ("prompt_id", "language", "reward")
    rows = [dict(zip(columns, row, strict=True)) | {"sample_index": 0} for row in REWARDS]
    return written(out, "scores", stage, rows, "scores", [scored], models={"reward": {"id": model, "sha256": model}})


def training(out: Path, policy: Mapping[str, str] = TUNED) -> Path:
    return written(out, None, "train", [], "pairs", metrics={"merged_sha256": policy["sha256"]})


def evaluated(folder: Path) -> dict[str, Any]:
    """All that is measured of a tuned model."""
    given = answers(folder / "answers")
    return {
        "benchmarks": benchmarks(folder / "benchmarks"),
        "answers": given,
        "verdicts": verdicts(folder / "verdicts", given),
        "rewards": rewards(folder / "rewards", given),
        "training": training(folder / "training"),
    }


def outcomes(out: Path) -> dict[tuple[str, int], dict[tuple[str, str, str], float]]:
    """(arm, seed) -> (measure, language, item) -> value."""
    found: dict[tuple[str, int], dict[tuple[str, str, str], float]] = {}
    for row in dataset.unique(dataset.read(out, "outcomes"), "outcomes").to_pylist():
        run = found.setdefault((row["arm"], row["seed"]), {})
        run[row["measure"], row["language"], row["item"]] = row["value"]
    return found


def measured(out: Path, *run: Any) -> dict[tuple[str, str, str], float]:
    """What a run was measured by, without its cost."""
    return {key: value for key, value in outcomes(out)[run].items() if not key[0].startswith("cost/")}


def counted(manifest: Manifest, unit: str) -> dict[str | None, tuple[int, int, Mapping[str, int]]]:
    return {c.language: (c.rows_in, c.rows_out, c.dropped) for c in manifest.counts if c.unit == unit}


EXPECTED = {
    ("euroeval/scala-de", "de", "0"): 10.0,
    ("euroeval/scala-de", "de", "1"): 20.0,
    ("euroeval/scala-de", "de", "2"): 30.0,
    ("euroeval/mmlu-de", "de", "0"): 40.0,
    ("arena", "en", "q1"): 1.0,
    ("arena", "en", "q2"): 0.25,
    ("length_controlled", "en", ""): 0.75,
    ("length_controlled", "all", ""): 0.7,
    ("length_controlled/standard_error", "all", ""): 0.1,
    ("fidelity", "en", "q1"): 1.0,
    ("fidelity", "en", "q2"): 1.0,
    ("fidelity", "de", "q1"): 0.0,
    ("fidelity", "de", "q2"): 0.0,
    ("reward", "en", "q1"): 1.5,
    ("reward", "en", "q2"): -2.0,
    ("reward", "de", "q1"): 0.25,
}


def test_every_value_that_was_measured_is_an_outcome_and_the_rest_is_counted(tmp_path: Path) -> None:
    manifest = run(arm="paired", seed=2, **evaluated(tmp_path), out=tmp_path / "out")

    assert measured(tmp_path / "out", "paired", 2) == EXPECTED
    assert counted(manifest, "benchmark scores") == {"de": (3, 2, {"not_main_metric": 1})}
    assert counted(manifest, "answers") == {"de": (2, 2, {}), "en": (2, 2, {})}
    dropped = {"other_order_unreadable": 1, "unreadable": 3}
    assert counted(manifest, "verdicts") == {"de": (4, 0, dropped), "en": (4, 4, {})}
    assert counted(manifest, "rewards") == {"de": (1, 1, {}), "en": (2, 2, {})}
    # seconds and gpu_seconds of benchmark, answer, arena, rate and train; no ledger has tokens
    assert counted(manifest, "amounts") == {None: (20, 10, {"not_known": 10})}
    assert counted(manifest, "outcomes") == {"all": (12, 12, {}), "de": (7, 7, {}), "en": (7, 7, {})}
    assert manifest.rows == 26


def test_the_oracle_tells_how_good_an_answer_is(tmp_path: Path) -> None:
    run(arm="a", answers=answers(tmp_path / "answers"), out=tmp_path / "out", config=TallyConfig(oracle=True))
    found = {key[1:]: value for key, value in measured(tmp_path / "out", "a", 0).items() if key[0] == "oracle"}
    assert found == {
        ("en", "q1"): 1.5,  # polite and two facts: 1 + (2 - 1) / 2
        ("en", "q2"): -1.0,  # rude
        ("de", "q1"): -1.5,  # no fact in German, and something else
        ("de", "q2"): -1.5,
    }
    assert found["en", "q1"] == world.oracle("en", CATS, ANSWERS[0][3])


@pytest.mark.parametrize(
    ("language", "question", "said"),
    [
        ("en", "Why?", r"question q9 \(en\): found 'Why\?'; expected a toy question in 'en'"),
        ("da", CATS, r"question q9 \(da\): found language da; expected one of en, de, fr, es"),
    ],
)
def test_the_oracle_knows_only_the_toy_world(language: str, question: str, said: str, tmp_path: Path) -> None:
    given = answers(tmp_path / "answers", rows=[("q9", language, question, "Yes.", "en")])
    with pytest.raises(ValueError, match=f"{said}.*leave --oracle out"):
        run(arm="a", answers=given, out=tmp_path / "out", config=TallyConfig(oracle=True))
    run(arm="a", answers=given, out=tmp_path / "out")


def test_a_cost_is_the_sum_over_a_stages_datasets_and_their_languages(tmp_path: Path) -> None:
    def made(stage: str, *ledger: Spent) -> Manifest:
        return Manifest(stage, 1, None, [], {}, [], {}, [], {}, [], {}, ledger)

    known = Spent("da", tokens_in=40, tokens_out=8, seconds=2.0, gpu_seconds=4.0, run_seconds=99.0)
    group = Spent("nl", tokens_in=2, tokens_out=0, seconds=0.5, gpu_seconds=1.0)
    amounts = dataset.Tally("amounts")

    found = list(costs([made("sample", known, Spent(None, seconds=1.5)), made("sample", group),
                        made("pair", Spent(None, seconds=0.25))], amounts))  # fmt: skip

    assert found == [
        ("cost/sample/seconds", "all", "", 4.0),
        ("cost/sample/gpu_seconds", "all", "", 5.0),
        ("cost/sample/tokens_in", "all", "", 42.0),
        ("cost/sample/tokens_out", "all", "", 8.0),
        ("cost/pair/seconds", "all", "", 0.25),
        ("cost/pair/gpu_seconds", "all", "", 0.0),
    ]
    assert amounts.counts() == [Count("amounts", None, 8, 6, {"not_known": 2})]


def test_a_run_is_added_to_those_before(tmp_path: Path) -> None:
    given = evaluated(tmp_path)
    base = answers(tmp_path / "base-answers", BASE)
    run(arm="base", answers=base, benchmarks=benchmarks(tmp_path / "base", BASE), out=tmp_path / "1")
    run(arm="paired", seed=1, **given, previous=tmp_path / "1", out=tmp_path / "2")
    run(arm="paired", seed=2, **given, previous=tmp_path / "2", out=tmp_path / "3")
    sampled = written(tmp_path / "made", None, "sample", [], "samples", spent=[Spent("en", 7, 5, 3.0)])
    manifest = run(arm="shared", made=[sampled], previous=tmp_path / "3", out=tmp_path / "4")

    found = outcomes(tmp_path / "4")
    assert list(found) == [("base", 0), ("paired", 1), ("paired", 2), ("shared", 0)]
    assert found["base", 0] == outcomes(tmp_path / "1")["base", 0]
    assert measured(tmp_path / "4", "paired", 1) == measured(tmp_path / "4", "paired", 2) == EXPECTED
    assert {key[0] for key in found["base", 0]} >= {"euroeval/mmlu-de", "fidelity", "cost/answer/seconds"}
    assert {key[0]: value for key, value in found["shared", 0].items() if "tokens" in key[0]} == {
        "cost/sample/tokens_in": 7.0,
        "cost/sample/tokens_out": 5.0,
    }
    assert manifest.rows == sum(map(len, found.values()))
    with pytest.raises(ValueError, match="found outcomes of paired, seed 1; expected none yet"):
        run(arm="paired", seed=1, **given, previous=tmp_path / "4", out=tmp_path / "5")


def test_a_result_is_fetched_only_for_the_same_run_at_the_same_cost(tmp_path: Path) -> None:
    def tallied(name: str, arm: str, seconds: float) -> Manifest:
        given = written(tmp_path / f"{name}-made", None, "pair", [], "pairs", spent=[Spent(None, seconds=seconds)])
        return run(arm=arm, made=[given], out=tmp_path / name, store=str(tmp_path / "store"))

    def fetched(manifest: Manifest) -> bool:
        return manifest.ledger[-1].bytes_read > 0

    given = written(tmp_path / "pairs", None, "pair", [], "pairs")
    first, second = (
        run(arm="a", made=[given], out=tmp_path / f"{number}", store=str(tmp_path / "store")) for number in range(2)
    )
    assert (fetched(first), fetched(second), second.digest) == (False, True, first.digest)
    assert not fetched(tallied("other", "b", 0.0))
    assert not fetched(tallied("slower", "b", 9.0))


@pytest.mark.parametrize(
    ("arm", "seed", "names", "said"),
    [
        ("", 0, ["answers"], "found arm '', seed 0"),
        ("a", -1, ["answers"], "found arm 'a', seed -1"),
        ("base", 1, ["answers"], "found arm 'base', seed 1; expected a name and 0 or more; 0 for base and shared"),
        ("base", 0, ["answers", "verdicts"], "arm base: found verdicts; expected none"),
        ("shared", 0, ["answers", "rewards"], "arm shared: found answers, rewards; expected none"),
        ("a", 0, [], "a, seed 0: found nothing that was measured or made"),
    ],
)
def test_a_run_that_cannot_be_is_refused(arm: str, seed: int, names: list[str], said: str, tmp_path: Path) -> None:
    given = {name: path for name, path in evaluated(tmp_path).items() if name in names}
    with pytest.raises(ValueError, match=said):
        run(arm=arm, seed=seed, **given, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "other", "said"),
    [
        ("benchmarks", "answers", "found a dataset of answers; expected a finished dataset of benchmarks"),
        ("answers", "verdicts", "found a dataset of verdicts; expected a finished dataset of answers"),
        ("verdicts", "rewards", "found a dataset of scores; expected a finished dataset of verdicts"),
        ("rewards", "training", "found a dataset of None; expected a finished dataset of scores"),
        ("training", "benchmarks", "a, seed 0: found a dataset of benchmarks as training"),
        ("previous", "answers", "found a dataset of answers; expected a finished dataset of outcomes"),
    ],
)
def test_a_dataset_of_something_else_is_refused(name: str, other: str, said: str, tmp_path: Path) -> None:
    given = evaluated(tmp_path)
    wrong = {"rewards": given["rewards"]} if name == "previous" else {}
    with pytest.raises(ValueError, match=said):
        run(arm="a", **{**wrong, name: given[other]}, out=tmp_path / "out")


def test_what_is_of_another_model_is_refused(tmp_path: Path) -> None:
    given, others = evaluated(tmp_path), answers(tmp_path / "others", BASE)

    def refused(said: str, **wrong: Any) -> None:
        with pytest.raises(ValueError, match=said):
            run(arm="a", **{**given, **wrong}, out=tmp_path / "out")

    refused("found verdicts of other answers", verdicts=verdicts(tmp_path / "v", others))
    refused("found rewards of other answers", rewards=rewards(tmp_path / "r", others))
    refused("found scores by score as rewards", rewards=rewards(tmp_path / "s", given["answers"], "score"))
    refused("the model's weights: found benchmarks: bbb", benchmarks=benchmarks(tmp_path / "b", BASE))
    refused("training: bbb.*evaluate the model that was trained", training=training(tmp_path / "t", BASE))
    refused("found it given twice", made=[given["training"]])


def test_rewards_without_the_answers_they_are_of_are_refused(tmp_path: Path) -> None:
    given = evaluated(tmp_path)
    with pytest.raises(ValueError, match="found rewards without answers; expected both"):
        run(arm="a", rewards=given["rewards"], out=tmp_path / "out")


def test_runs_that_were_evaluated_otherwise_are_not_put_together(tmp_path: Path) -> None:
    first, second = evaluated(tmp_path / "first"), evaluated(tmp_path / "second")
    run(arm="a", **first, out=tmp_path / "one")
    assert run(arm="b", **second, previous=tmp_path / "one", out=tmp_path / "two").metrics["alike"]["reward model"]
    other = rewards(tmp_path / "other", second["answers"], model="another")
    with pytest.raises(ValueError, match=r"found reward model .*; expected .*another.*; evaluate all runs alike"):
        run(arm="c", **{**second, "rewards": other}, previous=tmp_path / "two", out=tmp_path / "three")


def test_a_value_that_is_no_number_is_refused(tmp_path: Path) -> None:
    given = answers(tmp_path / "answers")
    judged = verdicts(tmp_path / "verdicts", given, [("en", None)])
    with pytest.raises(ValueError, match=r"found None as length_controlled \(en, all items\), and 1 such values"):
        run(arm="a", verdicts=judged, out=tmp_path / "out")


@dsl.component(base_image="none", install_kfp_package=False)
def hand(path: str, made: Output[Dataset], other: Output[Artifact]) -> None:
    import shutil

    for out in (made.path, other.path):
        shutil.copytree(path, out)


def test_a_chain_of_tallies_grows_one_dataset_in_a_pipeline(tmp_path: Path) -> None:
    given = evaluated(tmp_path)
    paths = {name: str(path) for name, path in given.items()}
    own = str(answers(tmp_path / "base-answers", BASE))
    sampled = str(written(tmp_path / "made", None, "sample", [], "samples", spent=[Spent("en", 7, 5, 3.0)]))
    pairs = str(written(tmp_path / "pairs", None, "pair", [], "pairs", spent=[Spent(None, 9)]))
    (tmp_path / "prompts").mkdir()
    written(tmp_path / "prompts" / "translated-0", None, "translate", [], "prompts")
    folder = str(tmp_path / "prompts")

    @dsl.pipeline(name="tallies")
    def tallies() -> Dataset:
        base = tally(arm="base", oracle=True, answers=hand(path=own).outputs["made"])
        found = {name: hand(path=path).outputs["made"] for name, path in paths.items() if name != "training"}
        trained = hand(path=paths["training"]).outputs["other"]
        own_data = hand(path=pairs).outputs["made"]
        paired = tally(
            arm="paired", seed=1, previous=base.outputs["outcomes"], training=trained, data=own_data, **found
        )
        with dsl.ParallelFor([sampled]) as path:
            samples = hand(path=path)
        shared = tally(
            arm="shared",
            previous=paired.outputs["outcomes"],
            samples=dsl.Collected(samples.outputs["made"]),
            prompts=hand(path=folder).outputs["made"],
        )
        return shared.outputs["outcomes"]

    compiler.Compiler().compile(tallies, str(tmp_path / "tallies.yaml"))
    result = local.run(tallies, {}, tmp_path / "run", io.StringIO())["Output"].path

    found = outcomes(Path(result))
    assert list(found) == [("base", 0), ("paired", 1), ("shared", 0)]
    assert found["base", 0]["oracle", "en", "q2"] == -1.0
    assert measured(Path(result), "paired", 1) == EXPECTED
    assert found["paired", 1]["cost/pair/tokens_in", "all", ""] == 9.0
    assert found["shared", 0]["cost/sample/tokens_in", "all", ""] == 7.0
    assert {key[0] for key in found["shared", 0]} >= {"cost/translate/seconds", "cost/sample/seconds"}
