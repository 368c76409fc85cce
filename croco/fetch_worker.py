"""Fetch worker: EuroEval's loader and metrics in a process of their own, for `croco.fetch`.

Where they write is said by the environment, which their libraries read when they are imported.
"""

import dataclasses
import inspect
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

JOB, NOTES = "job.json", "notes.json"
"""Files in the worker's folder: what it is asked, what it answers."""
WEIGHTS = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin")
"""Files of a model that a metric reads."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What the worker is asked to do."""

    names: Sequence[str]
    """Data sets to fetch."""
    cache: str
    """EuroEval's cache_dir."""


@dataclasses.dataclass(frozen=True)
class Notes:
    """What became of it."""

    fetched: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Data set -> its source, that one's revision (a commit), and the bytes it takes."""
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    """Data set -> why it could not be fetched."""
    unknown: list[str] = dataclasses.field(default_factory=list)
    """Data sets that this EuroEval does not have."""
    scores: list[str] = dataclasses.field(default_factory=list)
    """Metrics that are there."""


class Loader:
    """`datasets.load_dataset`, with the user's token where there is one (EuroEval 16 has its own), and remembering why
    it failed last: EuroEval tries five times and does not say.
    """

    def __init__(self, load: Any) -> None:
        self.load = load
        self.error: Exception | None = None

    def __call__(self, **arguments: Any) -> Any:
        from huggingface_hub import get_token

        try:
            return self.load(**{**arguments, **({"token": True} if get_token() else {})})
        except Exception as error:
            self.error = error
            raise


def run(job: Job) -> Notes:
    """Fetch the data sets and what scores them."""
    import httpx
    from datasets.exceptions import DatasetsError
    from euroeval import DatasetConfig, data_loading, dataset_configs
    from euroeval.exceptions import HuggingFaceHubDown, InvalidBenchmark
    from tqdm import tqdm

    known = {config.name: config for config in vars(dataset_configs).values() if isinstance(config, DatasetConfig)}
    load, notes = data_loading.load_dataset, Notes()
    for name in tqdm(job.names, desc="data sets", unit="set", disable=None):
        if name not in known:
            notes.unknown.append(name)
            continue
        data_loading.load_dataset = loader = Loader(load)
        try:
            fetched = fetch_data(known[name], job.cache)
            for metric in known[name].task.metrics:
                if metric.name not in notes.scores:
                    fetch_metric(metric, job.cache)
                    notes.scores.append(metric.name)
        except (
            InvalidBenchmark, HuggingFaceHubDown, DatasetsError, httpx.HTTPError, OSError, ValueError, ImportError
        ) as error:  # fmt: skip
            reason = loader.error or error
            notes.failed[name] = f"{type(reason).__name__}: {reason}"
            continue
        notes.fetched[name] = fetched
    return notes


def fetch_data(config: Any, cache: str) -> dict[str, Any]:
    """Have EuroEval load a data set, which leaves it in `cache`: its source, revision and bytes."""
    from euroeval.data_loading import load_raw_data

    asks = inspect.signature(load_raw_data).parameters
    loaded = load_raw_data(config, cache_dir=cache, **({"api_key": None} if "api_key" in asks else {}))
    folder = Path(loaded["test"].cache_files[0]["filename"]).parent
    for other in folder.parent.iterdir():  # of an earlier run: offline, the newest by its file's time would be taken
        if other.is_dir() and other != folder:
            shutil.rmtree(other)
    size = sum(file.stat().st_size for file in folder.iterdir())
    return {"source": config.source, "revision": folder.name, "bytes": size}


def fetch_metric(metric: Any, cache: str) -> None:
    """Download a metric's code, and the model or word lists it fetches no earlier than when it scores."""
    metric.download(cache_dir=cache)
    if model := getattr(metric, "compute_kwargs", {}).get("model_type"):
        from huggingface_hub import snapshot_download

        snapshot_download(model, allow_patterns=list(WEIGHTS))
    if hasattr(metric, "downloaded_nltk"):
        import nltk

        nltk.download("punkt_tab", download_dir=os.environ["NLTK_DATA"], quiet=True, raise_on_error=True)


def main() -> None:
    """Read the job in the working directory, do it, and write the notes."""
    job: Mapping[str, Any] = json.loads(Path(JOB).read_text(encoding="utf-8"))
    notes = run(Job(**job))
    Path(NOTES).write_text(json.dumps(dataclasses.asdict(notes), indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
