"""Benchmark worker: runs EuroEval in a process of its own, for `croco.benchmark`.

EuroEval changes the process it is imported into (environment, warnings, logging) and needs a few of its and its
libraries' names replaced; here that ends with the process. It writes its records to the job's `results` and appends to
them after every data set, so that a run that was cut short goes on where it stopped.
"""

import dataclasses
import functools
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from croco import chat, engine
from croco.benchmark_datasets import LocalDataset, read_local


@dataclasses.dataclass(frozen=True)
class Job:
    """What the worker is asked to do."""

    model: str
    """Folder of the model, relative to the working directory; EuroEval records it as the model's name."""
    names: Sequence[str]
    """Data sets, of the folder or EuroEval's own."""
    datasets: str | None
    """Folder of local data sets."""
    offline: bool
    """Whether no other data sets are run, so that nothing has to be fetched."""
    iterations: int
    test_split: bool
    few_shot: bool
    cache: str
    """Folder for EuroEval's downloads."""
    results: str
    """File that EuroEval appends its records to."""
    notes: str
    """File for a `Notes`, written last."""


@dataclasses.dataclass(frozen=True)
class Notes:
    """What EuroEval's records do not say."""

    euroeval: str
    """EuroEval's version."""
    chat_template_sha256: str
    unknown: Sequence[str]
    """Data sets this EuroEval does not have."""
    failed: dict[str, str]
    """Data set -> why it could not be evaluated."""
    seconds: dict[str, float]
    """Data set -> seconds it took; only those evaluated now."""


def run(job: Job) -> Notes:
    """Evaluate the model on every data set of the job."""
    tokenizer = chat.load_tokenizer(job.model)
    local = {data.name: data for data in read_local(Path(job.datasets))} if job.datasets else {}
    settings = {**engine.settings(engine.context(job.model)), "dtype": engine.dtype()}
    import euroeval
    from euroeval import Benchmarker, DatasetConfig, dataset_configs

    _adapt(settings, offline=job.offline)
    known = {config.name: config for config in vars(dataset_configs).values() if isinstance(config, DatasetConfig)}
    if both := sorted(known.keys() & local.keys()):
        raise ValueError(f"{job.datasets}: found data sets named {both}, as EuroEval's own; expected other names")
    known |= {name: _config(data) for name, data in local.items()}
    failed: dict[str, str] = {}
    seconds: dict[str, float] = {}

    class Timed(Benchmarker):
        def _benchmark_single(self, *args: Any, dataset_config: Any, **kwargs: Any) -> Any:
            start = time.monotonic()
            outcome = super()._benchmark_single(*args, dataset_config=dataset_config, **kwargs)
            seconds[dataset_config.name] = round(time.monotonic() - start, 2)
            if isinstance(outcome, Exception):
                failed[dataset_config.name] = str(outcome)
            return outcome

    # A tuple: EuroEval 17 looks every member of a list up on the hub, its own data sets excepted.
    datasets = tuple(known[name] for name in job.names if name in known)
    benchmarker = Timed(
        dataset=datasets,
        cache_dir=job.cache,
        num_iterations=job.iterations,
        evaluate_test_split=job.test_split,
        few_shot=job.few_shot,
        trust_remote_code=False,
        custom_datasets_file="none",
    )
    benchmarker.results_path = Path(job.results)
    if datasets and not benchmarker.benchmark(job.model) and not failed:
        raise RuntimeError(f"EuroEval: found no result for {job.names}; expected some; its messages are above")
    return Notes(
        euroeval=euroeval.__version__,
        chat_template_sha256=chat.template_sha256(tokenizer),
        unknown=[name for name in job.names if name not in known],
        failed=failed,
        seconds=seconds,
    )


def _adapt(settings: dict[str, Any], *, offline: bool) -> None:
    """Replace, in this process, what keeps EuroEval from running our way.

    - The engine starts with the settings of every other stage: base and tuned in the same number format.
    - transformers 5 returns a mapping where EuroEval 16 expects a list of token ids.
    - EuroEval 16 insists on a CUDA compiler, on machines without CUDA too.
    - EuroEval asks a host on the internet whether there is one; offline it should not wait for an answer.
    """
    import torch
    from euroeval.benchmark_modules import vllm
    from transformers import PreTrainedTokenizerBase

    class Engine(vllm.LLM):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**{**kwargs, **settings})

    vllm.LLM = Engine
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


def main(path: Path) -> None:
    """Read a job, run it, write its notes."""
    job = Job(**json.loads(path.read_text(encoding="utf-8")))
    Path(job.notes).write_text(json.dumps(dataclasses.asdict(run(job)), indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
