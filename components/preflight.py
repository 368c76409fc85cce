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
) -> None:
    """Whether the run will find what it needs: models, data, languages, store, GPUs and quotas."""
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
    )
    run(config, Path(findings.path))
