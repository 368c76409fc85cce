"""Benchmark worker: runs EuroEval in a process of its own, for `croco.benchmark`.

EuroEval changes the process it is imported into (environment, warnings, logging) and needs a few of its and its
libraries' names replaced; here that ends with the process. It appends the record of each data set to a file when it has
evaluated it; from there the record goes to the store at once, so that a run that is cut short loses one data set's work
at most.
"""

import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from croco import benchmark_tasks, chat, engine
from croco.benchmark_cache import DATA
from croco.benchmark_datasets import read_local
from croco.benchmark_records import parse_line, read_lines
from croco.store import Store, open_store

JOB, RESULTS, NOTES, FAILURE = "job.json", "results.jsonl", "notes.json", "failure.txt"
"""Files in the worker's folder: what it is asked, what EuroEval appends its records to, what it answers last, or why it
could not.
"""
SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty")
"""What EuroEval may take from a model's own generation_config.json."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What the worker is asked to do."""

    owner: int
    """Process that wants it; without it the worker stops before the next data set."""
    model: str
    """Folder of the model, relative to the working directory; EuroEval records it as the model's name."""
    records: Mapping[str, str]
    """Data set, of the folder or EuroEval's own, to evaluate -> name of its record in the store."""
    datasets: str | None
    """Folder of local data sets."""
    offline: bool
    """Whether all other data sets are in the working directory's cache, so that nothing has to be fetched."""
    iterations: int
    test_split: bool
    few_shot: bool
    store: str


@dataclasses.dataclass(frozen=True)
class Notes:
    """What the records in the store do not say."""

    unknown: Sequence[str] = ()
    """Data sets this EuroEval does not have."""
    failed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Data set -> why it could not be evaluated."""
    gpus: int = 0
    bytes_written: int = 0
    """To the store."""


@dataclasses.dataclass
class Meter:
    """Tokens that EuroEval's engine has read and written, and how it runs."""

    tokens_in: int = 0
    tokens_out: int = 0
    ran_with: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What two models' scores have to have in common: number format, context, batches, sampling."""
    revisions: dict[str, str] = dataclasses.field(default_factory=dict)
    """Data set -> which of the hub's commits was loaded."""
    refused: list[str] = dataclasses.field(default_factory=list)
    """Why EuroEval did not load the model."""


class Keeper:
    """Puts the records that EuroEval has appended to its results into the store, with what their data sets took."""

    def __init__(self, job: Job, store: Store, about: Mapping[str, Any]) -> None:
        """`about`: what every record says besides."""
        self.job, self.store, self.about = job, store, about
        self.spent: dict[str, dict[str, Any]] = {}
        """Data set -> its revision, tokens, seconds and GPU-seconds, of each that was evaluated."""
        self.kept: set[str] = set()

    def keep(self) -> None:
        """Put what is new. Raises: ValueError for a record of another model."""
        for name, line in read_lines(Path(RESULTS)).items():
            if name in self.kept:
                continue
            if (found := parse_line(line, name).model) != self.job.model:
                raise ValueError(f"EuroEval: found a record of {found}; expected one of {self.job.model}")
            self.store.write(self.job.records[name], {"line": line, **self.about, **self.spent[name]})
            self.kept.add(name)


def run(job: Job) -> Notes:
    """Evaluate the model on every data set of the job, in the working directory.

    Raises: RuntimeError if EuroEval cannot load the model; ValueError for a local data set named as one of EuroEval's.
    """
    template = chat.template_sha256(chat.load_tokenizer(job.model))
    local = {data.name: data for data in read_local(Path(job.datasets))} if job.datasets else {}
    settings = {**engine.settings(engine.context(job.model)), "dtype": engine.dtype()}
    import torch
    from euroeval import Benchmarker, DatasetConfig, dataset_configs

    meter, kinds = _adapt(settings, offline=job.offline)
    known = {config.name: config for config in vars(dataset_configs).values() if isinstance(config, DatasetConfig)}
    if both := sorted(known.keys() & local.keys()):
        raise ValueError(f"{job.datasets}: found data sets named {both}, as EuroEval's own; expected other names")
    known |= {name: benchmark_tasks.config(data) for name, data in local.items()}
    asked = {name: known[name] for name in job.records if name in known}
    gpus = torch.cuda.device_count()
    keeper = Keeper(job, open_store(job.store), {"chat_template_sha256": template, "ran_with": meter.ran_with})
    failed: dict[str, str] = {}

    class Resumable(Benchmarker):
        def _benchmark_single(self, *args: Any, dataset_config: Any, **kwargs: Any) -> Any:
            keeper.keep()  # the one before: EuroEval appended its record after this method returned
            os.kill(job.owner, 0)  # raises once the stage was killed: its next run may do the same already
            began, before = time.monotonic(), dataclasses.replace(meter)
            outcome = super()._benchmark_single(*args, dataset_config=dataset_config, **kwargs)
            seconds = time.monotonic() - began
            keeper.spent[dataset_config.name] = {
                "revision": meter.revisions.get(dataset_config.name),
                "tokens_in": meter.tokens_in - before.tokens_in,
                "tokens_out": meter.tokens_out - before.tokens_out,
                "seconds": seconds,
                "gpu_seconds": seconds * gpus,
            }
            if isinstance(outcome, Exception):
                failed[dataset_config.name] = str(outcome)
            return outcome

    benchmarker = Resumable(
        # A tuple: EuroEval 17 looks every member of a list up on the hub, its own data sets excepted.
        dataset=tuple(asked.values()),
        cache_dir=str(Path(DATA).resolve()),
        num_iterations=job.iterations,
        evaluate_test_split=job.test_split,
        few_shot=job.few_shot,
        trust_remote_code=False,
        custom_datasets_file="none",
    )
    benchmarker.results_path = Path(RESULTS)
    if asked:
        benchmarker.benchmark(job.model)
        keeper.keep()
        if not kinds:
            raise RuntimeError(" ".join(["EuroEval does not load the model:", *meter.refused]))
    for name, config in asked.items():
        if name not in keeper.spent and kinds & {*config.allowed_generative_types}:
            failed[name] = "not reached: EuroEval gave the model up at an earlier data set"
    return Notes(
        unknown=[name for name in job.records if name not in known],
        failed=failed,
        gpus=gpus,
        bytes_written=keeper.store.bytes_written,
    )


