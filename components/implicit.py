"""Implicit, as a component."""

# ruff: noqa: UP045 - kfp does not read `X | None`
from typing import Optional

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components import images


@dsl.component(base_image=images.GPU, install_kfp_package=False)
def implicit(
    prompts: Input[Dataset],
    samples: Input[list[Dataset]],
    trained: Input[Model],
    base: str,
    scores: Output[Dataset],
    metrics: Output[Metrics],
    base_revision: Optional[str] = None,
    length_control: bool = True,
    length_in: str = "tokens",
    alpha_step: float = 0.001,
    alpha_most: float = 1.0,
    name_language: bool = False,
    max_length: Optional[int] = None,
    max_tokens: int = 16_384,
    gpus: str = "1",
    store: str = "",
) -> None:
    """The implicit reward of every answer by `trained`, which `train` made from `base`; `prompts` is a folder of data
    sets, `samples` a list of them.
    """
    from pathlib import Path

    from components import scalars
    from croco.implicit import ImplicitConfig, run

    config = ImplicitConfig(
        length_control=length_control,
        length_in=length_in,
        alpha_step=alpha_step,
        alpha_most=alpha_most,
        name_language=name_language,
        max_length=max_length,
        max_tokens=max_tokens,
        gpus=int(gpus),
    )
    manifest = run(
        prompts=sorted(Path(prompts.path).iterdir()),
        samples=[Path(part.path) for part in samples],
        tuned=f"{trained.path}/merged",
        base=base,
        base_revision=base_revision,
        out=Path(scores.path),
        store=store or None,
        config=config,
    )
    scalars.log(manifest, metrics)
