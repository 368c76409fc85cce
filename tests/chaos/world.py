"""World: the stages that are killed, on the toy world, each cut into about a dozen shards."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from croco import dataset, pair, rows
from croco.answer import AnswerConfig
from croco.arena import ArenaConfig
from croco.benchmark import BenchmarkConfig
from croco.sample import SampleConfig
from croco.score import ScoreConfig
from croco.toy import world
from croco.train import TrainConfig
from croco.translate import TranslateConfig
from croco.writer import Writer
from pipelines.toy import parameters

NOUNS = 6
"""How many nouns prompts are about; a prompt a noun, kind of question and language."""


@dataclass(frozen=True)
class Case:
    """A stage with all that its `run` takes but `out` and `store`."""

    stage: str
    needs: tuple[str, ...]
    """Names of what it reads below `expected`."""
    arguments: Mapping[str, Any]
    config: Any

    def run(self, out: Path, store: str | None) -> dataset.Manifest:
        stage: Any = importlib.import_module(f"croco.{self.stage}")
        return stage.run(**self.arguments, out=out, store=store, config=self.config)

    def command(self, out: Path, store: str | None) -> list[str]:
        """The interpreter's arguments that do the same."""
        defaults = type(self.config)()
        settings = {
            field.name: value
            for field in dataclasses.fields(self.config)
            if (value := getattr(self.config, field.name)) != getattr(defaults, field.name)
        }
        flags = {**self.arguments, **settings, "out": out, **({"store": store} if store else {})}
        return ["-m", "croco", self.stage, *(word for name, value in flags.items() for word in _flag(name, value))]


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    return [flag, *map(str, value if isinstance(value, list | tuple) else [value])]


def cases(toy: Path, expected: Path, scale: int) -> dict[str, Case]:
    """Every stage whose work outlives a kill, by name; a larger `scale` has more and smaller shards."""
    prompts, samples, pairs = expected / "prompts", expected / "sample", expected / "pair"
    languages, questions = ("en", "de", "fr", "es"), str(toy / "questions.jsonl")

    def settings(kind: Any, **others: Any) -> Any:
        names = {field.name for field in dataclasses.fields(kind)}
        return kind(**{name: value for name, value in parameters(toy).items() if name in names} | others)

    def model(name: str) -> str:
        return str(toy / name)

    found = [
        Case(
            "translate",
            ("prompts",),
            {"prompts": expected / "english", "model": model("translator")},
            TranslateConfig(languages=languages[1:], max_model_len=512, shard_prompts=16 // scale),
        ),
        Case(
            "sample",
            ("prompts",),
            {"prompts": [prompts], "model": model("policy")},
            settings(SampleConfig, n=16, shard_prompts=16 // scale),
        ),
        Case(
            "score",
            ("prompts", "sample"),
            {"prompts": [prompts], "samples": [samples], "model": model("reward")},
            ScoreConfig(shard_prompts=16 // scale),
        ),
        Case(
            "train",
            ("pair",),
            {"data": [pairs], "model": model("policy")},
            settings(TrainConfig, global_batch=4, micro_batch=4, checkpoint_steps=2),
        ),
        Case(
            "answer",
            (),
            {"questions": questions, "model": model("policy"), "generator": "base"},
            AnswerConfig(languages=languages, max_tokens=80, shard_questions=32 // scale),
        ),
        Case(
            "arena",
            ("answer", "others"),
            {"answers": expected / "answer", "reference": expected / "others", "judge": model("judge")},
            ArenaConfig(judge_format="toy", shard_questions=32 // scale),
        ),
        Case(
            "benchmark",
            (),
            {"model": model("policy"), "datasets": toy / "euroeval"},
            BenchmarkConfig(languages=("en", "de"), iterations=2),
        ),
    ]
    return {case.stage: case for case in found}


def write_prompts(expected: Path) -> None:
    """`prompts`, in every language, and `english` alone."""
    table = pa.Table.from_pylist(
        [
            {
                "prompt_id": f"{noun:02d}{kind}", "language": language, "reference": None, "source_dataset": None,
                "messages": [{"role": "user", "content": world.Question(noun, kind).render(language)}],
                "domain": name, "split": "eval" if rows.fraction_of("split", noun, kind) < 0.1 else "train",
            }
            for noun in world.TRAIN[:NOUNS]
            for kind, name in enumerate(world.KINDS)
            for language in world.LANGUAGES
        ],
        schema=rows.CONTRACTS["prompts"].schema,
    )  # fmt: skip
    _write(expected / "prompts", "prompts", table)
    _write(expected / "english", "prompts", table.filter(pc.equal(table["language"], "en")))


def write_pairs(expected: Path) -> None:
    pair.run(
        prompts=[expected / "prompts"], samples=[expected / "sample"], scores=[expected / "score"],
        out=expected / "pair",
    )  # fmt: skip


def write_others(expected: Path) -> None:
    """`others`: the answers of `answer`, each to another question of its language: a model to be compared with."""
    answers = dataset.read(expected / "answer", "answers").sort_by([("language", "ascending")]).to_pylist()
    for row, other in zip(answers, [*answers[1:], answers[0]], strict=True):
        row |= {"generator": "other", "output": other["output"]}
    models = dataset.load_manifest(expected / "answer").models
    table = pa.Table.from_pylist(answers, schema=rows.CONTRACTS["answers"].schema)
    _write(expected / "others", "answers", table, models)


INPUTS: Mapping[str, tuple[tuple[str, ...], Callable[[Path], None]]] = {
    "prompts": ((), write_prompts),
    "pair": (("score",), write_pairs),
    "others": (("answer",), write_others),
}
"""What stages read besides the outputs of others, by name: what it needs itself, and what writes it."""


def _write(out: Path, contract: str, table: pa.Table, models: Mapping[str, Any] | None = None) -> None:
    writer = Writer(out, contract, stage="chaos", version=1, config={}, models=models)
    writer.add(table)
    codes = table["language"].to_pylist()
    writer.finish([dataset.Count(contract, code, n, n) for code in sorted(set(codes)) if (n := codes.count(code))])
