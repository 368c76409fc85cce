"""Evaluations of a model, as `benchmark`, `answer`, `arena` and `train` would have written them, made in no time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from croco import dataset, winrate
from croco.writer import Writer

CODES = ("da", "de")
TEMPLATE = "t" * 64
BASE = {"id": "base", "sha256": "b" * 64}


def weights(letter: str) -> dict[str, str]:
    """Identity of some tuned model."""
    return {"id": "merged", "sha256": letter * 64}


@dataclass
class Model:
    """What a model is like, and what it was evaluated with."""

    identity: Mapping[str, Any]
    name: str = "tuned"
    codes: Sequence[str] = CODES
    gain: Mapping[str, float] | float = 0.0
    """EuroEval points over the base, in a language or all."""
    template: str = TEMPLATE
    iterations: int = 10
    faithful: float = 1.0
    """Share of its answers in the language asked for."""
    questions: int = 120
    dtype: str = "bfloat16"
    """What EuroEval's engine ran in."""

    @property
    def ran(self) -> dict[str, Any]:
        """Metrics of `benchmark` that say how it went."""
        data = {"local_data_sha256": {}, "data_revisions": {"scala-da": "r" * 40}}
        return {**data, "ran_with": [{"dtype": self.dtype, "seed": 4242}], "generative_type": ["instruction_tuned"]}

    def benchmarks(self, out: Path) -> Path:
        """Two data sets a language, each with two metrics; the noise of an iteration is every model's own but small."""
        rng = np.random.default_rng(sum(map(ord, str(self.identity))))
        writer = Writer(out, "benchmarks", stage="benchmark", version=1, config={"iterations": self.iterations})
        rows = []
        for code in self.codes:
            gain = self.gain if isinstance(self.gain, float | int) else self.gain.get(code, 0.0)
            for benchmark in ("scala", "mmlu"):
                shared = np.random.default_rng(4242).normal(0, 3, self.iterations)
                for metric in ("mcc", "accuracy"):
                    scores = (50 + gain + shared + rng.normal(0, 0.3, self.iterations)).tolist()
                    about = {"benchmark": f"{benchmark}-{code}", "task": "t", "language": code, "split": "test"}
                    half = 1.96 * float(np.std(scores, ddof=1)) / self.iterations**0.5
                    numbers = {"score": float(np.mean(scores)), "half_width_95": half, "iterations": scores}
                    rows.append({**about, "metric": metric, **numbers})
        writer.add(rows)
        policy = {**self.identity, "chat_template_sha256": self.template}
        counts = [dataset.Count("benchmark scores", code, 4, 4) for code in self.codes]
        writer.finish(counts, models={"policy": policy}, metrics=self.ran)
        return out

    def answers(self, out: Path) -> Path:
        writer = Writer(out, "answers", stage="answer", version=1, config={}, models={"policy": self.identity})
        rows = []
        for code in self.codes:
            for number in range(self.questions):
                kept = number < self.faithful * self.questions
                rows.append(
                    {
                        "question_id": f"q{number}", "language": code, "prompt": f"{code} {number}",
                        "output": f"{self.name} says {number} in {code}", "finish_reason": "stop",
                        "identified": code if kept else "en", "generator": self.name, "category": "c",
                        "subcategory": "s",
                    }
                )  # fmt: skip
        writer.add(rows)
        policy = {**self.identity, "chat_template_sha256": self.template}
        counts = [dataset.Count("answers", code, self.questions, self.questions) for code in self.codes]
        about = {"sampling": {"temperature": 0}, "questions": {"id": "q", "sha256": "a" * 64}}
        writer.finish(counts, models={"policy": policy}, metrics=about)
        return out


def verdicts(
    out: Path,
    model: Model,
    answers: Path,
    base_answers: Path,
    *,
    wins: float = 0.8,
    longer: int = 0,
    unreadable: float = 0.0,
    judge: str = "j",
    base: Mapping[str, Any] = BASE,
) -> Path:
    """The model wins the share `wins` of its questions in both orders; its answers are `longer`, by so many characters,
    where it wins.
    """
    writer = Writer(out, "verdicts", stage="arena", version=1, config={}, inputs=[answers, base_answers])
    rows = []
    for code in model.codes:
        for number in range(model.questions):
            won = (number * 7919 % model.questions) < wins * model.questions
            for order in ("model_first", "reference_first"):
                read = number >= unreadable * model.questions or order == "model_first"
                rows.append(
                    {
                        "question_id": f"q{number}", "language": code, "order": order,
                        "verdict": ("model" if won else "reference") if read else None,
                        "model_chars": 100 + (longer if won else 0) + number % 5, "reference_chars": 100,
                        "category": "c", "subcategory": "s", "judge_text": "[[A]]",
                    }
                )  # fmt: skip
    writer.add(rows)
    counts = [dataset.Count("verdicts", code, 2 * model.questions, 2 * model.questions) for code in model.codes]
    writer.finish(
        counts,
        models={"model": model.identity, "reference": base, "judge": {"id": "judge", "sha256": judge * 64}},
        metrics={"model": "tuned", "reference": "base", "win_rates": winrate.win_rates(rows, 200, 0)},
    )
    return out


def training(out: Path, model: Model, base: Mapping[str, Any] = BASE) -> Path:
    writer = Writer(out, None, stage="train", version=1, config={}, models={"base": base})
    writer.finish([dataset.Count("pairs", None, 1, 1)], metrics={"merged_sha256": model.identity["sha256"]})
    return out


def evaluations(
    folder: Path, tuned: Model, base: Model | None = None, start: Mapping[str, Any] | None = None, **judged: Any
) -> dict[str, Path]:
    """The arguments of `promote.run` that are datasets; training started from the base, or from `start`."""
    base = base or Model(BASE, name="base")
    sides = {"base": base, "tuned": tuned}
    found = {f"benchmarks_{name}": side.benchmarks(folder / f"benchmarks-{name}") for name, side in sides.items()}
    found |= {f"answers_{name}": side.answers(folder / f"answers-{name}") for name, side in sides.items()}
    found["verdicts"] = verdicts(
        folder / "verdicts", tuned, found["answers_tuned"], found["answers_base"], base=base.identity, **judged
    )
    return found | {"training": training(folder / "training", tuned, start or base.identity)}
