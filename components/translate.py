"""Translate, as a component."""

# ruff: noqa: UP045 - kfp does not read `X | None`
from typing import Optional

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output

from components import images


@dsl.component(base_image=images.GPU, install_kfp_package=False)
def translate(
    english: Input[Dataset],
    languages: list[str],
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
) -> None:
    """Prompts in every language asked for: a folder of data sets, `en` as it is and `translated`, where asked for."""
    import shutil
    from pathlib import Path

    from components import scalars
    from croco.languages import check
    from croco.translate import TranslateConfig, run

    out, others = Path(prompts.path), tuple(code for code in check(languages) if code != "en")
    if "en" in languages:
        shutil.copytree(english.path, out / "en")
    if others:
        config = TranslateConfig(
            languages=others,
            format=format,
            max_model_len=max_model_len,
            output_ratio=output_ratio,
            references=references,
            allow_unsupported=allow_unsupported,
            max_dropped=max_dropped,
            gpus=int(gpus),
        )
        manifest = run(
            prompts=Path(english.path), model=model, revision=revision, out=out / "translated", config=config
        )
        scalars.log(manifest, metrics)
