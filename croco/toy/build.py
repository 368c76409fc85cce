"""Toy: nothing -> a small world of models and questions on which the whole method runs without a GPU or downloads.

    python -m croco toy --out DIR

The policy is trained first; reward model, translator and judge start from it and are trained two at a time.
A finished world is kept: the same configuration and source text return at once. With `--study` there are two models
more, which only a study asks for: another policy, and a translator into English.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import time
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from croco.toy import euroeval, examples, models, quality
from croco.toy.world import KINDS, LANGUAGES, LEADS, TEST, TRAIN, Question, draw_good_answer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class ToyConfig:
    """Every number is ours, found by trial on two cores."""

    seed: int = 0  # of weights, examples and measurements
    policy_steps: int = 600  # of `batch` examples
    policy_rate: float = 8e-3  # peak learning rate
    batch: int = 48  # examples a step, for the policy and the translator
    translator_steps: int = 300
    translator_rate: float = 2e-3
    judge_steps: int = 400
    judge_rate: float = 2e-3
    judge_batch: int = 32  # fewer, because its prompts are long
    reward_steps: int = 200
    reward_rate: float = 8e-4
    reward_batch: int = 24  # pairs a step
    questions: int = 40  # arena questions a language, at most 100
    other_seed: int = 1  # of the other policy, whose answers are off-policy for the first
    other_steps: int = 300  # fewer, so that it answers otherwise
    aligner_steps: int = 150

    def __post_init__(self) -> None:
        """Raise ValueError for a number that cannot work."""
        for name, value in asdict(self).items():
            if name != "seed" and value <= 0:
                raise ValueError(f"ToyConfig.{name}: found {value}; expected a number above 0")
        if self.questions > 100:
            raise ValueError(f"ToyConfig.questions: found {self.questions}; expected at most 100")


def build_key(config: ToyConfig) -> str:
    """Return a hash of the configuration and of this package's source text."""
    sources = {path.name: path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("*.py")}
    return hashlib.sha256(json.dumps([asdict(config), sources], sort_keys=True).encode()).hexdigest()


def every_question(nouns: range) -> list[Question]:
    """Return each question about `nouns` once."""
    return [Question(*plan) for plan in product(nouns, range(len(KINDS)), range(len(LEADS["en"])))]


def instructions(seed: int) -> list[dict[str, Any]]:
    """Return every English question about a training noun, shuffled, with a careful writer's answer."""
    rng = random.Random(seed)
    questions = every_question(TRAIN)
    rng.shuffle(questions)
    return [
        {
            "id": f"toy-{number:03d}",
            "messages": [
                {"role": "user", "content": question.render("en")},
                {"role": "assistant", "content": draw_good_answer(rng, question.noun).render("en")},
            ],
            "source_dataset": "toy",
            "domain": KINDS[question.kind],
        }
        for number, question in enumerate(questions)
    ]


def arena_questions(seed: int, count: int) -> list[dict[str, str]]:
    """Return `count` questions about test nouns in every language, in the fields of m-ArenaHard."""
    chosen = random.Random(seed).sample(every_question(TEST), count)
    return [
        {
            "question_id": f"toy-{number:03d}",
            "category": "toy",
            "subcategory": KINDS[question.kind],
            "prompt": question.render(language),
            "language": language,
        }
        for language in LANGUAGES
        for number, question in enumerate(chosen)
    ]


