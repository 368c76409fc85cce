"""Benchmark worker: runs EuroEval in a process of its own, for `croco.benchmark`.

EuroEval changes the process it is imported into (environment, warnings, logging) and needs a few of its and its
libraries' names replaced; here that ends with the process. It appends the record of each data set to a file when it has
evaluated it; from there the record goes to the store at once, so that a run that is cut short loses one data set's work
at most.
"""

import dataclasses
import functools
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from croco import chat, engine
from croco.benchmark_datasets import LocalDataset, read_local
from croco.benchmark_records import parse_line, read_lines
from croco.store import Store, open_store

JOB, RESULTS, NOTES = "job.json", "results.jsonl", "notes.json"
"""Files in the worker's folder: what it is asked, what EuroEval appends its records to, what it answers last."""


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
    """Whether no other data sets are run, so that nothing has to be fetched."""
    iterations: int
    test_split: bool
    few_shot: bool
    cache: str | None
    """Folder for EuroEval's downloads, else one in the working directory."""
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
    """Tokens that EuroEval's engine has read and written."""

    tokens_in: int = 0
    tokens_out: int = 0


class Keeper:
    """Puts the records that EuroEval has appended to its results into the store, with what their data sets took."""

    def __init__(self, job: Job, store: Store, about: Mapping[str, Any]) -> None:
        """`about`: what every record says besides."""
        self.job, self.store, self.about = job, store, about
        self.spent: dict[str, dict[str, float]] = {}
        """Data set -> tokens, seconds and GPU-seconds, of each that was evaluated."""
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
    known |= {name: _config(data) for name, data in local.items()}
    asked = {name: known[name] for name in job.records if name in known}
    gpus = torch.cuda.device_count()
    keeper = Keeper(job, open_store(job.store), {"chat_template_sha256": template})
    failed: dict[str, str] = {}

    class Resumable(Benchmarker):
        def _benchmark_single(self, *args: Any, dataset_config: Any, **kwargs: Any) -> Any:
            keeper.keep()  # the one before: EuroEval appended its record after this method returned
            os.kill(job.owner, 0)  # raises once the stage was killed: its next run may do the same already
            began, before = time.monotonic(), dataclasses.replace(meter)
            outcome = super()._benchmark_single(*args, dataset_config=dataset_config, **kwargs)
            seconds = time.monotonic() - began
            keeper.spent[dataset_config.name] = {
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
        cache_dir=job.cache or str(Path("euroeval").resolve()),
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
            raise RuntimeError("EuroEval: found a model that it does not load; expected one; its messages are above")
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
      tokens.
    - transformers 5 returns a mapping where EuroEval 16 expects a list of token ids.
    - EuroEval 16 insists on a CUDA compiler, on machines without CUDA too.
    - EuroEval asks a host on the internet whether there is one; offline it should not wait for an answer.

    Returns: the engine's meter, and the generative type of the model, once it is loaded.
    """
    import torch
    from euroeval import benchmarker
    from euroeval.benchmark_modules import vllm
    from transformers import PreTrainedTokenizerBase

    meter, kinds = Meter(), set()

    class Engine(vllm.LLM):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**{**kwargs, **settings})

        def generate(self, *args: Any, **kwargs: Any) -> Any:
            outputs = super().generate(*args, **kwargs)
            meter.tokens_in += sum(len(request.prompt_token_ids or ()) for request in outputs)
            meter.tokens_out += sum(len(answer.token_ids) for request in outputs for answer in request.outputs)
            return outputs

    vllm.LLM = Engine
    load: Any = benchmarker.load_model

    def load_model(*args: Any, **kwargs: Any) -> Any:
        model = load(*args, **kwargs)
        kinds.add(model.generative_type)
        return model

    benchmarker.load_model = load_model
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


def _config(local: LocalDataset) -> Any:
    """A local data set as EuroEval's configuration, with metrics that need no download."""
    from euroeval import MULTIPLE_CHOICE, TEXT_CLASSIFICATION, DatasetConfig
    from euroeval.data_models import PromptConfig
    from euroeval.languages import get_all_languages
    from euroeval.metrics.base import Metric
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    class Local(Metric):
        """EuroEval's metric of the same name is scikit-learn's, behind code that is fetched from the hub."""

        def __init__(self, name: str, pretty_name: str, score: Any) -> None:
            super().__init__(name, pretty_name)
            self.score = score

        def __call__(self, predictions: Any, references: Any, **_: Any) -> float:
            return float(self.score(references, predictions))

    mcc = Local("mcc", "Matthew's Correlation Coefficient", matthews_corrcoef)
    accuracy = Local("accuracy", "Accuracy", accuracy_score)
    macro_f1 = Local("macro_f1", "Macro-average F1-score", functools.partial(f1_score, average="macro"))
    language = get_all_languages()[local.language]
    task, second = (TEXT_CLASSIFICATION, macro_f1) if local.task == "classification" else (MULTIPLE_CHOICE, accuracy)
    return DatasetConfig(
        name=local.name,
        pretty_name=local.name,
        source={split: str(path) for split, path in local.files.items()},
        task=dataclasses.replace(
            task,
            template_dict={language: PromptConfig("", "", local.prompt, dict(local.words))},
            metrics=[mcc, second],
            default_labels=list(local.labels),
            default_num_few_shot_examples=local.examples,
        ),
        languages=[language],
    )


def main() -> None:
    """Read the job in the working directory, do it, and write the notes."""
    job = Job(**json.loads(Path(JOB).read_text(encoding="utf-8")))
    Path(NOTES).write_text(json.dumps(dataclasses.asdict(run(job)), indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
