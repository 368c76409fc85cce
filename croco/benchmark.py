"""Benchmark: a model -> its EuroEval scores, by language.

Run once for base and once for tuned. Source: the paper's section on structured evaluation; data sets and iterations
from the reference's 5.euroeval.sh (`croco.suites`).

    python -m croco benchmark --model DIR_OR_HUB_ID --out DIR [--datasets DIR] [--cache DIR] [--languages da en]

EuroEval runs in a child process (`croco.benchmark_child`). With `--datasets`, a folder of local data sets, or
`--cache`, what `fetch` wrote, nothing is fetched from a network. What is done once for one model and one data set is
its record, in the store or, without one, in OUT until the stage is done; EuroEval is started for the data sets that
have none.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croco import benchmark_child, benchmark_failures, checks, dataset, languages, models
from croco.benchmark_cache import Cache, read_cache
from croco.benchmark_datasets import LocalDataset, read_local
from croco.benchmark_records import Record, find, parse_line
from croco.benchmark_worker import Job, Notes
from croco.store import open_store
from croco.suites import SUITES
from croco.writer import KEPT, Writer, key_of

VERSION = 2
MODEL_FILES = (".safetensors", ".json", ".jinja", ".txt", ".model", ".tiktoken")
"""Kinds of files EuroEval gets to see: no pickled weights, no code."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """What is evaluated, and how."""

    languages: tuple[str, ...] = languages.MAIN
    """Whose data sets are run. Default: the seven of the paper's main study."""
    suite: str = "paper"
    """Whose list of data sets: paper (the reference code's), or EuroEval's own by its version, as official-17.7."""
    names: tuple[str, ...] = ()
    """Data sets to run, of those languages' only. Default: all of `datasets` where that is given, else the suite's."""
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
        checks.one_of(self, "suite", SUITES)
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names: found {list(self.names)}; expected each once")
        if self.iterations < 2:
            raise ValueError(f"iterations: found {self.iterations}; expected 2 or more, an interval needs two")
        if not 0 <= self.max_failed < 1:
            raise ValueError(f"max_failed: found {self.max_failed}; expected a share from 0 to below 1")


def choose(config: BenchmarkConfig, local: Sequence[LocalDataset]) -> tuple[dict[str, str], dict[str, str]]:
    """(data set -> language to run, language -> reason why it has none).

    `local` takes the place of the suite's data sets where it is given, unless `names` asks for some of both.
    Raises: ValueError for a name that no language asked for has, or if nothing remains.
    """
    suite = {name: code for code, names in SUITES[config.suite].items() for name in names}
    own = {data.name: data.language for data in local}
    offered = {**suite, **own} if config.names or not local else own
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
    return benchmark_failures.reason(notes.failed[name]) if name in notes.failed else "not_for_this_kind_of_model"


def weights(folder: Path) -> list[Path]:
    """The files of a whole model that EuroEval gets to see: no pickles, no code.

    Raises: ValueError for an adapter; FileNotFoundError if there are no weights as safetensors.
    """
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder}: found an adapter; expected a whole model: `python -m croco train` writes it to merged/"
        )
    files = [file for file in sorted(folder.glob("*")) if file.suffix in MODEL_FILES and file.is_file()]
    if not any(file.suffix == ".safetensors" for file in files):
        raise FileNotFoundError(f"{folder}: found no *.safetensors; expected a whole model with its weights")
    return files


