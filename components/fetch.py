"""Fetch, as a component."""

from kfp import dsl
from kfp.dsl import Artifact, Metrics, Output

from components import images


@dsl.component(base_image=images.EUROEVAL, install_kfp_package=False)
def fetch(
    cache: Output[Artifact],
    metrics: Output[Metrics],
    languages: list[str] = ["da", "nl", "en", "fr", "de", "it", "es"],  # noqa: B006
    suite: str = "paper",
    names: list[str] = [],  # noqa: B006
    max_failed: float = 0.1,
) -> None:
    """What EuroEval reads of a suite, for evaluations that have no network."""
    from pathlib import Path

    from components import scalars
    from croco.fetch import FetchConfig, run

    config = FetchConfig(languages=tuple(languages), suite=suite, names=tuple(names), max_failed=max_failed)
    manifest = run(out=Path(cache.path), config=config)
    scalars.log(manifest, metrics)
