"""Benchmark: a model -> its EuroEval scores, by language.

Run once for base and once for tuned. Source: the paper's section on structured evaluation; data sets and iterations
from the reference's 5.euroeval.sh (`croco.benchmark_datasets.PAPER`).

    python -m croco benchmark --model DIR_OR_HUB_ID --out DIR [--datasets DIR] [--languages da en]

EuroEval runs in a child process (`croco.benchmark_worker`). With `--datasets`, a folder of local data sets, nothing is
fetched from a network. A run that was cut short goes on where it stopped when it is started again.
"""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import croco
from croco import dataset, languages, models
from croco.benchmark_datasets import PAPER, LocalDataset, read_local
from croco.benchmark_records import Record, drop_partial, read_records
from croco.benchmark_worker import Job, Notes

VERSION = 1
RECORDS = "euroeval_benchmark_results.jsonl"
"""EuroEval's own records, in `out` until the stage is done: EuroEval skips what it finds there."""
MODEL_FILES = {".safetensors", ".json", ".jinja", ".txt", ".model", ".tiktoken"}
"""Kinds of files EuroEval gets to see: no pickled weights, no code."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """What is evaluated, and how."""

    languages: tuple[str, ...] = languages.MAIN
    """Whose data sets are run. Default: the seven of the paper's main study."""
    names: tuple[str, ...] = ()
    """Data sets to run, of those languages' only. Default: all of `datasets` where that is given, else the paper's."""
    iterations: int = 3
    """Bootstrapped evaluations of each data set, from 2 on (an interval needs two). Default: the reference code's;
    EuroEval's own is 10."""
    test_split: bool = True
    """The test split, as the reference code; EuroEval's own default is the validation split."""
    few_shot: bool = True
    """Solved examples in the prompt, as many as EuroEval gives for the task (EuroEval's default)."""
    max_failed: float = 0.1
    """Share of the data sets, below 1, that EuroEval may fail on before the stage fails (ours). Each is counted."""

    def __post_init__(self) -> None:
        languages.check(self.languages)
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names: found {list(self.names)}; expected each once")
        if self.iterations < 2:
            raise ValueError(f"iterations: found {self.iterations}; expected 2 or more, an interval needs two")
        if not 0 <= self.max_failed < 1:
            raise ValueError(f"max_failed: found {self.max_failed}; expected a share from 0 to below 1")


def choose(config: BenchmarkConfig, local: Sequence[LocalDataset]) -> tuple[dict[str, str], dict[str, str]]:
    """(data set -> language to run, language -> reason why it has none).

    `local` takes the place of the paper's data sets where it is given, unless `names` asks for some of both.
    Raises: ValueError for a name that no language asked for has, or if nothing remains.
    """
    paper = {name: code for code, names in PAPER.items() for name in names}
    own = {data.name: data.language for data in local}
    offered = {**paper, **own} if config.names or not local else own
    known = {name: code for name, code in offered.items() if code in config.languages}
    if strange := [name for name in config.names if name not in known]:
        raise ValueError(f"names: found {strange}; expected data sets of {list(config.languages)}: {sorted(known)}")
    chosen = {name: known[name] for name in config.names or known}
    missing = "no_local_data_set" if local else "no_euroeval_data_set"
    without = {
        code: "not_named" if code in known.values() else missing
        for code in config.languages
        if code not in chosen.values()
    }
    if not chosen:
        raise ValueError(
            f"languages: found no data set for {', '.join(without)}; expected some of "
            f"{', '.join(sorted(set(offered.values())))}, or a folder of local ones (--datasets)"
        )
    return chosen, without


def account(
    chosen: Mapping[str, str], without: Mapping[str, str], records: Mapping[str, Record], notes: Notes
) -> tuple[list[dict[str, Any]], list[dataset.Count]]:
    """(rows of contract `benchmarks`, counts): of every data set asked for, its scores or the reason it has none.

    A language without a data set counts as one data set asked for.
    """
    rows, scores, benchmarks = [], dataset.Tally("benchmark scores"), dataset.Tally("benchmarks")
    for name, language in chosen.items():
        benchmarks.take(language)
        if name not in records:
            benchmarks.drop(language, _reason(name, notes))
            continue
        benchmarks.keep(language)
        record = records[name]
        for score in record.scores:
            rows.append(
                {
                    "benchmark": name,
                    "task": record.task,
                    "language": language,
                    "split": record.split,
                    **dataclasses.asdict(score),
                }
            )
            scores.take(language)
            scores.keep(language)
    for language, reason in without.items():
        benchmarks.take(language)
        benchmarks.drop(language, reason)
    return rows, [*scores.counts(), *benchmarks.counts()]


def _reason(name: str, notes: Notes) -> str:
    if name in notes.unknown:
        return "not_in_this_euroeval"
    return "failed" if name in notes.failed else "not_for_this_kind_of_model"


