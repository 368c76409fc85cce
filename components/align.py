"""Align, as a component."""

# ruff: noqa: UP045 - kfp does not read `X | None`
from typing import Optional

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output

from components import images


@dsl.component(base_image=images.GPU, install_kfp_package=False)
def align(
    prompts: Input[Dataset],
    samples: Input[list[Dataset]],
    english: Input[list[Dataset]],
    model: str,
    scores: Output[Dataset],
    metrics: Output[Metrics],
    revision: Optional[str] = None,
    english_answers: int = 4,
    max_length: int = 512,
    format: str = "google",
    max_tokens: int = 16_384,
    gpus: str = "1",
    store: str = "",
) -> None:
    """How well a translator maps every answer to the English ones; `prompts` is a folder of data sets."""
    from pathlib import Path

    from components import scalars
    from croco.align import AlignConfig, run

    config = AlignConfig(
        english_answers=english_answers,
        max_length=max_length,
        format=format,
        max_tokens=max_tokens,
        gpus=int(gpus),
    )
    manifest = run(
        prompts=sorted(Path(prompts.path).iterdir()),
        samples=[Path(part.path) for part in samples],
        english=[Path(part.path) for part in english],
        model=model,
        revision=revision,
        out=Path(scores.path),
        store=store or None,
        config=config,
    )
    scalars.log(manifest, metrics)
