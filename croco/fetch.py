"""Fetch: EuroEval's data sets, metrics and their models -> one folder, with which `benchmark` needs no network.

    python -m croco fetch --out DIR [--languages da en] [--suite official-17.7]
    python -m croco benchmark --cache DIR ...

EuroEval's own `download_only` is of no use here: version 16 loads the model into vLLM for each data set, so it takes a
GPU and a model, both versions hide why a data set failed, and neither says which revision it took. Its own loader and
metrics do the downloading (`croco.fetch_worker`). A data set that is there is not downloaded again, so that a killed
run goes on where it was.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from croco import benchmark_child, benchmark_failures, dataset, languages
from croco.benchmark import BenchmarkConfig, choose
from croco.benchmark_cache import DATA, HUB, NLTK, environment
from croco.fetch_worker import JOB, NOTES, Job, Notes
from croco.writer import Writer

VERSION = 1


@dataclass(frozen=True)
class FetchConfig:
    """What is fetched; as in the `benchmark` that reads it."""

    languages: tuple[str, ...] = languages.MAIN
    """Whose data sets. Default: the seven of the paper's main study."""
    suite: str = "paper"
    """Whose list of data sets: paper (the reference code's), or EuroEval's own by its version, as official-17.7."""
    names: tuple[str, ...] = ()
    """Data sets to fetch, of those languages' only. Default: all of the suite's."""
    max_failed: float = 0.1
    """Share of the data sets, below 1, that may fail before the stage fails (ours). Each is counted."""

    def __post_init__(self) -> None:
        self.evaluation()

    def evaluation(self) -> BenchmarkConfig:
        """The evaluation it is for. Raises: ValueError for a setting that `benchmark` refuses."""
        return BenchmarkConfig(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})


def account(chosen: Mapping[str, str], without: Mapping[str, str], notes: Notes) -> list[dataset.Count]:
    """Of every data set asked for, whether it was fetched, or the reason why not."""
    tally = dataset.Tally("data sets")
    for name, language in chosen.items():
        tally.take(language)
        if name in notes.fetched:
            tally.keep(language)
        elif name in notes.unknown:
            tally.drop(language, "not_in_this_euroeval")
        else:
            tally.drop(language, benchmark_failures.reason(notes.failed[name]))
    for language, reason in without.items():
        tally.take(language)
        tally.drop(language, reason)
    return tally.counts()


def download(out: Path, names: list[str]) -> Notes:
    """Have EuroEval download the data sets into `out`, in a child process. Raises: RuntimeError if the child fails."""
    from huggingface_hub.constants import HF_TOKEN_PATH

    places = environment(out) | {"HF_TOKEN_PATH": os.environ.get("HF_TOKEN_PATH", HF_TOKEN_PATH)}
    with tempfile.TemporaryDirectory(prefix="croco-fetch-") as folder:
        work = Path(folder)
        (work / JOB).write_text(json.dumps(dataclasses.asdict(Job(names, str(out / DATA)))), encoding="utf-8")
        command, places = [sys.executable, "-m", "croco.fetch_worker"], benchmark_child.environment(work) | places
        status = subprocess.run(command, cwd=work, env=places, check=False).returncode
        if status:
            raise RuntimeError(f"fetch: found exit status {status}; expected 0; its messages are above")
        return Notes(**json.loads((work / NOTES).read_text(encoding="utf-8")))


def run(*, out: Path, config: FetchConfig = FetchConfig()) -> dataset.Manifest:
    """Download what an evaluation with EuroEval reads, for one without a network.

    Args:
        out: Where it goes.
    """
    chosen, without = choose(config.evaluation(), [])
    euroeval = dataset.library_versions().get("euroeval")
    writer = Writer(out, None, stage="fetch", version=VERSION, config=config, also=euroeval)
    for part in (DATA, HUB, NLTK):
        (out / part).mkdir(exist_ok=True)
    notes = download(out.resolve(), list(chosen))
    for name, message in notes.failed.items():
        writer.warn(f"{name}: not fetched: {benchmark_failures.explain(message)}")
    if notes.unknown:
        writer.warn(benchmark_failures.not_in(euroeval, notes.unknown))
    if len(notes.failed) > config.max_failed * len(chosen):
        raise RuntimeError(
            f"fetch: found {len(notes.failed)} of {len(chosen)} data sets failed, as said above; expected at most "
            f"{config.max_failed:g} of them; what was fetched is kept for the next run"
        )
    tidy(out)
    for part in (DATA, HUB, NLTK):
        writer.attach(out / part)
    return writer.finish(
        account(chosen, without, notes),
        metrics={
            "euroeval": euroeval,
            "data_sets": notes.fetched,
            "scores": notes.scores,
            "failed": notes.failed,
            "unknown": notes.unknown,
            "bytes": sum(file["bytes"] for file in writer.files),
        },
    )


def tidy(out: Path) -> None:
    """Remove what an evaluation does not read: data sets as they were downloaded, locks, what a kill left half-done,
    what Python compiled.
    """
    for downloaded in (out / HUB / "hub").glob("datasets--*"):
        shutil.rmtree(downloaded)
    shutil.rmtree(out / HUB / "xet", ignore_errors=True)
    for path in [path for pattern in ("*.lock", "*.incomplete*", "__pycache__") for path in out.rglob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
