"""Answer, as a component."""

# ruff: noqa: UP045 - kfp does not read `X | None`
from typing import Optional

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components import images


@dsl.component(base_image=images.GPU, install_kfp_package=False)
def answer(
    model: str,
    generator: str,
    answers: Output[Dataset],
    metrics: Output[Metrics],
    questions: str = "CohereLabs/m-ArenaHard-v2.1",
    revision: Optional[str] = None,
    languages: list[str] = ["en", "it", "es", "fr", "nl", "de", "da", "gl", "cy", "mt", "ga"],  # noqa: B006
    questions_revision: Optional[str] = None,
    limit: Optional[int] = None,
    temperature: Optional[float] = None,
    max_tokens: int = 8192,
    seed: int = 0,
    gpus: str = "1",
    store: str = "",
    trained: Input[Model] = None,
) -> None:
    """A model's answers to arena questions: `model`'s own, or those of `trained`, which `train` made from it."""
    from pathlib import Path

    from components import scalars
    from croco.answer import AnswerConfig, run
    from croco.recall import weights_of

    config = AnswerConfig(
        languages=tuple(languages),
        questions_revision=questions_revision,
        limit=limit,
        temperature=temperature,
        settings_of=model,
        max_tokens=max_tokens,
        seed=seed,
        gpus=int(gpus),
    )
    policy, commit = weights_of(Path(trained.path) if trained else None, model, revision)
    manifest = run(
        questions=questions,
        model=policy,
        revision=commit,
        generator=generator,
        out=Path(answers.path),
        store=store or None,
        config=config,
    )
    scalars.log(manifest, metrics)