def run(
    *,
    model: str,
    out: Path,
    revision: str | None = None,
    datasets: Path | None = None,
    datasets_revision: str | None = None,
    cache: Path | None = None,
    store: str | None = None,
    config: BenchmarkConfig = BenchmarkConfig(),
) -> dataset.Manifest:
    """Evaluate a model with EuroEval.

    Args:
        model: A whole model's folder, or a hub id.
        revision: The hub id's commit, branch or tag; of a folder `sha256:<hex>`, which is then checked.
        out: Where the scores go.
        datasets: A folder of local data sets (croco/benchmark_datasets.py says how it looks), run instead of the
            suite's; nothing is then fetched.
        datasets_revision: What that folder holds, `sha256:<hex>`; it is then checked.
        cache: What `fetch` wrote; EuroEval's own data sets are then read from it and nothing is fetched.
        store: Where finished work is kept and looked for: s3://bucket/prefix or a folder.
    """
    if datasets and datasets_revision:
        models.check_local(datasets, datasets_revision)
    local = read_local(datasets) if datasets else []
    chosen, without = choose(config, local)
    files = weights(Path(model)) if models.is_local(model) else []
    identity = models.identity(model, revision)
    shas = {one.name: one.sha256 for one in local if one.name in chosen}
    libraries = dataset.library_versions()
    euroeval = libraries.get("euroeval")
    fetched = read_cache(cache, [one for one in chosen if one not in shas], euroeval)
    data = {**shas, **fetched.revisions}
    writer = Writer(
        out,
        "benchmarks",
        stage="benchmark",
        version=VERSION,
        config=config,
        models={"policy": identity},
        store=store,
        also=[euroeval, data],
    )
    if writer.done:
        return writer.done
    asked = {what: getattr(config, what) for what in ("iterations", "test_split", "few_shot")}
    about = [VERSION, identity, asked, libraries]
    name = f"model-{key_of(about)[:16]}"
    there = [one for one in chosen if one not in fetched.lacking]
    records = {one: f"shards/benchmark/{key_of(about, one, data.get(one))}.json" for one in there}
    kept = writer.store or open_store(out / KEPT)
    found, notes = find(kept, records, name), Notes()
    if missing := {one: place for one, place in records.items() if one not in found}:
        job = Job(
            owner=os.getpid(),
            model=name,
            records=missing,
            datasets=str(datasets.resolve()) if datasets else None,
            offline=missing.keys() <= data.keys(),
            **asked,
            store=kept.location if "://" in kept.location else str(Path(kept.location).resolve()),
        )
        files = files or weights(models.snapshot(model, identity["revision"], [f"*{kind}" for kind in MODEL_FILES]))
        notes = benchmark_child.run(job, files, cache)
        found |= find(kept, missing, name)
    notes = _with(notes, fetched)
    _count(writer, [(chosen[one], record, one in missing) for one, record in found.items()], notes)
    writer.shards += [records[one] for one in chosen if one in found]
    lines = {one: parse_line(record["line"], one) for one, record in found.items()}
    rows, counts = account(chosen, without, lines, notes)
    _warn(writer, counts, notes, euroeval=euroeval, most=config.max_failed * len(chosen))
    writer.add(rows)
    template = next((record["chat_template_sha256"] for record in found.values()), None)
    return writer.finish(
        counts,
        models={"policy": {**identity, "chat_template_sha256": template}},
        metrics={
            "generative_type": sorted({str(line.generative_type) for line in lines.values()}),
            "ran_with": _distinct(record["ran_with"] for record in found.values()),
            "local_data_sha256": shas,
            "data_revisions": {one: record["revision"] for one, record in found.items() if one not in shas},
        },
    )


def _count(writer: Writer, records: Iterable[tuple[str, Mapping[str, Any], bool]], notes: Notes) -> None:
    """Enter (language, record of a data set, whether it was computed in this run) into the ledger."""
    for language, record, computed in records:
        spent = writer.spent(language)
        spent.add(**{what: record[what] for what in ("tokens_in", "tokens_out", "seconds", "gpu_seconds")})
        if computed:
            spent.add(shards_computed=1, run_seconds=record["seconds"])
        else:
            spent.add(shards_reused=1)
    writer.gpus = notes.gpus
    writer.spent(None).add(bytes_written=notes.bytes_written)


def _with(notes: Notes, fetched: Cache) -> Notes:
    """The notes, and why the cache lacks some of what was asked for."""
    return dataclasses.replace(
        notes,
        unknown=[*notes.unknown, *fetched.unknown],
        failed={**notes.failed, **{name: f"not in the cache, {why}" for name, why in fetched.failed.items()}},
    )


def _distinct(settings: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each of them once, in an order that does not depend on theirs."""
    return [json.loads(text) for text in sorted({json.dumps(one, sort_keys=True) for one in settings})]


def _warn(writer: Writer, counts: Iterable[dataset.Count], notes: Notes, *, euroeval: str | None, most: float) -> None:
    """Say what was not run, and why. Raises: RuntimeError if EuroEval failed on more data sets than `most`."""
    for count in counts:
        for reason, number in count.dropped.items():
            writer.warn(f"{count.language}: {number} {count.unit} not run: {reason}")
    if notes.unknown:
        writer.warn(benchmark_failures.not_in(euroeval, notes.unknown))
    failed = {name: benchmark_failures.explain(message) for name, message in notes.failed.items()}
    for benchmark, message in failed.items():
        writer.warn(f"{benchmark}: failed: {message}")
    if len(failed) > most:
        raise RuntimeError(f"EuroEval: found {len(failed)} data sets failed; expected at most {most:g}: {failed}")
