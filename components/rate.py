"""Rate, as a component."""

# ruff: noqa: UP045 - kfp does not read `X | None`
from typing import Optional

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output

from components import images


@dsl.component(base_image=images.GPU, install_kfp_package=False)
def rate(
    answers: Input[Dataset],
    model: str,
    scores: Output[Dataset],
    metrics: Output[Metrics],
    revision: Optional[str] = None,
    max_length: Optional[int] = None,
    parity_answers: int = 8,
    parity_tolerance: Optional[float] = None,
    max_not_finite: float = 0.01,
    gpus: str = "1",
    store: str = "",
) -> None:
    """The reward of every arena answer of one model."""
    from pathlib import Path

    from components import scalars
    from croco.rate import RateConfig, run

    config = RateConfig(
        max_length=max_length,
        parity_answers=parity_answers,
        parity_tolerance=parity_tolerance,
        max_not_finite=max_not_finite,
        gpus=int(gpus),
    )
    manifest = run(
        answers=Path(answers.path),
        model=model,
        revision=revision,
        out=Path(scores.path),
        store=store or None,
        config=config,
    )
    scalars.log(manifest, metrics)
