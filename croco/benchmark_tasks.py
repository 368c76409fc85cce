"""Benchmark tasks: a local data set -> EuroEval's configuration of it, with metrics that need no download."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from croco.benchmark_datasets import READING, LocalDataset, as_on_the_hub


def best(
    score: Callable[[str, str], float],
    references: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
) -> float:
    """The mean over questions of the score of the answer that fits best, as in SQuAD.

    A question that an iteration drew twice counts twice, as in every other task; SQuAD's script counts it once.
    """
    return fmean(
        max(score(answer, prediction["prediction_text"]) for answer in reference["answers"]["text"])
        for reference, prediction in zip(references, predictions, strict=True)
    )


def tasks() -> dict[str, tuple[Any, list[Any]]]:
    """Task of a local data set -> EuroEval's, and the metrics that take the place of its own."""
    from euroeval import MULTIPLE_CHOICE, TEXT_CLASSIFICATION
    from euroeval.metrics.base import Metric
    from euroeval.tasks import RC
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
    from transformers.data.metrics.squad_metrics import compute_exact, compute_f1

    class Local(Metric):
        """From 0 to 1 (or -1 to 1). EuroEval's metric of the same name is the same, behind code from the hub."""

        def __init__(self, name: str, pretty_name: str, score: Callable[[Any, Any], float]) -> None:
            super().__init__(name, pretty_name)
            self.score = score

        def __call__(self, predictions: Any, references: Any, **_: Any) -> float:
            return float(self.score(references, predictions))

    mcc = Local("mcc", "Matthew's Correlation Coefficient", matthews_corrcoef)
    accuracy = Local("accuracy", "Accuracy", accuracy_score)
    macro_f1 = Local("macro_f1", "Macro-average F1-score", functools.partial(f1_score, average="macro"))
    f1 = Local("f1", "F1-score", functools.partial(best, compute_f1))
    exact = Local("em", "Exact Match", functools.partial(best, compute_exact))
    return {
        "classification": (TEXT_CLASSIFICATION, [mcc, macro_f1]),
        "multiple-choice": (MULTIPLE_CHOICE, [mcc, accuracy]),
        READING: (RC, [f1, exact]),
    }


def config(local: LocalDataset) -> Any:
    """A local data set as EuroEval's configuration, in the working directory where it needs another form."""
    from euroeval import DatasetConfig
    from euroeval.data_models import PromptConfig
    from euroeval.languages import get_all_languages

    language = get_all_languages()[local.language]
    task, metrics = tasks()[local.task]
    task = dataclasses.replace(
        task,
        template_dict={language: PromptConfig("", "", local.prompt, dict(local.words))},
        metrics=metrics,
        default_num_few_shot_examples=local.examples,
    )
    source: Any = {split: str(path) for split, path in local.files.items()}
    if local.task == READING:
        source = str(as_on_the_hub(local, Path("data", local.name).resolve()))
    else:
        task = dataclasses.replace(task, default_labels=list(local.labels))
    return DatasetConfig(name=local.name, pretty_name=local.name, source=source, task=task, languages=[language])
