"""Tally: what was measured of one arm's run -> outcomes, a row a value, added to those of the runs before.

    python -m croco tally --arm paired-dpo --seed 1 --benchmarks DIR --answers DIR --verdicts DIR --rewards DIR \
        --training DIR --made PAIRS --previous OUTCOMES --out DIR

Measures, each by language and by what it was measured on:
  euroeval/DATA_SET   0 to 100: an iteration of EuroEval's main metric
  arena               a question's mean score over its two orders, where both could be read: 1 won, .5 tied, 0 lost
  length_controlled   the win rate with answer length accounted for, of a language or `all`, and its /standard_error
  fidelity            1 where the answer to a question is in the language asked for, else 0
  reward              the reward model's score of the answer to a question
  oracle              the answer's true quality, in the toy world only
  cost/STAGE/AMOUNT   what the ledger says that stage took, for datasets that were made for this run alone
The model that all arms start from is arm `base`, which is judged against nothing; what all arms share is arm `shared`,
of which there is only the cost.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from croco import dataset, likeness, readings
from croco.dataset import Manifest, Spent
from croco.matches import load_side
from croco.rows import conform
from croco.writer import Writer

VERSION = 1
BASE, SHARED = "base", "shared"
MEASURED = {"benchmarks": "benchmarks", "answers": "answers", "verdicts": "verdicts", "rewards": "scores"}
"""What a run is measured by -> its contract."""
AMOUNTS = ("seconds", "gpu_seconds", "tokens_in", "tokens_out")
"""Of the ledger."""

Outcome = tuple[str, str, str, float]
"""(measure, language, item, value)."""


@dataclass(frozen=True)
class TallyConfig:
    """What is measured besides."""

    oracle: bool = False
    """Whether the answers' true quality is a measure too; all questions must be the toy world's (ours)."""


def euroeval(benchmarks: Path, tally: dataset.Tally) -> Iterator[Outcome]:
    """Each iteration of each data set's main metric."""
    main = readings.main_scores(benchmarks)
    mains = Counter(language for language, _ in main)
    for code, number in Counter(dataset.read(benchmarks, "benchmarks", ["language"])["language"].to_pylist()).items():
        tally.take(code, number)
        tally.keep(code, mains[code])
        tally.drop(code, "not_main_metric", number - mains[code])
    for (code, benchmark), iterations in main.items():
        for number, score in enumerate(iterations):
            yield f"euroeval/{benchmark}", code, str(number), score


def arena(verdicts: Path, tally: dataset.Tally) -> Iterator[Outcome]:
    """Each question's score, and the length-controlled win rates."""
    scores = readings.question_scores(verdicts)
    for row in dataset.read(verdicts, "verdicts", ["question_id", "language", "verdict"]).to_pylist():
        tally.take(row["language"])
        if (row["language"], row["question_id"]) in scores:
            tally.keep(row["language"])
        else:
            tally.drop(row["language"], "other_order_unreadable" if row["verdict"] else "unreadable")
    for (code, question), score in scores.items():
        yield "arena", code, question, score
    for rate in dataset.load_manifest(verdicts).metrics["win_rates"]:
        yield "length_controlled", rate["language"], "", rate["length_controlled"]
        if rate["lc_standard_error"] is not None:
            yield "length_controlled/standard_error", rate["language"], "", rate["lc_standard_error"]


def answered(answers: Path, tally: dataset.Tally, oracle: bool = False) -> Iterator[Outcome]:
    """Of each answer, whether it is in the language asked for and, with `oracle`, how good it is.

    Raises: ValueError for answers of several models; with `oracle`, for a question that is not the toy world's.
    """
    _, side = load_side(answers)
    faithful = readings.faithful(answers)
    for (question, code), row in side.items():
        tally.take(code)
        tally.keep(code)
        yield "fidelity", code, question, float(faithful[code][question])
        if oracle:
            yield "oracle", code, question, quality(row)


def quality(answer: Mapping[str, Any]) -> float:
    """The true quality of a row of answers. Raises: ValueError if its question is not the toy world's."""
    from croco.toy import world

    code, question = answer["language"], answer["prompt"]
    try:
        if code not in world.LANGUAGES:
            raise ValueError(f"found language {code}; expected one of {', '.join(world.LANGUAGES)}")
        return world.oracle(code, question, answer["output"])
    except ValueError as error:
        raise ValueError(f"question {answer['question_id']} ({code}): {error}; leave --oracle out") from error


def rated(rewards: Path, tally: dataset.Tally) -> Iterator[Outcome]:
    """The reward of each answer."""
    for row in dataset.read(rewards, "scores").to_pylist():
        tally.take(row["language"])
        tally.keep(row["language"])
        yield "reward", row["language"], row["prompt_id"], row["reward"]


