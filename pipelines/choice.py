"""Choice: which of the pipelines a command means, and what it is told of a study."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.arms import Study
    from pipelines.calibration import Calibration
    from pipelines.placement import Cluster


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flag that means a study."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML of a study, which is then what is meant")


def add_kind(parser: argparse.ArgumentParser) -> None:
    """The flag that names the kind of pipeline, where that is no other name."""
    parser.add_argument(
        "--pipeline",
        dest="kind",
        choices=["preference", "study"],
        help="(default: study with --config, else preference)",
    )


def study_of(flags: argparse.Namespace, given: Mapping[str, Any] = {}, world: Path | None = None) -> "Study | None":
    """The study that is meant, its parameters' defaults changed by `given`; None for the other pipeline.

    Raises: ValueError where the flags do not go together; as `studies.read`.
    """
    kind = getattr(flags, "kind", None)
    if kind and (kind == "study") != bool(flags.config):
        found = f"--pipeline {kind} {'with' if flags.config else 'without'} it"
        raise ValueError(
            f"--config: found {found}; expected the YAML of a study for --pipeline study, and for it alone"
        )
    if not flags.config:
        return None
    from pipelines import studies

    return studies.read(flags.config, {**studies.defaults(), **given}, world)


def pipeline_of(study: "Study | None", cluster: "Cluster") -> Any:
    """The pipeline of a study, or the preference pipeline."""
    if study:
        from pipelines import study as studying

        return studying.study(study, cluster)
    from pipelines.preference import preference

    return preference(cluster)


def outlay_of(study: "Study", profile: str, rates: "Calibration | None" = None) -> str:
    """What it would take, by these rates; without any by arithmetic, where the models are known."""
    try:
        from pipelines import outlay
    except ModuleNotFoundError as error:
        return f"what it would take is not reckoned: found no {error.name} here; expected more than kfp for that"
    from pipelines.profiles import PROFILES
    from pipelines.reckoning import GPU

    if rates is None:
        try:
            rates = outlay.rates_of(study, PROFILES[profile], GPU)
        except ValueError as error:
            print(f"no hours are reckoned: {error}", file=sys.stderr)
    return outlay.show(study, rates)
