"""Tally, as a component."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Output

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def tally(
    arm: str,
    outcomes: Output[Dataset],
    metrics: Output[Metrics],
    seed: int = 0,
    oracle: bool = False,
    store: str = "",
    previous: Input[Dataset] = None,
    measured: Input[Dataset] = None,
    benchmarks: Input[Dataset] = None,
    answers: Input[Dataset] = None,
    verdicts: Input[Dataset] = None,
    rewards: Input[Dataset] = None,
    training: Input[Artifact] = None,
    data: Input[Dataset] = None,
    scored: Input[Dataset] = None,
    prompts: Input[Dataset] = None,
    samples: Input[list[Dataset]] = None,
    scores: Input[list[Dataset]] = None,
) -> None:
    """What was measured of one run, after the runs in `previous`. Only where they were made for this run alone: `data`
    (pairs, SFT rows), `scored` (scores in one piece), `samples` and `scores` by share, `prompts` (a folder).
    """
    from pathlib import Path

    from components import scalars
    from croco.tally import TallyConfig, run

    made = [Path(part.path) for part in [data, scored, *(samples or []), *(scores or [])] if part]
    manifest = run(
        arm=arm,
        seed=seed,
        previous=Path(previous.path) if previous else None,
        measured=Path(measured.path) if measured else None,
        benchmarks=Path(benchmarks.path) if benchmarks else None,
        answers=Path(answers.path) if answers else None,
        verdicts=Path(verdicts.path) if verdicts else None,
        rewards=Path(rewards.path) if rewards else None,
        training=Path(training.path) if training else None,
        made=[*made, *(sorted(Path(prompts.path).iterdir()) if prompts else [])],
        out=Path(outcomes.path),
        store=store or None,
        config=TallyConfig(oracle=oracle),
    )
    scalars.log(manifest, metrics)
