"""Benchmark, as a component."""

# ruff: noqa: UP045 - kfp does not read `X | None`
from typing import Optional

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from components import images


@dsl.component(base_image=images.EUROEVAL, install_kfp_package=False)
def benchmark(
    model: str,
    scores: Output[Dataset],
    metrics: Output[Metrics],
    revision: Optional[str] = None,
    datasets: Optional[str] = None,
    datasets_revision: Optional[str] = None,
    languages: list[str] = ["da", "nl", "en", "fr", "de", "it", "es"],  # noqa: B006
    suite: str = "paper",
    names: list[str] = [],  # noqa: B006
    iterations: int = 3,
    test_split: bool = True,
    few_shot: bool = True,
    max_failed: float = 0.1,
    store: str = "",
    trained: Input[Model] = None,
    cache: Input[Artifact] = None,
) -> None:
    """EuroEval's scores of a model: of `model` itself, or of `trained`, which `train` made from it. With `cache`, what
    `fetch` wrote, without a network.
    """
    from pathlib import Path

    from components import scalars
    from croco.benchmark import BenchmarkConfig, run
    from croco.recall import weights_of

    config = BenchmarkConfig(
        languages=tuple(languages),
        suite=suite,
        names=tuple(names),
        iterations=iterations,
        test_split=test_split,
        few_shot=few_shot,
        max_failed=max_failed,
    )
    policy, commit = weights_of(Path(trained.path) if trained else None, model, revision)
    manifest = run(
        model=policy,
        revision=commit,
        datasets=Path(datasets) if datasets else None,
        datasets_revision=datasets_revision or None,
        cache=Path(cache.path) if cache else None,
        out=Path(scores.path),
        store=store or None,
        config=config,
    )
    scalars.log(manifest, metrics)
