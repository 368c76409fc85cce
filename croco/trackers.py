"""Trackers: what they are told of a run, and the two that are: an MLflow server, TensorBoard.

Neither library is imported before its tracker is asked for.

Source: mlflow 3.17 (mlflow/utils/validation.py for its limits, mlflow/telemetry for what it reports); tensorboardX 2.6.
"""

import hashlib
import json
import math
import os
import re
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from croco.store import open_store

NAME_LENGTH = 250
"""Characters of a name that MLflow takes."""
PARAM_LENGTH = 6000
"""Characters of a parameter that MLflow takes."""
TAG_LENGTH = 5000
"""Characters of a tag that MLflow takes, of older servers too."""
PARAMS_AT_ONCE = 12
"""So many of the longest stay below the megabyte of a request, at up to 12 bytes a character. Ours."""
KEY = "croco.key"
"""Tag by which a run is found again."""
EVENTS = "events.out.tfevents.croco"
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
"""Where the environment does not say: a server that is not there fails in seconds, one that hangs in minutes. Ours."""
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}


@dataclass
class Tracked:
    """What trackers are told of a run, under names that each of them takes."""

    run: str
    key: str
    """Of the run and the outputs it is about."""
    params: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    points: list[tuple[int, str, float]] = field(default_factory=list)
    """Of the training curves: step, name, value."""
    tags: dict[str, str] = field(default_factory=dict)
    files: list[tuple[str, Path]] = field(default_factory=list)
    """Each with the folder it goes to."""
    changed: dict[str, Counter[str]] = field(default_factory=dict)
    """What could not be told as it is -> the names of those, and how often."""

    def name(self, *parts: str) -> str:
        """The parts' name. One that has to change is told from others by a digest of what it was."""
        name = "/".join(parts)
        kept = re.sub(r"[^\w./ -]", "_", name, flags=re.ASCII)
        kept = "/".join("_" if part in ("", ".", "..") else part for part in kept.split("/"))
        if kept == name and len(name) <= NAME_LENGTH:
            return name
        self.changed.setdefault("names changed", Counter())[name] = 1
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
        return f"{kept[: NAME_LENGTH - 9]}-{digest}"

    def cut(self, text: str, length: int, *parts: str) -> str:
        if len(text) > length:
            self.changed.setdefault("texts cut short", Counter())["/".join(parts)] += 1
        return text[:length]

    def finite(self, value: float, *parts: str) -> bool:
        """Whether a number can be told: JSON says none that is not finite."""
        if not math.isfinite(value):
            self.changed.setdefault("numbers left out, not finite", Counter())["/".join(parts)] += 1
        return math.isfinite(value)


def log_mlflow(tracked: Tracked, address: str, experiment: str) -> int:
    """Write a run to an MLflow server, or complete the one that is there; how many files it took.

    Raises: ValueError for an address that is none; ConnectionError where the server cannot be reached or refuses.
    """
    parts = urlsplit(address)
    if parts.username or parts.password:  # and they are not said again
        raise ValueError(
            "track: found credentials in MLflow's address; expected them in MLFLOW_TRACKING_TOKEN, or "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"track: found {address!r}; expected an MLflow server, http://HOST:PORT or https://HOST:PORT")
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    os.environ.update(QUIET)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(address)
        run = _found(client, tracked, experiment)
        _write(client, run, tracked)
        attached = _attach(client, run, tracked.files, address)
        client.set_terminated(run.info.run_id)
    except (MlflowException, OSError) as error:
        raise ConnectionError(
            f"{address}: found no way to track {tracked.run} ({_short(error)}); expected an MLflow server and, where "
            "it asks for them, credentials that may write, in MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD"
        ) from error
    return attached


def _found(client: Any, tracked: Tracked, experiment: str) -> Any:
    """The run in MLflow, made unless it is there. Raises: OSError for a server that is no MLflow."""
    known = client.get_experiment_by_name(experiment)
    where = known.experiment_id if known else client.create_experiment(experiment)
    runs = client.search_runs([where], f"tags.`{KEY}` = '{tracked.key}'", max_results=1)
    run = runs[0] if runs else client.create_run(where, run_name=tracked.run, tags={KEY: tracked.key})
    if run.data.tags.get(KEY) != tracked.key:
        raise OSError("its answer is another run than was asked for")
    return run


def _write(client: Any, run: Any, tracked: Tracked) -> None:
    """What the run lacks. Points of a curve bear the run's own time, so that none that is there is another."""
    from mlflow.entities import Metric, Param, RunTag

    id, there, now = run.info.run_id, run.data, int(time.time() * 1000)
    begun = {name for _, name, _ in tracked.points} & set(there.metrics)
    points = {(metric.step, name, metric.value) for name in begun for metric in client.get_metric_history(id, name)}
    params = [Param(name, value) for name, value in tracked.params.items() if there.params.get(name) != value]
    metrics = [
        Metric(name, value, now, 0) for name, value in tracked.numbers.items() if there.metrics.get(name) != value
    ]
    for step, name, value in tracked.points:
        if (step, name, value) not in points:
            metrics.append(Metric(name, value, run.info.start_time, step))
    for start in range(0, len(params), PARAMS_AT_ONCE):
        client.log_batch(id, params=params[start : start + PARAMS_AT_ONCE])
    client.log_batch(id, metrics=metrics, tags=[RunTag(name, value) for name, value in tracked.tags.items()])


def _attach(client: Any, run: Any, files: Sequence[tuple[str, Path]], address: str) -> int:
    """Upload files through the server; how many. One that keeps artifacts where only its own credentials reach, or
    elsewhere, is not an error: the numbers are there.
    """
    from mlflow.exceptions import MlflowException

    where = urlsplit(run.info.artifact_uri)
    if files and (where.scheme != "mlflow-artifacts" or where.netloc not in ("", urlsplit(address).netloc)):
        warnings.warn(
            f"track: {len(files)} files were not attached: found artifacts at {where.scheme or 'file'}://"
            f"{where.hostname or ''}; expected a server that takes them (mlflow server --artifacts-destination)",
            stacklevel=4,
        )
        return 0
    for number, (folder, path) in enumerate(files):
        try:
            client.log_artifact(run.info.run_id, str(path), folder)
        except (MlflowException, OSError) as error:
            warnings.warn(f"track: {len(files) - number} files were not attached: {_short(error)}", stacklevel=3)
            return number
    return len(files)


def _short(error: Exception) -> str:
    """An error on one line, with its end, where the cause is."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:150]} ... {text[-145:]}"


def log_tensorboard(tracked: Tracked, location: str) -> str:
    """Write the run's event file, over the one that is there; its name. Raises: as open_store."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that tensorboardX looks for
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.summary import text

    steps: dict[int, list[Any]] = {0: [Summary.Value(tag=n, simple_value=v) for n, v in tracked.numbers.items()]}
    for step, name, value in tracked.points:
        steps.setdefault(step, []).append(Summary.Value(tag=name, simple_value=value))
    config = "\n".join(f"    {name}: {json.dumps(value)}" for name, value in sorted(tracked.params.items()))
    steps[0].extend(text("config", config).value)
    name = f"{tracked.run}-{tracked.key[:8]}/{EVENTS}"
    opened, now = open_store(location), time.time()
    with tempfile.TemporaryDirectory(prefix="croco-track-") as folder:
        path = Path(folder) / EVENTS
        writer = RecordWriter(str(path))
        writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        for step, values in sorted(steps.items()):
            writer.write(Event(wall_time=now, step=step, summary=Summary(value=values)).SerializeToString())
        writer.close()
        opened.remove(name)
        opened.place(path, name)
    return name
