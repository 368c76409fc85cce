"""Sample, as a component."""

# ruff: noqa: UP045 - kfp does not read `X | None`
from typing import Optional

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components import images


@dsl.component(base_image=images.GPU, install_kfp_package=False)
def sample(
    prompts: Input[Dataset],
    model: str,
    samples: Output[Dataset],
    metrics: Output[Metrics],
    revision: Optional[str] = None,
    n: int = 64,
    temperature: Optional[float] = None,
    top_p: Optional[float] = None,
    top_k: Optional[int] = None,
    max_tokens: Optional[int] = None,
    seed: int = 0,
    logprob: bool = False,
    max_model_len: Optional[int] = None,
    min_room: int = 256,
    gpus: str = "1",
    languages: str = "",
    group: str = "0",
    groups: str = "1",
    store: str = "",
    trained: Input[Model] = None,
) -> None:
    """The answers, n a prompt or a share of them, of the policy, or of `trained`, what `train` made of it or `recall`
    found; `prompts` is a folder of data sets.
    """
    from pathlib import Path

    from components import scalars
    from croco.recall import weights_of
    from croco.sample import SampleConfig, run
    from croco.shards import Share

    config = SampleConfig(
        n=n,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        max_tokens=max_tokens,
        seed=seed,
        logprob=logprob,
        max_model_len=max_model_len,
        min_room=min_room,
        gpus=int(gpus),
    )
    policy, commit = weights_of(Path(trained.path) if trained else None, model, revision)
    manifest = run(
        prompts=sorted(Path(prompts.path).iterdir()),
        model=policy,
        revision=commit,
        out=Path(samples.path),
        store=store or None,
        share=Share(tuple(languages.split(",")) if languages else (), int(group), int(groups)),
        config=config,
    )
    scalars.log(manifest, metrics)
