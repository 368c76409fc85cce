"""Signal: does the method work? The tuned policy against the base and a control, by an oracle no model ever sees.

    python tests/e2e/measure_signal.py --toy .cache/toy --out .cache/signal

Each seed samples, scores, pairs and tunes anew; its control is tuned on the same pairs with chosen and rejected swapped
by a coin. All answer questions about nouns that no preference was ever given for. Oracle, splits and questions were
fixed (croco/toy/world.py) before the first tuning run. The margins below were fixed with them.
"""

import argparse
import dataclasses
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from croco import dataset, pair, prepare, rows, sample, score, train, translate
from croco.toy import world
from croco.writer import Writer
from pipelines.toy import parameters

ORACLE_OVER_CONTROL = 0.15
"""The oracle's mean must rise by this much more than the control's, in every language and for every seed."""
RIGHT_LANGUAGE_DROP = 0.02
"""The share of answers in the language asked for may fall by less than this."""
REWARD_GAIN = 0.5
"""The mean reward must rise by this much."""

PROMPTS = 64
"""English prompts to tune on."""

Measured = dict[str, dict[str, float]]
"""Language -> oracle (-1.5 to 3.5), right_language (share), reward (mean logit)."""


def held_out(out: Path) -> Path:
    """Prompts about test nouns, every kind of question, in every language of the toy world."""
    table = [
        {
            "prompt_id": f"{noun:02d}{kind}{lead}", "language": language, "reference": None, "source_dataset": None,
            "messages": [{"role": "user", "content": world.Question(noun, kind, lead).render(language)}],
            "domain": world.KINDS[kind], "split": "eval",
        }
        for noun in world.TEST
        for kind in range(len(world.KINDS))
        for lead in range(len(world.LEADS["en"]))
        for language in world.LANGUAGES
    ]  # fmt: skip
    return _write(out, "prompts", "language", pa.Table.from_pylist(table, schema=rows.CONTRACTS["prompts"].schema))


def _write(out: Path, contract: str, language: str, table: pa.Table) -> Path:
    writer = Writer(out, contract, stage="signal", version=1, config={})
    writer.add(table)
    languages = table[language].to_pylist()
    writer.finish(
        [dataset.Count(contract, code, n, n) for code in sorted(set(languages)) if (n := languages.count(code))]
    )
    return out


def coin_flipped(pairs: Path, seed: int, out: Path) -> Path:
    """The same pairs, chosen and rejected swapped in about half of them: preferences that mean nothing."""
    swapped = []
    for row in dataset.read(pairs, "pairs").to_pylist():
        if rows.fraction_of("control", seed, row["pair_id"]) < 0.5:
            for name in ("{}", "{}_reward", "{}_index", "{}_language"):
                chosen, rejected = name.format("chosen"), name.format("rejected")
                row[chosen], row[rejected] = row[rejected], row[chosen]
        swapped.append(row)
    return _write(out, "pairs", "prompt_language", pa.Table.from_pylist(swapped, schema=rows.CONTRACTS["pairs"].schema))


def settings(kind: Any, toy: Path, **others: Any) -> Any:
    """A stage's config with the toy world's parameters of the same names."""
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in parameters(toy).items() if name in names} | others)


def sampling(toy: Path, n: int, seed: int) -> sample.SampleConfig:
    return settings(sample.SampleConfig, toy, n=n, seed=seed)


def measure(model: Path, questions: Path, reward: Path, out: Path, config: sample.SampleConfig) -> Measured:
    """How well `model` answers the held-out questions, per language."""
    sample.run(prompts=[questions], model=str(model), out=out / "samples", config=config)
    score.run(prompts=[questions], samples=[out / "samples"], model=str(reward), out=out / "scores")
    asked = {
        (row["prompt_id"], row["language"]): row["messages"][0]["content"]
        for row in dataset.read(questions, "prompts").to_pylist()
    }
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in dataset.read(out / "samples", "samples").to_pylist():
        language, text = row["language"], row["text"]
        found[language]["oracle"].append(world.oracle(language, asked[row["prompt_id"], language], text))
        found[language]["right_language"].append(world.in_language(language, text))
    for row in dataset.read(out / "scores", "scores").to_pylist():
        found[row["language"]]["reward"].append(row["reward"])
    return {code: {name: float(np.mean(values)) for name, values in by.items()} for code, by in sorted(found.items())}


