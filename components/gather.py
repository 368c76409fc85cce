"""Gather, as a component."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def gather(
    english: Input[Dataset], translations: Input[list[Dataset]], languages: list[str], prompts: Output[Dataset]
) -> None:
    """The prompts in every language asked for: a folder of data sets, `en` and `translated-0` and on."""
    import shutil
    from pathlib import Path

    out = Path(prompts.path)
    if "en" in languages:
        shutil.copytree(english.path, out / "en")
    if set(languages) != {"en"}:
        for number, translated in enumerate(translations):
            shutil.copytree(translated.path, out / f"translated-{number}")