def load_policy(out: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return the trained policy and its tokenizer."""
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

    tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "policy")
    return Qwen3ForCausalLM.from_pretrained(out / "policy"), tokenizer


def build_policy(out: Path, config: ToyConfig) -> dict[str, float]:
    """Train and save tokenizer and policy; return its quality."""
    tokenizer = models.build_tokenizer(config.seed)
    return _build_policy(out, config, "policy", tokenizer, config.seed, config.policy_steps)


def build_other(out: Path, config: ToyConfig) -> dict[str, float]:
    """Train and save another policy with the same tokenizer; return its quality."""
    _, tokenizer = load_policy(out)
    return _build_policy(out, config, "other", tokenizer, config.other_seed, config.other_steps)


def _build_policy(
    out: Path, config: ToyConfig, name: str, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int
) -> dict[str, float]:
    policy = models.fit_language_model(
        models.build_policy(tokenizer),
        tokenizer,
        examples.draw_policy_turn,
        seed=seed,
        steps=steps,
        peak=config.policy_rate,
        batch=config.batch,
        name=name,
    )
    models.save(policy, tokenizer, out / name)
    return quality.measure_policy(policy, tokenizer, config.seed)


def build_translator(out: Path, config: ToyConfig) -> dict[str, float]:
    """Train and save the translator; return its quality."""
    return _build_translator(out, config, "translator", examples.draw_translator_turn, config.translator_steps)


def build_aligner(out: Path, config: ToyConfig) -> dict[str, float]:
    """Train and save the translator into English; return its quality."""
    into = {"sources": LANGUAGES[1:], "targets": ("en",)}
    return _build_translator(out, config, "aligner", examples.draw_aligner_turn, config.aligner_steps, **into)


def _build_translator(
    out: Path,
    config: ToyConfig,
    name: str,
    draw: Callable[[random.Random], examples.Turn],
    steps: int,
    **directions: tuple[str, ...],
) -> dict[str, float]:
    policy, tokenizer = load_policy(out)
    tokenizer.chat_template = models.TRANSLATOR_TEMPLATE
    translator = models.fit_language_model(
        policy,
        tokenizer,
        draw,
        seed=config.seed,
        steps=steps,
        peak=config.translator_rate,
        batch=config.batch,
        name=name,
    )
    models.save(translator, tokenizer, out / name)
    return quality.measure_translator(translator, tokenizer, config.seed, **directions)


def build_judge(out: Path, config: ToyConfig) -> dict[str, float]:
    """Train and save the judge; return its quality."""
    policy, tokenizer = load_policy(out)
    judge = models.fit_language_model(
        policy,
        tokenizer,
        examples.draw_judgement,
        seed=config.seed,
        steps=config.judge_steps,
        peak=config.judge_rate,
        batch=config.judge_batch,
        name="judge",
    )
    models.save(judge, tokenizer, out / "judge")
    return quality.measure_judge(judge, tokenizer, config.seed)


def build_reward(out: Path, config: ToyConfig) -> dict[str, float]:
    """Train and save the reward model; return its quality."""
    policy, tokenizer = load_policy(out)
    reward = models.fit_reward_model(
        models.build_reward_model(policy),
        tokenizer,
        examples.draw_preference,
        seed=config.seed,
        steps=config.reward_steps,
        peak=config.reward_rate,
        batch=config.reward_batch,
    )
    models.save(reward, tokenizer, out / "reward")
    return quality.measure_reward(reward, tokenizer, config.seed)


BUILDERS = {"policy": build_policy, "judge": build_judge, "translator": build_translator, "reward": build_reward}
STUDY = {"other": build_other, "aligner": build_aligner}


def build_model(name: str, out: Path, config: ToyConfig) -> tuple[float, dict[str, float]]:
    """Build one model; return its seconds, import and measurement included, and its quality."""
    start = time.perf_counter()
    import torch

    torch.set_num_threads(1)  # two processes share two cores, and a busy machine punishes more
    torch.manual_seed(config.seed)
    measured = {**BUILDERS, **STUDY}[name](out, config)
    return round(time.perf_counter() - start, 1), {key: round(value, 3) for key, value in measured.items()}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def run(*, out: Path, study: bool = False, config: ToyConfig = ToyConfig()) -> dict[str, Any]:
    """Build the world in `out`, or find it there; return what toy.json, written last, holds.

    Args:
        out: Folder of the world.
        study: Whether the models that only a study asks for are built too; study.json tells of them.
    """
    world = _world(out, config)
    if study and not _found(out / "study.json", world["key"], STUDY):
        _write(out / "study.json", {"key": world["key"], **_train(STUDY, out, config)})
    return world


def _found(record: Path, key: str, builders: Collection[str]) -> dict[str, Any] | None:
    """What a record holds, if all that it tells of is there; else it is removed."""
    if record.exists():
        found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        if found["key"] == key and all((record.parent / name / "model.safetensors").is_file() for name in builders):
            return found
        record.unlink()
    return None


def _world(out: Path, config: ToyConfig) -> dict[str, Any]:
    record, key = out / "toy.json", build_key(config)
    if found := _found(record, key, BUILDERS):
        return found
    out.mkdir(parents=True, exist_ok=True)
    write_lines(out / "instructions.jsonl", instructions(config.seed))
    write_lines(out / "questions.jsonl", arena_questions(config.seed, config.questions))
    euroeval.write(out / "euroeval", config.seed)
    result = {"key": key, "seed": config.seed, **_train(BUILDERS, out, config)}
    _write(record, result)
    return result


def _train(builders: Collection[str], out: Path, config: ToyConfig) -> dict[str, Any]:
    """Build models two at a time, the policy first; their seconds and quality."""
    start = time.perf_counter()
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as workers:
        built = {name: workers.submit(build_model, name, out, config).result() for name in builders if name == "policy"}
        futures = {name: workers.submit(build_model, name, out, config) for name in builders if name != "policy"}
        built |= {name: future.result() for name, future in futures.items()}
    seconds = {name: took for name, (took, _) in built.items()}
    return {
        "seconds": seconds | {"all": round(time.perf_counter() - start, 1)},
        "quality": {name: measured for name, (_, measured) in built.items()},
    }


def _write(record: Path, content: dict[str, Any]) -> None:
    """Write a record whole or not at all."""
    unfinished = record.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(record)
