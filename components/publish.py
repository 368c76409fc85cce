"""Publish, as a component."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Markdown, Metrics, Model, Output

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def publish(
    decision: Input[Artifact],
    trained: Input[Model],
    benchmarks: Input[Dataset],
    answers: Input[Dataset],
    verdicts: Input[Dataset],
    base: str,
    data: str,
    name: str,
    store: str,
    release: Output[Artifact],
    card: Output[Markdown],
    metrics: Output[Metrics],
    base_revision: str = "",
    hub: str = "",
    registry: str = "",
) -> None:
    """A promoted model, where servers find it: the store, and the hub if wanted."""
    import shutil
    from pathlib import Path

    from components import scalars
    from croco.publish import run

    manifest = run(
        decision=Path(decision.path),
        trained=Path(trained.path),
        benchmarks=Path(benchmarks.path),
        answers=Path(answers.path),
        verdicts=Path(verdicts.path),
        base=base,
        base_revision=base_revision or None,
        data=data,
        name=name,
        store=store,
        out=Path(release.path),
        hub=hub or None,
        registry=registry or None,
    )
    shutil.copy(Path(release.path) / "README.md", card.path)
    scalars.log(manifest, metrics)
