"""Promote, as a component."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Markdown, Metrics, Output

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def promote(
    benchmarks_base: Input[Dataset],
    benchmarks_tuned: Input[Dataset],
    answers_base: Input[Dataset],
    answers_tuned: Input[Dataset],
    verdicts: Input[Dataset],
    training: Input[Artifact],
    decision: Output[Artifact],
    findings: Output[Markdown],
    metrics: Output[Metrics],
    languages: list[str] = [],  # noqa: B006
    questions_languages: list[str] = [],  # noqa: B006
    min_questions: int = 100,
    max_unreadable: float = 0.05,
    name: str = "",
    store: str = "",
) -> bool:
    """Whether the tuned model may take the base's place, and why; without a name or a store it is not published."""
    import shutil
    from pathlib import Path

    from components import scalars
    from croco.promote import PromoteConfig, run

    manifest = run(
        benchmarks_base=Path(benchmarks_base.path),
        benchmarks_tuned=Path(benchmarks_tuned.path),
        answers_base=Path(answers_base.path),
        answers_tuned=Path(answers_tuned.path),
        verdicts=Path(verdicts.path),
        training=Path(training.path),
        out=Path(decision.path),
        name=name if store else None,
        store=store or None,
        config=PromoteConfig(
            languages=tuple(languages),
            questions_languages=tuple(questions_languages),
            min_questions=min_questions,
            max_unreadable=max_unreadable,
        ),
    )
    shutil.copy(Path(decision.path) / "decision.md", findings.path)
    scalars.log(manifest, metrics)
    return bool(manifest.metrics["promote"] and name and store)
