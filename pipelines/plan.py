"""Plan: the tokens, hours, storage and network that a run would take, by stage, before anything runs.

python -m pipelines plan --params params.yaml --calibration report.json --price 2.5
python -m pipelines plan --scale 1 10 100 --gpus 64
python -m pipelines plan --calibrate report.json --out calibration.json

Without a calibration, rates are reckoned by arithmetic (pipelines.reckoning) and said to be so.
"""

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from pipelines.costs import table
from pipelines.profiles import DEFAULT, PROFILES

if TYPE_CHECKING:
    from pipelines.calibration import Calibration
    from pipelines.estimate import Estimate
    from pipelines.workload import Settings

AMOUNTS = ("tokens in", "tokens out", "computed", "pod hours", "GPU hours", "stored", "network")


class Plan(NamedTuple):
    """Of one run."""

    settings: "Settings"
    rates: "Calibration"
    stages: "Sequence[Estimate]"


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--params", type=Path, help="YAML file of `parameter: value`; what it lacks has its default")
    parser.add_argument("--profile", default=DEFAULT, help=f"whose pods the stages get (default {DEFAULT})")
    parser.add_argument("--scale", type=float, nargs="+", default=[1.0], help="times the prompts; several: a line each")
    parser.add_argument(
        "--calibration", type=Path, nargs="+", metavar="FILE", help="that --calibrate wrote, or report.json of runs"
    )
    parser.add_argument("--gpu", help="kind of GPU (default A100-80GB); with a calibration: of stages that it lacks")
    parser.add_argument(
        "--gpus", type=int, help="there are, at most: the hours from start to end, with workers for all"
    )
    parser.add_argument("--price", type=float, help="of a GPU hour, in whatever currency")
    parser.add_argument(
        "--calibrate", type=Path, nargs="+", metavar="REPORT", help="report.json of runs to calibrate by, into --out"
    )
    parser.add_argument("--out", type=Path, help="file for the calibration that was used")


def main(flags: argparse.Namespace, screen: TextIO) -> int:
    """Print what the flags ask for; the exit status. Raises: ValueError, FileNotFoundError."""
    from pipelines import calibration

    if flags.calibrate:
        if not flags.out:
            raise ValueError("--calibrate: found no --out; expected a file for the calibration")
        flags.out.write_text(calibration.load(flags.calibrate).to_json(), encoding="utf-8")
        print(flags.out, file=screen)
        return 0
    _check(flags)
    parameters = _parameters(flags.params)
    plans = {scale: _plan(flags, parameters, scale) for scale in flags.scale}
    first = next(iter(plans.values()))
    print(_stages(flags, first) if len(plans) == 1 else _scales(flags, plans), file=screen)
    if flags.out:
        flags.out.write_text(first.rates.to_json(), encoding="utf-8")
    return 0


def _check(flags: argparse.Namespace) -> None:
    for name in ("scale", "gpus", "price"):
        value = getattr(flags, name)
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not 0 < number < float("inf"):
                raise ValueError(f"--{name}: found {number:g}; expected a number above 0")
    if flags.profile not in PROFILES:
        raise ValueError(f"--profile: found {flags.profile!r}; expected one of {', '.join(PROFILES)}")


def _parameters(path: Path | None) -> dict[str, Any]:
    """Raises: as `package.read_parameters`."""
    if path is None:
        return {}
    from google.protobuf.json_format import MessageToDict

    from pipelines.package import Package, read_parameters
    from pipelines.placement import Cluster
    from pipelines.preference import preference

    return read_parameters(path, Package(path, "", MessageToDict(preference(Cluster()).pipeline_spec)))


def _plan(flags: argparse.Namespace, parameters: Mapping[str, Any], scale: float) -> Plan:
    """Of a run with `scale` times as many prompts. Raises: ValueError naming what is wrong, and in which file."""
    from pipelines import calibration, reckoning
    from pipelines.estimate import at_once, estimate
    from pipelines.workload import Settings

    try:
        settings = Settings.of(parameters)
    except ValueError as error:
        raise ValueError(f"{flags.params}: {error}") from error
    settings = replace(settings, count=max(round(settings.count * scale), 1))
    rates = calibration.load(flags.calibration) if flags.calibration else None
    if rates is None or flags.gpu:
        reckoned = reckoning.reckon(settings, PROFILES[flags.profile], flags.gpu or reckoning.GPU)
        rates = calibration.with_reckoned(rates, reckoned) if rates else reckoned
    if flags.gpus and "workers" not in parameters:
        settings = at_once(settings, rates, flags.gpus)
    return Plan(settings, rates, estimate(settings, rates))


def _stages(flags: argparse.Namespace, plan: Plan) -> str:
    """One run, by stage."""
    lines = [[one.stage, str(one.pods), *_amounts([one]), one.basis if one.seconds else ""] for one in plan.stages]
    rows = [*lines, ["all", "", *_amounts(plan.stages), ""]]
    said = list(plan.rates.about)
    if flags.gpus:
        said.append(f"{_hours(flags, plan)} hours from start to end at best, on {flags.gpus} GPUs")
    return f"{table(['stage', 'pods', *AMOUNTS, 'rates'], rows)}\n\n{_listed([*said, *_remarks(flags, plan)])}"


def _scales(flags: argparse.Namespace, plans: Mapping[float, Plan]) -> str:
    """Several runs, one a line."""
    heads, rows, said = ["scale", "prompts", *AMOUNTS, "most hours"], [], []
    for scale, plan in plans.items():
        most = max(plan.stages, key=lambda one: one.gpu_hours or one.hours)
        rows.append([f"{scale:g}", f"{plan.settings.count:,}", *_amounts(plan.stages), most.stage])
        if flags.gpus:
            rows[-1].append(_hours(flags, plan))
        said += [f"at {scale:g}: {remark}" for remark in _remarks(flags, plan)]
    if flags.gpus:
        heads.append(f"hours at best, {flags.gpus} GPUs")
    about = next(iter(plans.values())).rates.about
    return f"{table(heads, rows)}\n\n{_listed([*about, *said])}"


def _remarks(flags: argparse.Namespace, plan: Plan) -> list[str]:
    """What it costs, and where it goes beyond what there is."""
    from pipelines.estimate import notes

    said = notes(plan.settings, plan.stages, PROFILES[flags.profile])
    if flags.price:
        hours = sum(one.gpu_hours for one in plan.stages)
        said.insert(0, f"{_number(hours)} GPU hours cost {hours * flags.price:,.0f} at {flags.price:g} an hour")
    return said


def _hours(flags: argparse.Namespace, plan: Plan) -> str:
    from pipelines.estimate import wall_hours

    return _number(wall_hours(plan.stages, flags.gpus))


def _amounts(stages: "Sequence[Estimate]") -> list[str]:
    """The cells of AMOUNTS for the sum of some stages."""
    from croco.page.ledger import size

    def total(name: str) -> float:
        return float(sum(getattr(one, name) for one in stages))

    tokens = [
        f"{_number(total(name) / 1e6)} M" if total(name) else "" for name in ("tokens_in", "tokens_out", "computed")
    ]
    hours = [_number(total(name)) if total(name) else "" for name in ("hours", "gpu_hours")]
    return [*tokens, *hours, *(size(total(name)).replace("\u00a0", " ") for name in ("stored", "network"))]


def _number(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _listed(remarks: Sequence[str]) -> str:
    return "\n".join(textwrap.fill(f"- {remark}", 120, subsequent_indent="  ") for remark in remarks)
