"""Arena, as a component."""

# ruff: noqa: UP045 - kfp does not read `X | None`
from typing import Optional

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output

from components import images


@dsl.component(base_image=images.GPU, install_kfp_package=False)
def arena(
    answers: Input[Dataset],
    reference: Input[Dataset],
    verdicts: Output[Dataset],
    metrics: Output[Metrics],
    judge: str = "Qwen/Qwen3.6-35B-A3B",
    judge_revision: Optional[str] = None,
    judge_endpoint: Optional[str] = None,
    judge_format: str = "qwen3.6",
    max_unreadable: float = 0.05,
    repetitions: int = 2000,
    seed: int = 0,
    max_model_len: Optional[int] = None,
    gpus: str = "1",
    store: str = "",
) -> None:
    """A judge's verdicts on two models' answers, each pair in both orders, and the win rates of the first model."""
    from pathlib import Path

    from components import scalars
    from croco.arena import ArenaConfig, run

    config = ArenaConfig(
        judge_format=judge_format,
        max_unreadable=max_unreadable,
        repetitions=repetitions,
        seed=seed,
        max_model_len=max_model_len,
        gpus=int(gpus),
    )
    manifest = run(
        answers=Path(answers.path),
        reference=Path(reference.path),
        judge=judge,
        judge_revision=judge_revision or None,
        judge_endpoint=judge_endpoint or None,
        out=Path(verdicts.path),
        store=store or None,
        config=config,
    )
    scalars.log(manifest, metrics)
