"""Score, as a component."""

# ruff: noqa: UP045 - kfp does not read `X | None`
from typing import Optional

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output

from components import images


@dsl.component(base_image=images.GPU, install_kfp_package=False)
def score(
    prompts: Input[Dataset],
    samples: Input[Dataset],
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
    """The reward of every answer; `prompts` is a folder of data sets."""
    from pathlib import Path

    from components import scalars
    from croco.score import ScoreConfig, run

    config = ScoreConfig(
        max_length=max_length,
        parity_answers=parity_answers,
        parity_tolerance=parity_tolerance,
        max_not_finite=max_not_finite,
        gpus=int(gpus),
    )
    manifest = run(
        prompts=sorted(Path(prompts.path).iterdir()),
        samples=[Path(samples.path)],
        model=model,
        revision=revision,
        out=Path(scores.path),
        store=store or None,
        config=config,
    )
    scalars.log(manifest, metrics)