def weights(model: str, revision: str | None) -> list[Path]:
    """The files of a whole model (local folder or hub id) that EuroEval gets to see: no pickles, no code.

    Raises: ValueError for an adapter; FileNotFoundError if there are no weights as safetensors.
    """
    folder = Path(model)
    if not folder.is_dir() and not model.startswith((".", "/")):
        folder = models.snapshot(model, models.resolve(model, revision), [f"*{kind}" for kind in sorted(MODEL_FILES)])
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{model}: found an adapter; expected a whole model: `python -m croco train` writes it to merged/"
        )
    files = [file for file in sorted(folder.glob("*")) if file.suffix in MODEL_FILES and file.is_file()]
    if not any(file.suffix == ".safetensors" for file in files):
        raise FileNotFoundError(f"{model}: found no *.safetensors; expected a whole model with its weights")
    return files


def run_euroeval(job: Job) -> Notes:
    """EuroEval in a child process that works, and keeps what it keeps, in the folder of the job's notes.

    Raises: RuntimeError if the child fails.
    """
    work = Path(job.notes).parent
    (work / "job.json").write_text(json.dumps(dataclasses.asdict(job)), encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(croco.__file__).parents[1]), os.getenv("PYTHONPATH")])),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else its import fetches a price list
        "VLLM_CACHE_ROOT": str(work / "vllm"),
        "VLLM_CONFIG_ROOT": str(work / "vllm"),
    }
    if job.offline:
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "hub"), "XDG_CACHE_HOME": str(work / "cache")}
        for token in ("HF_TOKEN", "HUGGINGFACE_API_KEY"):
            environment.pop(token, None)  # EuroEval would ask the hub whose it is
    command = [sys.executable, "-m", "croco.benchmark_worker", "job.json"]
    status = subprocess.run(command, cwd=work, env=environment, check=False).returncode
    if status:
        raise RuntimeError(f"EuroEval: found exit status {status}; expected 0; its messages are above")
    return Notes(**json.loads(Path(job.notes).read_text(encoding="utf-8")))


def run(
    *,
    model: str,
    out: Path,
    revision: str | None = None,
    datasets: Path | None = None,
    cache: Path | None = None,
    config: BenchmarkConfig = BenchmarkConfig(),
) -> dataset.Manifest:
    """Evaluate a model with EuroEval.

    Args:
        model: A whole model's folder, or a hub id.
        revision: The hub id's commit, branch or tag.
        out: Where the scores go.
        datasets: A folder of local data sets (croco/benchmark_datasets.py says how it looks), run instead of the
            paper's; nothing is then fetched.
        cache: Where EuroEval keeps data sets it downloads; default: a temporary folder.
    """
    local = read_local(datasets) if datasets else []
    chosen, without = choose(config, local)
    files, identity = weights(model, revision), models.identity(model, revision)
    writer = dataset.Writer(out, "benchmarks", stage="benchmark", version=VERSION, config=config)
    data = {one.name: [dataset.sha256_file(path) for path in one.files.values()] for one in local}
    asked = [config.iterations, config.test_split, config.few_shot]
    about = [VERSION, identity, asked, dataset.library_versions(), data]
    name = f"model-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}"
    results = (out / RECORDS).resolve()
    drop_partial(results)
    with tempfile.TemporaryDirectory(prefix="croco-benchmark-") as folder:
        work = Path(folder)
        (work / name).mkdir()  # EuroEval writes into the model's folder: it gets one of its own, of links
        for file in files:
            (work / name / file.name).symlink_to(file.resolve())
        notes = run_euroeval(
            Job(
                model=name,
                names=list(chosen),
                datasets=str(datasets.resolve()) if datasets else None,
                offline=chosen.keys() <= data.keys(),
                iterations=config.iterations,
                test_split=config.test_split,
                few_shot=config.few_shot,
                cache=str(cache.resolve() if cache else work / "euroeval"),
                results=str(results),
                notes=str(work / "notes.json"),
            )
        )
    records = read_records(results, name)
    rows, counts = account(chosen, without, records, notes)
    for count in counts:
        for reason, number in count.dropped.items():
            writer.warn(f"{count.language}: {number} {count.unit} not run: {reason}")
    for benchmark, message in notes.failed.items():
        writer.warn(f"{benchmark}: EuroEval failed: {message}")
    if len(notes.failed) > config.max_failed * len(chosen):
        raise RuntimeError(
            f"EuroEval: found {len(notes.failed)} of {len(chosen)} data sets failed; expected at most a share of "
            f"{config.max_failed}: {dict(notes.failed)}"
        )
    writer.add(rows)
    manifest = writer.finish(
        counts,
        models={"policy": identity},
        metrics={
            "euroeval": notes.euroeval,
            "chat_template_sha256": notes.chat_template_sha256,
            "generative_type": sorted({str(record.generative_type) for record in records.values()}),
            "seconds": notes.seconds,
            "local_data_sha256": data,
        },
    )
    results.unlink()
    return manifest
