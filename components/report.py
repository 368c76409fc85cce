"""Report, as a component."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Markdown, Metrics, Output

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def report(
    english: Input[Dataset],
    prompts: Input[Dataset],
    samples: Input[list[Dataset]],
    scores: Input[list[Dataset]],
    pairs: Input[Dataset],
    training: Input[Artifact],
    benchmarks_base: Input[Dataset],
    benchmarks_tuned: Input[Dataset],
    answers_base: Input[Dataset],
    answers_tuned: Input[Dataset],
    verdicts: Input[Dataset],
    decision: Input[Artifact],
    report: Output[Artifact],
    page: Output[HTML],
    summary: Output[Markdown],
    metrics: Output[Metrics],
    title: str = "CroCo report",
    samples_per_language: int = 3,
    max_characters: int = 1500,
    bins: int = 40,
    seed: int = 0,
    line: str = "croco",
    store: str = "",
) -> None:
    """What the run gained and lost, as one HTML page and a Markdown summary."""
    import shutil
    from pathlib import Path

    from components import scalars
    from croco.page.frame import framed
    from croco.report import ReportConfig, run

    out = Path(report.path)
    manifest = run(
        out=out,
        prompts=[Path(english.path), *sorted(Path(prompts.path).glob("translated-*"))],
        samples=[Path(part.path) for part in samples],
        scores=[Path(part.path) for part in scores],
        pairs=Path(pairs.path),
        training=Path(training.path),
        benchmarks_base=Path(benchmarks_base.path),
        benchmarks_tuned=Path(benchmarks_tuned.path),
        answers_base=Path(answers_base.path),
        answers_tuned=Path(answers_tuned.path),
        verdicts=Path(verdicts.path),
        decision=Path(decision.path),
        line=line,
        store=store or None,
        config=ReportConfig(
            title=title, samples_per_language=samples_per_language, max_characters=max_characters, bins=bins, seed=seed
        ),
    )
    Path(page.path).write_text(framed((out / "report.html").read_text(encoding="utf-8")), encoding="utf-8")
    shutil.copy(out / "report.md", summary.path)
    scalars.log(manifest, metrics)
