"""Preflight, as a component."""

# ruff: noqa: UP045 - kfp does not read `X | None`
from typing import Optional

from kfp import dsl
from kfp.dsl import Markdown, Output

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def preflight(
    source: str,
    translator: str,
    policy: str,
    reward: str,
    judge: str,
    questions: str,
    cluster: dict,
    findings: Output[Markdown],
    benchmark_datasets: Optional[str] = None,
    source_revision: Optional[str] = None,
    translator_revision: Optional[str] = None,
    policy_revision: Optional[str] = None,
    reward_revision: Optional[str] = None,
    judge_revision: Optional[str] = None,
    questions_revision: Optional[str] = None,
    languages: list[str] = ["da", "nl", "en", "fr", "de", "it", "es"],  # noqa: B006
    questions_languages: list[str] = ["en", "it", "es", "fr", "nl", "de", "da", "gl", "cy", "mt", "ga"],  # noqa: B006
    translator_allow_unsupported: bool = False,
    translator_max_model_len: int = 2048,
    micro_batch: int = 1,
    max_length: int = 4096,
    judge_format: str = "qwen3.6",
    store: str = "",
    count: int = 20_000,
    translator_format: str = "google",
    start: str = "policy",
    n: Optional[int] = None,
    temperature: Optional[float] = None,
    top_p: Optional[float] = None,
    top_k: Optional[int] = None,
    max_tokens: Optional[int] = None,
    pool: str = "language",
    rejected_target: str = "mean-2std",
    k: float = 2.0,
    prompt_source: str = "chosen",
    language_guard: str = "count",
    learning_rate: Optional[float] = None,
    beta: float = 0.1,
    epochs: int = 1,
    global_batch: int = 64,
    benchmark_suite: str = "paper",
    benchmark_iterations: int = 3,
    questions_limit: Optional[int] = None,
    answer_max_tokens: int = 8192,
    judge_endpoint: str = "",
    promote_as: str = "",
    promote_min_questions: int = 100,
    promote_hub: str = "",
    promote_registry: str = "",
    workers: int = 7,
) -> None:
    """Whether the run will find what it needs: models, data, languages, store, GPUs and quotas; and whether each stage
    will take its settings.
    """
    from pathlib import Path

    from croco.preflight import PreflightConfig, run

    config = PreflightConfig(
        source=source,
        translator=translator,
        policy=policy,
        reward=reward,
        judge=judge,
        questions=questions,
        cluster=cluster,
        benchmark_datasets=benchmark_datasets,
        source_revision=source_revision,
        translator_revision=translator_revision,
        policy_revision=policy_revision,
        reward_revision=reward_revision,
        judge_revision=judge_revision,
        questions_revision=questions_revision,
        languages=tuple(languages),
        questions_languages=tuple(questions_languages),
        translator_allow_unsupported=translator_allow_unsupported,
        translator_max_model_len=translator_max_model_len,
        micro_batch=micro_batch,
        max_length=max_length,
        judge_format=judge_format,
        store=store,
        count=count,
        translator_format=translator_format,
        start=start,
        n=n,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        max_tokens=max_tokens,
        pool=pool,
        rejected_target=rejected_target,
        k=k,
        prompt_source=prompt_source,
        language_guard=language_guard,
        learning_rate=learning_rate,
        beta=beta,
        epochs=epochs,
        global_batch=global_batch,
        benchmark_suite=benchmark_suite,
        benchmark_iterations=benchmark_iterations,
        questions_limit=questions_limit,
        answer_max_tokens=answer_max_tokens,
        judge_endpoint=judge_endpoint,
        promote_as=promote_as,
        promote_min_questions=promote_min_questions,
        promote_hub=promote_hub,
        promote_registry=promote_registry,
        workers=workers,
    )
    run(config, Path(findings.path))
