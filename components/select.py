"""Select, as a component."""

# ruff: noqa: UP045 - kfp does not read `X | None`
from typing import Optional

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def select(
    prompts: Input[Dataset],
    rows: Output[Dataset],
    metrics: Output[Metrics],
    completion: str = "reference",
    pool: str = "language",
    cut_may_win: bool = False,
    languages: list[str] = [],  # noqa: B006
    n: Optional[int] = None,
    store: str = "",
    samples: Input[list[Dataset]] = None,
    scores: Input[list[Dataset]] = None,
) -> None:
    """SFT rows: the data set's own answers, or the best of scored ones; `prompts` is a folder of data sets."""
    from pathlib import Path

    from components import scalars
    from croco.select import SelectConfig, run

    config = SelectConfig(completion=completion, pool=pool, cut_may_win=cut_may_win, languages=tuple(languages), n=n)
    manifest = run(
        prompts=sorted(Path(prompts.path).iterdir()),
        samples=[Path(part.path) for part in samples or []],
        scores=[Path(part.path) for part in scores or []],
        out=Path(rows.path),
        store=store or None,
        config=config,
    )
    scalars.log(manifest, metrics)
