"""Track, as a component."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Output

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def track(
    pairs: Input[Dataset],
    training: Input[Artifact],
    verdicts: Input[Dataset],
    decision: Input[Artifact],
    report: Input[Artifact],
    run: str,
    metrics: Output[Metrics],
    mlflow: str = "",
    experiment: str = "croco",
    tensorboard: str = "",
) -> None:
    """The run's settings, numbers, curves and report, for an MLflow server or TensorBoard."""
    import json
    from pathlib import Path

    from croco.track import run as tell

    told = tell(
        outputs=[Path(output.path) for output in (pairs, training, verdicts, decision, report)],
        run=run,
        mlflow=mlflow or None,
        experiment=experiment,
        tensorboard=tensorboard or None,
    )
    for name, number in told.items():
        metrics.log_metric(name, number)
    Path(metrics.path).write_text(json.dumps(told), encoding="ascii")
