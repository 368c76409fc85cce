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
    reward: Optional[str] = None,
    reward_revision: Optional[str] = None,
    method: str = "dpo",
    learning_rate: Optional[float] = None,
    beta: float = 0.1,
    epochs: int = 1,
    global_batch: int = 64,
    micro_batch: int = 1,
    max_length: int = 4096,
    nll: float = 0.0,
    off_policy: bool = False,
    lora_rank: int = 16,
    sampled_reference: bool = False,
    packed: bool = True,
    seed: int = 42,
    online_answers: int = 16,
    online_temperature: float = 1.0,
    online_top_p: float = 1.0,
    online_top_k: int = 0,
    online_max_tokens: int = 4096,
    online_rejected_target: str = "mean-2std",
    online_k: float = 2.0,
    store: str = "",
    trainjob: dict = {},  # noqa: B006 - kfp takes a literal only
    start: Input[Model] = None,
) -> None:
    """A LoRA adapter on pairs (dpo), SFT rows (sft) or a folder of prompts (online), merged too; and metrics alone.

    With `start`, from what `train` made of the model, or `recall` found.
    """
    from pathlib import Path

    from components import scalars
    from croco.recall import weights_of
    from croco.train import TrainConfig, run, summary

    config = TrainConfig(
        method=method,
        learning_rate=learning_rate,
        beta=beta,
        epochs=epochs,
        global_batch=global_batch,
        micro_batch=micro_batch,
        max_length=max_length,
        nll=nll,
        off_policy=off_policy,
        lora_rank=lora_rank,
        sampled_reference=sampled_reference,
        packed=packed,
        seed=seed,
        online_answers=online_answers,
        online_temperature=online_temperature,
        online_top_p=online_top_p,
        online_top_k=online_top_k,
        online_max_tokens=online_max_tokens,
        online_rejected_target=online_rejected_target,
        online_k=online_k,
    )
    policy, commit = weights_of(Path(start.path) if start else None, model, revision)
    manifest = run(
        data=sorted(Path(data.path).iterdir()) if method == "online" else [Path(data.path)],
        model=policy,
        revision=commit,
        reward=reward,
        reward_revision=reward_revision,
        out=Path(trained.path),
        store=store or None,
        trainjob=trainjob,
        config=config,
    )
    summary(Path(trained.path), Path(training.path))
    scalars.log(manifest, metrics)