def tune(toy: Path, prompts: list[Path], seed: int, out: Path) -> dict[str, Path]:
    """Sample, score, pair and tune with `seed`; the merged policies, tuned and control."""
    sample.run(prompts=prompts, model=str(toy / "policy"), out=out / "samples", config=sampling(toy, 64, seed))
    score.run(prompts=prompts, samples=[out / "samples"], model=str(toy / "reward"), out=out / "scores")
    pair.run(prompts=prompts, samples=[out / "samples"], scores=[out / "scores"], out=out / "pairs")
    models = {}
    for name, data in [("tuned", out / "pairs"), ("control", coin_flipped(out / "pairs", seed, out / "flipped"))]:
        train.run(
            data=[data], model=str(toy / "policy"), out=out / name, config=settings(train.TrainConfig, toy, seed=seed)
        )
        models[name] = out / name / "merged"
    return models


def failures(base: Measured, tuned: Measured, control: Measured) -> list[str]:
    """What the tuned policy fails to show, in words."""
    failed = []
    for code in base:
        gain = tuned[code]["oracle"] - base[code]["oracle"]
        over = tuned[code]["oracle"] - control[code]["oracle"]
        drop = base[code]["right_language"] - tuned[code]["right_language"]
        reward = tuned[code]["reward"] - base[code]["reward"]
        if not (gain > 0 and over > ORACLE_OVER_CONTROL):
            failed.append(
                f"{code}: oracle {gain:+.2f} over base, {over:+.2f} over control; expected > {ORACLE_OVER_CONTROL}"
            )
        if not drop < RIGHT_LANGUAGE_DROP:
            failed.append(f"{code}: right language fell by {drop:.3f}; expected less than {RIGHT_LANGUAGE_DROP}")
        if not reward > REWARD_GAIN:
            failed.append(f"{code}: reward rose by {reward:.2f}; expected more than {REWARD_GAIN}")
    return failed


def show(name: str, found: Measured) -> None:
    cells = "  ".join(
        f"{code} {v['oracle']:+.2f} {v['right_language']:.3f} {v['reward']:+.2f}" for code, v in found.items()
    )
    print(f"{name:16} {cells}", flush=True)


def signal(toy: Path, out: Path, seeds: Sequence[int]) -> list[str]:
    """Measure, print a table, and return what failed."""
    source = str(toy / "instructions.jsonl")
    prepare.run(source=source, out=out / "prompts", config=prepare.PrepareConfig(count=PROMPTS))
    others = tuple(code for code in world.LANGUAGES if code != "en")
    translation = translate.TranslateConfig(languages=others, max_model_len=parameters(toy)["translator_max_model_len"])
    translate.run(prompts=out / "prompts", model=str(toy / "translator"), out=out / "translated", config=translation)
    questions = held_out(out / "questions")
    answering = sampling(toy, 8, seed=12345)
    base = measure(toy / "policy", questions, toy / "reward", out / "base", answering)
    failed, lines = [], [("base", base)]
    for seed in seeds:
        models = tune(toy, [out / "prompts", out / "translated"], seed, out / str(seed))
        found = {
            name: measure(model, questions, toy / "reward", out / str(seed) / f"{name}-held-out", answering)
            for name, model in models.items()
        }
        lines += [(f"{name} seed {seed}", values) for name, values in found.items()]
        failed += [f"seed {seed}: {words}" for words in failures(base, found["tuned"], found["control"])]
    print("\nheld-out questions: oracle, share in the right language, reward")
    for name, values in lines:
        show(name, values)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description="Tuned against base and a coin-flipped control on held-out prompts.")
    parser.add_argument("--toy", type=Path, required=True, help="the built toy world")
    parser.add_argument("--out", type=Path, required=True, help="directory to work in")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    failed = signal(arguments.toy, arguments.out, arguments.seeds)
    print("\n".join(failed) or f"signal: passed for seeds {arguments.seeds}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