def _adapt(settings: dict[str, Any], *, offline: bool) -> tuple[Meter, set[Any]]:
    """Replace, in this process, what keeps EuroEval from running our way.

    - The engine starts with the settings of every other stage: base and tuned in the same number format. It counts its
      tokens and says how it runs, and EuroEval's loader which data it found.
    - transformers 5 returns a mapping where EuroEval 16 expects a list of token ids.
    - EuroEval insists on a CUDA compiler (16 on machines without CUDA too), which no other stage needs.
    - EuroEval asks a host on the internet whether there is one; offline it should not wait for an answer.

    Returns: the engine's meter, and the generative type of the model, once it is loaded.
    """
    import torch
    from euroeval import benchmarker, data_loading
    from euroeval.benchmark_modules import vllm
    from euroeval.exceptions import InvalidModel
    from transformers import PreTrainedTokenizerBase

    meter, kinds = Meter(), set()

    class Engine(vllm.LLM):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**{**kwargs, **settings})
            meter.ran_with.update(ran_with(self.llm_engine.vllm_config))

        def generate(self, *args: Any, **kwargs: Any) -> Any:
            meter.ran_with.update({what: getattr(kwargs["sampling_params"], what) for what in SAMPLING})
            outputs = super().generate(*args, **kwargs)
            meter.tokens_in += sum(len(request.prompt_token_ids or ()) for request in outputs)
            meter.tokens_out += sum(len(answer.token_ids) for request in outputs for answer in request.outputs)
            return outputs

    vllm.LLM = Engine
    load: Any = benchmarker.load_model

    def load_model(*args: Any, **kwargs: Any) -> Any:
        try:
            model = load(*args, **kwargs)
        except InvalidModel as error:
            meter.refused.append(str(error))
            raise
        kinds.add(model.generative_type)
        return model

    benchmarker.load_model = load_model
    load_data: Any = data_loading.load_raw_data

    def load_raw_data(*args: Any, dataset_config: Any, **kwargs: Any) -> Any:
        loaded = load_data(*args, dataset_config=dataset_config, **kwargs)
        meter.revisions[dataset_config.name] = Path(loaded["test"].cache_files[0]["filename"]).parent.name
        return loaded

    data_loading.load_raw_data = load_raw_data
    render: Any = PreTrainedTokenizerBase.apply_chat_template

    def render_to_list(self: Any, *args: Any, **kwargs: Any) -> Any:
        return render(self, *args, **{"return_dict": False, **kwargs})

    PreTrainedTokenizerBase.apply_chat_template = render_to_list  # type: ignore[method-assign]
    if not torch.cuda.is_available():
        settings["distributed_executor_backend"] = "uni"  # not a process of its own for one CPU worker
    vllm.shutil = SimpleNamespace(which=lambda name: shutil.which(name) or name)
    if offline:
        for name, module in list(sys.modules.items()):
            if name.startswith("euroeval.") and hasattr(module, "internet_connection_available"):
                module.internet_connection_available = lambda: False  # type: ignore[attr-defined]
    return meter, kinds


def ran_with(config: Any) -> dict[str, Any]:
    """What vLLM's configuration came to, of what may change an answer; not what the memory of the day decides."""
    return {
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "quantization": config.model_config.quantization,
        "max_model_len": config.model_config.max_model_len,
        "seed": config.model_config.seed,
        "max_num_seqs": config.scheduler_config.max_num_seqs,
        "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
        "enable_prefix_caching": config.cache_config.enable_prefix_caching,
        "kv_cache_dtype": config.cache_config.cache_dtype,
        "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
        "enforce_eager": config.model_config.enforce_eager,
        "device": config.device_config.device_type,
    }


def main() -> None:
    """Read the job in the working directory, do it, and write the notes, or why there are none."""
    job = Job(**json.loads(Path(JOB).read_text(encoding="utf-8")))
    try:
        notes = run(job)
    except Exception as error:
        Path(FAILURE).write_text(f"{type(error).__name__}: {error}", encoding="utf-8", errors="replace")
        raise
    Path(NOTES).write_text(json.dumps(dataclasses.asdict(notes), indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
