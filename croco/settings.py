"""Settings: the values of a run that some stage would refuse, each tried on that stage's own config at the very start.

No model, data or cluster is looked at for it: that is the rest of croco/preflight.py.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from croco import arena, endpoint, plan, recall, registry, release, sample
from croco.answer import AnswerConfig
from croco.arena import ArenaConfig
from croco.benchmark import BenchmarkConfig
from croco.pair import PairConfig
from croco.prepare import PrepareConfig
from croco.promote import PromoteConfig
from croco.sample import SampleConfig
from croco.train import TrainConfig
from croco.translate import TranslateConfig


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Values of a run; each field is the pipeline's parameter of that name, with its default."""

    policy: str
    judge: str
    judge_revision: str | None = None
    store: str = ""
    count: int = 20_000
    translator_format: str = "google"
    translator_max_model_len: int = 2048
    start: str = "policy"
    n: int | None = None
    """None: nothing is said of how answers are sampled, and nothing is missed."""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    pool: str = "language"
    rejected_target: str = "mean-2std"
    k: float = 2.0
    prompt_source: str = "chosen"
    language_guard: str = "count"
    learning_rate: float | None = None
    beta: float = 0.1
    epochs: int = 1
    global_batch: int = 64
    micro_batch: int = 1
    max_length: int = 4096
    benchmark_suite: str = "paper"
    benchmark_iterations: int = 3
    questions_limit: int | None = None
    answer_max_tokens: int = 8192
    judge_format: str = "qwen3.6"
    judge_endpoint: str = ""
    promote_as: str = ""
    promote_min_questions: int = 100
    promote_hub: str = ""
    promote_registry: str = ""
    workers: int = 7


TAKEN: Mapping[str, tuple[Callable[..., Any], str]] = {
    "count": (PrepareConfig, "count"),
    "translator_format": (TranslateConfig, "format"),
    "translator_max_model_len": (TranslateConfig, "max_model_len"),
    "n": (SampleConfig, "n"),
    "top_p": (SampleConfig, "top_p"),
    "top_k": (SampleConfig, "top_k"),
    "max_tokens": (SampleConfig, "max_tokens"),
    "pool": (PairConfig, "pool"),
    "rejected_target": (PairConfig, "rejected_target"),
    "k": (PairConfig, "k"),
    "prompt_source": (PairConfig, "prompt_source"),
    "language_guard": (PairConfig, "language_guard"),
    "learning_rate": (TrainConfig, "learning_rate"),
    "beta": (TrainConfig, "beta"),
    "epochs": (TrainConfig, "epochs"),
    "global_batch": (TrainConfig, "global_batch"),
    "micro_batch": (TrainConfig, "micro_batch"),
    "max_length": (TrainConfig, "max_length"),
    "benchmark_suite": (BenchmarkConfig, "suite"),
    "benchmark_iterations": (BenchmarkConfig, "iterations"),
    "questions_limit": (AnswerConfig, "limit"),
    "answer_max_tokens": (AnswerConfig, "max_tokens"),
    "judge_format": (ArenaConfig, "judge_format"),
    "promote_min_questions": (PromoteConfig, "min_questions"),
}
"""Parameter -> the config that takes it, and its name there."""


def faults(settings: Settings, nodes: int) -> dict[str, str]:
    """Parameter -> what is wrong with its value, and what to do, for each that a stage would refuse; `nodes` train."""
    checks: dict[str, Callable[[Settings], object]] = {
        **{name: functools.partial(_taken, name) for name in TAKEN},
        "temperature": lambda run: SampleConfig(n=max(run.n or SampleConfig.n, 1), temperature=run.temperature),
        "decoding": _decoded,
        "workers": lambda run: plan.shares(("en",), 1, 1, run.workers),
        "judge_endpoint": lambda run: run.judge_endpoint and endpoint.check(run.judge_endpoint),
        "judge_revision": _judged,
        "promote_as": _promoted,
        "promote_hub": _uploaded,
        "promote_registry": _registered,
    }
    found = {name: fault for name, check in checks.items() if (fault := _fault(check, settings))}
    line = ("said", "already") if "promote_as" in found else (settings.promote_as, settings.store)
    if fault := _fault(lambda run: recall.check_start(run.start, *line, nodes), settings):
        found["start"] = fault
    return found


def _fault(check: Callable[[Settings], object], settings: Settings) -> str:
    """What a check raised, without the name that the value has where it is taken; empty where it passed."""
    try:
        check(settings)
    except ValueError as error:
        before, found, rest = str(error).partition("found ")
        return found + rest or before
    return ""


def _taken(name: str, settings: Settings) -> None:
    config, field = TAKEN[name]
    config(**{field: getattr(settings, name)})


def _decoded(settings: Settings) -> None:
    """Whether all is said of how the policy is sampled; what is said of it is looked at by itself."""
    if settings.n is not None:
        given: dict[str, Any] = {name: 1 for name in sample.DECODED if getattr(settings, name) is not None}
        sample.resolve(settings.policy, SampleConfig(**given))


def _judged(settings: Settings) -> None:
    if settings.judge_endpoint and settings.judge_revision:
        arena.identify(settings.judge, settings.judge_revision, settings.judge_endpoint)


def _promoted(settings: Settings) -> None:
    """Whether a promoted model has a name, and a place to be published in."""
    if settings.promote_as and release.check_name(settings.promote_as) and not settings.store:
        raise ValueError(
            f"found {settings.promote_as} and no store; expected one, where promoted models are; set store, or leave "
            "promote_as empty, which only decides"
        )


def _uploaded(settings: Settings) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        if settings.promote_hub:
            validate_repo_id(settings.promote_hub)
    except HFValidationError as error:
        raise ValueError(f"found {settings.promote_hub!r}; expected a repository of the hub, as me/croco-da") from error


def _registered(settings: Settings) -> None:
    if settings.promote_registry:
        registry.check_address(settings.promote_registry)
