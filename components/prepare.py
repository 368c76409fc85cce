"""Prepare, as a component."""

# ruff: noqa: UP045 - kfp does not read `X | None`
from typing import Optional

from kfp import dsl
from kfp.dsl import Dataset, Metrics, Output

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def prepare(
    prompts: Output[Dataset],
    metrics: Output[Metrics],
    source: str = "allenai/Dolci-Instruct-SFT",
    count: int = 20_000,
    max_chars: int = 8_000,
    eval_share: float = 0.01,
    seed: int = 0,
    revision: Optional[str] = None,
    store: str = "",
) -> None:
    """English prompts of an instruction set: a hub data set or a local file."""
    from pathlib import Path

    from components import scalars
    from croco.prepare import PrepareConfig, run

    config = PrepareConfig(count=count, max_chars=max_chars, eval_share=eval_share, seed=seed, revision=revision)
    manifest = run(source=source, out=Path(prompts.path), store=store or None, config=config)
    scalars.log(manifest, metrics)
