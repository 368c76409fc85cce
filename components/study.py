"""Study, as a component."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Markdown, Metrics, Output

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def study(
    outcomes: Input[Dataset],
    plan: str,
    report: Output[Artifact],
    page: Output[HTML],
    summary: Output[Markdown],
    metrics: Output[Metrics],
    repetitions: int = 10_000,
    seed: int = 0,
    store: str = "",
) -> None:
    """What the study's arms gained and lost against the base and each other, as one HTML page and in Markdown.

    `plan` is JSON: Kubeflow turns whole numbers inside of a structure into floats.
    """
    import json
    import shutil
    from pathlib import Path

    from components import scalars
    from croco.page.frame import framed
    from croco.study import StudyConfig, run

    out = Path(report.path)
    manifest = run(
        outcomes=Path(outcomes.path),
        plan=json.loads(plan),
        out=out,
        store=store or None,
        config=StudyConfig(repetitions=repetitions, seed=seed),
    )
    Path(page.path).write_text(framed((out / "study.html").read_text(encoding="utf-8")), encoding="utf-8")
    shutil.copy(out / "study.md", summary.path)
    scalars.log(manifest, metrics)