def costs(manifests: Iterable[Manifest], tally: dataset.Tally) -> Iterator[Outcome]:
    """What each stage took, over its datasets and their languages; an amount that no ledger knows is counted."""
    ledgers: dict[str, list[Spent]] = {}
    for manifest in manifests:
        ledgers.setdefault(manifest.stage, []).extend(manifest.ledger)
    for stage, spent in ledgers.items():
        for amount in AMOUNTS:
            known = [value for row in spent if (value := getattr(row, amount)) is not None]
            tally.take(None)
            if known:
                tally.keep(None)
                yield f"cost/{stage}/{amount}", "all", "", math.fsum(known)
            else:
                tally.drop(None, "not_known")


def run(
    *,
    arm: str,
    seed: int = 0,
    previous: Path | None = None,
    measured: Path | None = None,
    benchmarks: Path | None = None,
    answers: Path | None = None,
    verdicts: Path | None = None,
    rewards: Path | None = None,
    training: Path | None = None,
    made: list[Path] = [],  # noqa: B006
    out: Path,
    store: str | None = None,
    config: TallyConfig = TallyConfig(),
) -> dataset.Manifest:
    """Write the outcomes of one arm's run after those of the runs before.

    Args:
        arm: Name of the arm; `base` and `shared` as above, of seed 0.
        seed: Which of the arm's runs this is.
        previous: Dataset of outcomes of other runs.
        measured: Dataset of outcomes of this run, to be added to.
        benchmarks: The run's EuroEval scores.
        answers: Its answers to arena questions.
        verdicts: A judge's on those answers.
        rewards: Of those answers, as `rate` gives them.
        training: The output of `train`, or what is left of it without weights.
        made: Datasets that were made for this run alone besides those above, for what they cost.
        out: Directory to write.
        store: Where finished work is kept and looked for: s3://bucket/prefix or a folder.
    """
    named = {"benchmarks": benchmarks, "answers": answers, "verdicts": verdicts, "rewards": rewards}
    paths = {name: path for name, path in {**named, "training": training}.items() if path}
    check_arm(arm, seed, set(paths), len(made) + bool(measured))
    every = [*paths.values(), *made]
    if twice := [path for path, number in Counter(map(Path.resolve, every)).items() if number > 1]:
        raise ValueError(
            f"{twice[0]}: found it given twice; expected each dataset once, for its cost would count twice"
        )
    before = pa.concat_tables([earlier(previous, arm, seed), own(measured, arm, seed)])
    manifests = {name: dataset.load_manifest(path, MEASURED.get(name)) for name, path in paths.items()}
    check_one_model(f"{arm}, seed {seed}", manifests)
    same = alike(manifests, [path for path in (previous, measured) if path])
    amounts = dataset.Tally("amounts")
    cost = list(costs([*manifests.values(), *map(dataset.load_manifest, made)], amounts))
    rates = manifests["verdicts"].metrics["win_rates"] if verdicts else []
    writer = Writer(
        out,
        "outcomes",
        stage="tally",
        version=VERSION,
        config=config,
        inputs=[*filter(None, (previous, measured)), *every],
        store=store,
        also=[
            arm,
            seed,
            sorted(paths),
            cost,
            rates,
            same,
        ],  # digests of inputs say nothing of roles, ledgers and metrics
    )
    if writer.done:
        return writer.done
    found, tallies = measure(paths, config)
    table = dataset.unique(pa.concat_tables([before, rows(arm, seed, [*found, *cost])]), "outcomes")
    writer.add(table.combine_chunks())
    outcomes = dataset.Tally("outcomes")
    for code, number in Counter(table["language"].to_pylist()).items():
        outcomes.take(code, number)
        outcomes.keep(code, number)
    counts = [count for tally in (outcomes, *tallies, amounts) for count in tally.counts()]
    return writer.finish(counts, metrics={"arm": arm, "seed": seed, "alike": same})


def measure(paths: Mapping[str, Path], config: TallyConfig) -> tuple[list[Outcome], list[dataset.Tally]]:
    """What the datasets of a run say, and how many of their rows say it."""
    readers: dict[str, tuple[str, Callable[[Path, dataset.Tally], Iterator[Outcome]]]] = {
        "benchmarks": ("benchmark scores", euroeval),
        "answers": ("answers", functools.partial(answered, oracle=config.oracle)),
        "verdicts": ("verdicts", arena),
        "rewards": ("rewards", rated),
    }
    found: list[Outcome] = []
    tallies = []
    for name, (unit, read) in readers.items():
        if name in paths:
            tallies.append(dataset.Tally(unit))
            found += read(paths[name], tallies[-1])
    return found, tallies


