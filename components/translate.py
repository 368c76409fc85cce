"""Translate, as a component."""

# ruff: noqa: UP045 - kfp does not read `X | None`
from typing import Optional

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output

from components import images


@dsl.component(base_image=images.GPU, install_kfp_package=False)
def translate(
    english: Input[Dataset],
    languages: str,
    model: str,
    prompts: Output[Dataset],
    metrics: Output[Metrics],
    revision: Optional[str] = None,
    format: str = "google",
    max_model_len: int = 2_048,
    output_ratio: float = 2.0,
    references: bool = True,
    allow_unsupported: bool = False,
    max_dropped: float = 0.5,
    gpus: str = "1",
    group: str = "0",
    groups: str = "1",
    store: str = "",
) -> None:
    """English prompts in other languages, or a group of their shards; where only `en` is asked for, as they are."""
    import shutil
    from pathlib import Path

    from components import scalars
    from croco.dataset import load_manifest
    from croco.translate import TranslateConfig, run

    if languages == "en":
        shutil.copytree(english.path, prompts.path)
        scalars.log(load_manifest(Path(prompts.path)), metrics)
        return
    config = TranslateConfig(
        languages=tuple(languages.split(",")),
        format=format,
        max_model_len=max_model_len,
        output_ratio=output_ratio,
        references=references,
        allow_unsupported=allow_unsupported,
        max_dropped=max_dropped,
        gpus=int(gpus),
    )
    manifest = run(
        prompts=Path(english.path),
        model=model,
        revision=revision,
        out=Path(prompts.path),
        store=store or None,
        group=int(group),
        groups=int(groups),
        config=config,
    )
    scalars.log(manifest, metrics)
