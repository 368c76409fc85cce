"""Recall, as a component."""

from kfp import dsl
from kfp.dsl import Metrics, Model, Output

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def recall(name: str, version: str, found: Output[Model], metrics: Output[Metrics], store: str = "") -> None:
    """A promoted model to start from; nothing but a manifest where there is no version."""
    from pathlib import Path

    from components import scalars
    from croco.recall import run, write_nothing

    out = Path(found.path)
    manifest = run(name=name, store=store, version=version, out=out) if version else write_nothing(out)
    scalars.log(manifest, metrics)