def rows(arm: str, seed: int, found: Sequence[Outcome]) -> pa.Table:
    """Outcomes of a run as a table, by measure, language and item.

    Raises: ValueError for a value that is not finite, or two of one measure, language and item.
    """
    if strange := [outcome for outcome in found if outcome[3] is None or not math.isfinite(outcome[3])]:
        measure, language, item, value = strange[0]
        raise ValueError(
            f"{arm}, seed {seed}: found {value} as {measure} ({language}, {item or 'all items'}), and {len(strange)} "
            "such values in all; expected finite numbers"
        )
    columns = ("measure", "language", "item", "value")
    table = [{"arm": arm, "seed": seed, **dict(zip(columns, outcome, strict=True))} for outcome in sorted(found)]
    return dataset.unique(conform(table, "outcomes"), "outcomes", f"{arm}, seed {seed}")


def check_arm(arm: str, seed: int, given: set[str], made: int) -> None:
    """Raises: ValueError for a run that cannot be, or of which nothing was measured."""
    if not arm or seed < 0 or (seed and arm in (BASE, SHARED)):
        raise ValueError(f"found arm {arm!r}, seed {seed}; expected a name and 0 or more; 0 for {BASE} and {SHARED}")
    never = {BASE: {"verdicts", "training"}, SHARED: {*MEASURED, "training"}}.get(arm, set())
    if strange := sorted(never & given):
        raise ValueError(
            f"arm {arm}: found {', '.join(strange)}; expected none; {BASE} is the model that all arms start from, "
            f"and {SHARED} what they share; name the arm otherwise"
        )
    if not given and not made:
        raise ValueError(f"{arm}, seed {seed}: found nothing that was measured or made; expected at least one dataset")


def alike(manifests: Mapping[str, Manifest], others: Sequence[Path]) -> dict[str, Any]:
    """What all runs that are put together must have in common. Raises: ValueError where this one differs."""
    found: dict[str, Any] = {}
    if "benchmarks" in manifests:
        found["EuroEval settings"] = dict(manifests["benchmarks"].config)
    if "rewards" in manifests:
        found["reward model"] = likeness.weights(manifests["rewards"].models.get("reward", {}))
    if verdicts := manifests.get("verdicts"):
        found["judge"] = likeness.weights(verdicts.models.get("judge", {}))
        found["reference answers"] = [source["digest"] for source in verdicts.inputs[1:2]]
    for path in others:
        for name, value in dataset.load_manifest(path).metrics.get("alike", {}).items():
            if found.setdefault(name, value) != value:
                raise ValueError(f"{path}: found {name} {value}; expected {found[name]}; evaluate all runs alike")
    return found


def check_one_model(name: str, manifests: Mapping[str, Manifest]) -> None:
    """Raises: ValueError unless all datasets of run `name` are of one model's weights, and of the same answers."""
    training, rewards = manifests.get("training"), manifests.get("rewards")
    if training and training.contract:
        raise ValueError(f"{name}: found a dataset of {training.contract} as training; expected the output of `train`")
    if rewards and rewards.stage != "rate":
        raise ValueError(f"{name}: found scores by {rewards.stage} as rewards; expected what `rate` writes")
    if rewards and "answers" not in manifests:
        raise ValueError(f"{name}: found rewards without answers; expected both: rewards do not say whose they are")
    if answers := manifests.get("answers"):
        for what in ("verdicts", "rewards"):
            read = [source["digest"] for source in manifests[what].inputs] if what in manifests else [answers.digest]
            if read[:1] != [answers.digest]:  # what is judged comes first, then what it is judged against
                raise ValueError(f"{name}: found {what} of other answers; expected them of the answers given")
    policies = {
        what: manifests[what].models.get("policy", {}) for what in ("benchmarks", "answers") if what in manifests
    }
    if training:
        policies["training"] = {"sha256": training.metrics.get("merged_sha256")}
    if "verdicts" in manifests and "model" in manifests["verdicts"].models:
        policies["verdicts"] = manifests["verdicts"].models["model"]
    if policies:
        check = likeness.one("the model's weights", {what: likeness.weights(found) for what, found in policies.items()})
        if check.verdict != likeness.PASS:
            raise ValueError(f"{name}: {check.text}; evaluate the model that was trained")


def earlier(previous: Path | None, arm: str, seed: int) -> pa.Table:
    """The outcomes of the runs before. Raises: ValueError if this run is among them."""
    table = dataset.read(previous or [], "outcomes")
    if (arm, seed) in set(zip(table["arm"].to_pylist(), table["seed"].to_pylist(), strict=True)):
        raise ValueError(f"{previous}: found outcomes of {arm}, seed {seed}; expected none yet; tally each run once")
    return table


def own(measured: Path | None, arm: str, seed: int) -> pa.Table:
    """What was measured of this run before. Raises: ValueError if it is another's."""
    table = dataset.read(measured or [], "outcomes")
    if others := set(zip(table["arm"].to_pylist(), table["seed"].to_pylist(), strict=True)) - {(arm, seed)}:
        raise ValueError(f"{measured}: found outcomes of {sorted(others)}; expected those of {arm}, seed {seed}, alone")
    return table
