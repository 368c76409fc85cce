"""Track: outputs of stages -> a run in MLflow, an event file for TensorBoard.

    python -m croco track --outputs DIR [DIR ...] --run NAME [--mlflow http://HOST:PORT] [--tensorboard LOCATION]

After the fact and apart from the stages, so that none of them needs a tracking library, and none of their work is lost
with a tracker. Configs become parameters, numbers and training curves metrics, models and digests tags; the report and
the decision are attached. The same run of the same outputs is written over, never beside: MLflow's is found by a tag,
TensorBoard's by its folder, NAME-KEY, where the key is over the outputs' digests and configs.

MLflow's credentials are read from its own environment: MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and
MLFLOW_TRACKING_PASSWORD. Its client would report its use to its makers; here it does not.

Source: ours.
"""

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from croco import curves, dataset
from croco.backend import is_name
from croco.measures import leaves, numbers
from croco.trackers import PARAM_LENGTH, TAG_LENGTH, Tracked, log_mlflow, log_tensorboard
from croco.writer import key_of

VERSION = 1
ATTACHED = ("report.html", "report.md", "decision.md")
CURVES = "metrics.jsonl"
NAMED = 5
"""Names in a warning. Ours."""


def collect(outputs: Sequence[Path], run: str) -> Tracked:
    """What is told of these outputs. An output is called by its stage, with its place where there are several of it.

    Raises: as dataset.load_manifest; ValueError for a file that was changed.
    """
    manifests = [dataset.load_manifest(directory) for directory in outputs]
    several, seen = Counter(manifest.stage for manifest in manifests), Counter[str]()
    tracked = Tracked(run, key_of(VERSION, run, [(m.stage, m.digest, m.config) for m in manifests]))
    for directory, manifest in zip(outputs, manifests, strict=True):
        seen[stage := manifest.stage] += 1
        output = f"{stage}-{seen[stage]}" if several[stage] > 1 else stage
        _add_manifest(tracked, output, manifest)
        _add_files(tracked, output, Path(directory), manifest)
    return tracked


def _add_manifest(tracked: Tracked, output: str, manifest: dataset.Manifest) -> None:
    for name, value in leaves("", manifest.config):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        tracked.params[tracked.name(output, name)] = tracked.cut(text, PARAM_LENGTH, output, name)
    for name, number in numbers(manifest):
        if tracked.finite(number, output, name):
            tracked.numbers[tracked.name(output, name)] = number
    tags = {"digest": manifest.digest}
    tags["inputs"] = ", ".join(f"{given['stage']} {given['digest']}" for given in manifest.inputs)
    for role, identity in manifest.models.items():
        tags[f"models/{role}"] = json.dumps(identity, ensure_ascii=False)
    for name, text in tags.items():
        if text:
            tracked.tags[tracked.name(output, name)] = tracked.cut(text, TAG_LENGTH, output, name)


def _add_files(tracked: Tracked, output: str, directory: Path, manifest: dataset.Manifest) -> None:
    """The curves' points, and the files to attach. A model's weights are not read, for nothing here says them."""
    for entry in manifest.files:
        if entry["path"] not in (CURVES, *ATTACHED):
            continue
        path = directory / entry["path"]
        if (found := dataset.sha256_file(path)) != entry["sha256"]:
            raise ValueError(
                f"{path}: found sha256 {found[:12]}; expected {entry['sha256'][:12]}; run {manifest.stage} again"
            )
        if entry["path"] in ATTACHED:
            tracked.files.append((tracked.name(output), path))
            continue
        for line in curves.read(path):
            step = int(line.pop("step"))
            for name, value in line.items():
                if tracked.finite(value, output, "curves", name):
                    tracked.points.append((step, tracked.name(output, "curves", name), value))


def run(
    *,
    outputs: list[Path],
    run: str,
    mlflow: str | None = None,
    experiment: str = "croco",
    tensorboard: str | None = None,
) -> dict[str, int]:
    """Tell trackers of finished work; how many of each thing they were told.

    Args:
        outputs: What stages wrote: directories with a manifest.
        run: What the run is called.
        mlflow: Address of an MLflow server, http://HOST:PORT.
        experiment: Experiment in MLflow; made if it is not there.
        tensorboard: Where TensorBoard looks: a folder or s3://bucket/prefix, outside a store, whose gc would remove it.
    """
    if not mlflow and not tensorboard:
        raise ValueError("track: found no tracker; expected --mlflow http://HOST:PORT, --tensorboard LOCATION or both")
    if not outputs:
        raise ValueError("track: found no output; expected at least one, as in --outputs DIR")
    if not is_name(run):
        raise ValueError(f"track: found the run {run!r}; expected letters, digits, `_`, `-`, `=`, `.` and slashes")
    tracked = collect(outputs, run)
    for what, names in tracked.changed.items():
        told = ", ".join(ascii(name)[1:-1][:80] for name in list(names)[:NAMED])
        warnings.warn(
            f"track: {sum(names.values())} {what}: {told}{', ...' if len(names) > NAMED else ''}", stacklevel=2
        )
    if tensorboard:
        print(f"TensorBoard: {tensorboard}/{log_tensorboard(tracked, tensorboard)}")
    attached = log_mlflow(tracked, mlflow, experiment) if mlflow else 0
    if mlflow:
        print(f"MLflow: {mlflow}, experiment {experiment}, run {run}")
    return {
        "params": len(tracked.params),
        "numbers": len(tracked.numbers),
        "points": len(tracked.points),
        "files": attached,
    }
