"""Workload: what a run of `preference` has to do, in numbers of prompts, answers, pairs and the like.

Each stage's tokens, seconds and bytes grow with one of these numbers (`GROWS`); how fast, `pipelines.calibration` has
from reports, or `pipelines.reckoning` by arithmetic.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from croco import benchmark_datasets, checks, languages, models, plan, questions, suites, train

QUESTIONS = 498
"""Of m-ArenaHard in each language (v2.0's 498, which v2.1 is taken to have too)."""
POOLS = ("language", "all")


@dataclass(frozen=True)
class Settings:
    """The parameters of `preference` that decide how much work a run is, with the defaults they have there."""

    source: str = "allenai/Dolci-Instruct-SFT"
    count: int = 20_000
    languages: tuple[str, ...] = ("da", "nl", "en", "fr", "de", "it", "es")
    translator: str = "google/translategemma-27b-it"
    policy: str = "utter-project/EuroLLM-9B-Instruct-2512"
    n: int = 64
    max_tokens: int | None = None
    reward: str = "Skywork/Skywork-Reward-V2-Qwen3-8B"
    pool: str = "language"
    epochs: int = 1
    global_batch: int = 64
    sampled_reference: bool = False
    benchmark_datasets: str | None = None
    benchmark_suite: str = "paper"
    benchmark_iterations: int = 3
    questions: str = questions.QUESTIONS
    questions_limit: int | None = None
    questions_languages: tuple[str, ...] = ("en", "it", "es", "fr", "nl", "de", "da", "gl", "cy", "mt", "ga")
    answer_max_tokens: int = 8192
    judge: str = "Qwen/Qwen3.6-35B-A3B"
    workers: int = 7

    def __post_init__(self) -> None:
        checks.one_or_more(self, "count", "n", "max_tokens", "epochs", "global_batch", "benchmark_iterations")
        checks.one_or_more(self, "questions_limit", "answer_max_tokens", "workers")
        checks.one_of(self, "pool", POOLS)
        checks.one_of(self, "benchmark_suite", suites.SUITES)
        for name in ("languages", "questions_languages"):
            object.__setattr__(self, name, languages.check(getattr(self, name)))

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> "Settings":
        """Those of the pipeline's parameters that matter here; a run's other parameters cost nothing."""
        return cls(**{field.name: parameters[field.name] for field in fields(cls) if field.name in parameters})

    @property
    def saved(self) -> int:
        """Passes of training that sampling has done: the reference's, where answers are to their own prompts."""
        return int(self.sampled_reference and self.pool == "language")

    @property
    def models(self) -> dict[str, str]:
        """Role -> hub id or folder."""
        return {role: getattr(self, role) for role in ("translator", "policy", "reward", "judge")}


@dataclass(frozen=True)
class Shares:
    """What a run's data make of its numbers."""

    duplicates: float = 0.0
    """How fast answers repeat, from 0, never: of n answers to a prompt n ** (1 - duplicates * ln n) are distinct. On
    the toy world it was .03 whether n was 12 or 64."""
    paired: float = 1.0
    """Pairs a pool."""
    trained: float = 1.0
    """Pairs trained on of those there are: without the held-out ones and those that are too long."""

    def distinct(self, n: int) -> float:
        """Of n answers to one prompt, how many are read by the reward model."""
        logarithm = math.log(n)
        if self.duplicates:  # beyond this the formula would fall
            logarithm = min(logarithm, 1 / (2 * self.duplicates))
        return math.exp(logarithm - self.duplicates * logarithm**2)


@dataclass(frozen=True)
class Grows:
    """By which number of `units` a stage's amounts grow; "" where they do not."""

    seconds: str
    tokens_in: str = ""
    tokens_out: str = ""
    read: str = ""
    put: str = ""
    model: str = ""
    """Role of the model whose weights each of its pods fetches."""


_BENCHMARK = Grows("evaluations", "evaluations", "evaluations", "", "benchmarks", "policy")
_ANSWER = Grows("questions", "questions", "questions", "", "questions", "policy")
GROWS: Mapping[str, Grows] = {
    "prepare": Grows("prompts", put="prompts"),
    "translate": Grows("translations", "translations", "translations", "shown", "translations", "translator"),
    "sample": Grows("answers", "asked", "answers", "handed", "answers", "policy"),
    "score": Grows("distinct", "distinct", "", "answers", "answers", "reward"),
    "pair": Grows("answers", read="answers", put="pairs"),
    "train": Grows("trained", "trained", "", "pairs", "checkpoints", "policy"),
    "benchmark-base": _BENCHMARK,
    "benchmark-tuned": _BENCHMARK,
    "answer-base": _ANSWER,
    "answer-tuned": _ANSWER,
    "arena": Grows("calls", "calls", "calls", "questions", "calls", "judge"),
    "promote": Grows("", read="calls"),
}
"""Stages that keep a ledger, in order. Preflight, resolving, planning, `recall` and tracking do too little to be
counted; `gather` and `report` only move what the others made (pipelines.estimate). With `start: last` the model is
fetched once more, by `recall`, put into Kubeflow's artifact store, and fetched from there by each pod that samples and
trains."""


def dealt(settings: Settings) -> dict[str, list[float]]:
    """The share of a stage's work that each of its pods does; stages that are not here have one pod."""

    def parts(stage: str, codes: int) -> list[float]:
        found = plan.work(stage, settings.languages, settings.count, settings.workers)
        return [len(part["languages"].split(",")) / int(part["groups"]) / codes for part in found]

    sampling = parts("sample", len(settings.languages))
    others = len([code for code in settings.languages if code != "en"])
    return {"translate": parts("translate", others or 1), "sample": sampling, "score": sampling}


def units(settings: Settings, shares: Shares) -> dict[str, float]:
    """The numbers that work grows with. Raises: as reading local questions or EuroEval data sets."""
    asked = settings.count * len(settings.languages)
    pairs = (asked if settings.pool == "language" else settings.count) * shares.paired
    trained = pairs * shares.trained * settings.epochs
    data_sets = _data_sets(settings)
    number = _questions(settings)
    return {
        "": 0,
        "prompts": settings.count,
        "translations": settings.count * len([code for code in settings.languages if code != "en"]),
        "shown": settings.count * len(dealt(settings)["translate"]),
        "asked": asked,
        "handed": asked * len(dealt(settings)["sample"]),
        "answers": asked * settings.n,
        "distinct": asked * shares.distinct(settings.n),
        "pairs": pairs,
        "trained": trained,
        "checkpoints": math.ceil(trained / settings.global_batch / train.TrainConfig().checkpoint_steps),
        "benchmarks": data_sets,
        "evaluations": data_sets * settings.benchmark_iterations,
        "questions": number,
        "calls": 2 * number,
    }


def _data_sets(settings: Settings) -> int:
    """In all languages; none where EuroEval has nothing in any, a run of which preflight refuses."""
    local = benchmark_datasets.read_local(Path(settings.benchmark_datasets)) if settings.benchmark_datasets else []
    suite = suites.SUITES[settings.benchmark_suite]
    offered = [data.language for data in local] or [code for code, names in suite.items() for _ in names]
    return sum(code in settings.languages for code in offered)


def _questions(settings: Settings) -> int:
    """In all languages."""
    wanted, limit = settings.questions_languages, settings.questions_limit
    if not models.is_local(settings.questions):
        return len(wanted) * min(QUESTIONS, limit or QUESTIONS)
    found = [question.language for question in questions.read_file(Path(settings.questions))]
    return sum(min(found.count(code), limit or len(found)) for code in wanted)
