"""Train, as a component."""

# ruff: noqa: UP045 - kfp does not read `X | None`
from typing import Optional

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from components import images


@dsl.component(base_image=images.GPU, install_kfp_package=False)
def train(
    data: Input[Dataset],
    model: str,
    trained: Output[Model],
    training: Output[Artifact],
    metrics: Output[Metrics],
    revision: Optional[str] = None,
    method: str = "dpo",
    learning_rate: Optional[float] = None,
    beta: float = 0.1,
    epochs: int = 1,
    global_batch: int = 64,
    micro_batch: int = 1,
    max_length: int = 4096,
    lora_rank: int = 16,
    packed: bool = True,
    seed: int = 42,
    store: str = "",
    trainjob: dict = {},  # noqa: B006 - kfp takes a literal only
) -> None:
    """A LoRA adapter on pairs (dpo) or SFT rows (sft) and the model it is merged into; and their metrics alone."""
    from pathlib import Path

    from components import scalars
    from croco.train import TrainConfig, run, summary

    config = TrainConfig(
        method=method,
        learning_rate=learning_rate,
        beta=beta,
        epochs=epochs,
        global_batch=global_batch,
        micro_batch=micro_batch,
        max_length=max_length,
        lora_rank=lora_rank,
        packed=packed,
        seed=seed,
    )
    manifest = run(
        data=[Path(data.path)],
        model=model,
        revision=revision,
        out=Path(trained.path),
        store=store or None,
        trainjob=trainjob,
        config=config,
    )
    summary(Path(trained.path), Path(training.path))
    scalars.log(manifest, metrics)
