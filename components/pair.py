"""Pair, as a component."""

# ruff: noqa: UP045 - kfp does not read `X | None`
from typing import Optional

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def pair(
    prompts: Input[Dataset],
    samples: Input[list[Dataset]],
    pairs: Output[Dataset],
    metrics: Output[Metrics],
    pool: str = "language",
    rejected_target: str = "mean-2std",
    k: float = 2.0,
    prompt_source: str = "chosen",
    language_guard: str = "count",
    cut_may_win: bool = False,
    languages: list[str] = [],  # noqa: B006
    n: Optional[int] = None,
    seed: int = 0,
    store: str = "",
    scores: Input[list[Dataset]] = None,
    scored: Input[Dataset] = None,
) -> None:
    """Preference pairs of scored answers; `prompts` is a folder of data sets, samples and scores are lists of them, and
    `scored` are scores in one piece.
    """
    from pathlib import Path

    from components import scalars
    from croco.pair import PairConfig, run

    config = PairConfig(
        pool=pool,
        rejected_target=rejected_target,
        k=k,
        prompt_source=prompt_source,
        language_guard=language_guard,
        cut_may_win=cut_may_win,
        languages=tuple(languages),
        n=n,
        seed=seed,
    )
    manifest = run(
        prompts=sorted(Path(prompts.path).iterdir()),
        samples=[Path(part.path) for part in samples],
        scores=[Path(part.path) for part in [*(scores or []), scored] if part],
        out=Path(pairs.path),
        store=store or None,
        config=config,
    )
    scalars.log(manifest, metrics)
