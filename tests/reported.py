"""What a report is made of, as the stages would have written it, made in no time; some of it is hostile."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from croco import dataset, report
from croco.dataset import Manifest, Spent
from croco.writer import Writer
from tests.conftest import DatasetOf

HOSTILE = (
    "</style></pre><script>alert(1)</script> {{ 7 * 7 }} {% raw %} <img src=https://evil.example/x onerror=alert(1)> "
    "[a](javascript:alert(1)) | \u202edehcated\u202c \x00\x07\x1b[31m"
)


def answers(generator: str, identified: Mapping[str, str | None], output: str = "Hej.") -> list[dict[str, Any]]:
    """One answer to each question of `identified`, asked in Danish."""
    return [
        {
            "question_id": question, "language": "da", "prompt": "Hvad?", "output": output, "finish_reason": "stop",
            "identified": code, "generator": generator, "category": "c", "subcategory": "s",
        }
        for question, code in identified.items()
    ]  # fmt: skip


def score(metric: str, value: float, spread: float, language: str = "da") -> dict[str, Any]:
    """A score of three iterations, `spread` apart."""
    return {
        "benchmark": "scala", "task": "acceptability", "language": language, "metric": metric, "score": value,
        "half_width_95": 1.96 * spread / 3**0.5, "iterations": [value - spread, value, value + spread], "split": "test",
    }  # fmt: skip


def pair(number: int, best: tuple[str, float], worst: tuple[str, float], **texts: str) -> dict[str, Any]:
    return {
        "pair_id": f"p{number}", "prompt_id": f"p{number}", "prompt_language": best[0],
        "prompt": [{"role": "user", "content": texts.get("prompt", "Hvad?")}],
        "chosen": texts.get("chosen", "ja"), "rejected": texts.get("rejected", "nej"),
        "chosen_language": best[0], "rejected_language": worst[0],
        "chosen_reward": best[1], "rejected_reward": worst[1], "chosen_index": 0, "rejected_index": 1,
        "pool_size": 4, "reward_mean": 0.0, "reward_std": 1.0, "domain": None, "split": "train",
    }  # fmt: skip


def verdict(order: str, verdict: str | None, text: str = "A. [[A]]") -> dict[str, Any]:
    return {
        "question_id": "q0", "language": "da", "order": order, "verdict": verdict, "model_chars": 4,
        "reference_chars": 4, "category": "c", "subcategory": "s", "judge_text": text,
    }  # fmt: skip


def rate(language: str, value: float | None, interval: Sequence[float] | None, **more: Any) -> dict[str, Any]:
    return {"language": language, "questions": 100, "win_rate": value, "interval_95": interval, **more}


def trained(out: Path, lines: Sequence[str], inputs: Sequence[Path] = ()) -> Path:
    writer = Writer(out, None, stage="train", version=1, config={"method": "dpo"}, inputs=inputs)
    (out / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    writer.attach(out / "metrics.jsonl")
    writer.finish([dataset.Count("train pairs", "da", 10, 9, {"too_long": 1})])
    return out


def decided(out: Path, text: str, **decision: Any) -> Path:
    """A refusal for what `text` says."""
    checks = [
        {"name": "EuroEval", "language": "da", "verdict": "refuse", "text": text},
        {"name": "chat template", "language": None, "verdict": "pass", "text": "chat template: the same"},
    ]
    found = {"promote": False, "name": None, "last": None, "policy": {"min_questions": 100}, "reasons": [text]}
    writer = Writer(out, None, stage="promote", version=1, config={})
    (out / "decision.json").write_text(json.dumps(found | {"checks": checks} | decision), encoding="utf-8")
    writer.attach(out / "decision.json")
    writer.finish([dataset.Count("checks", None, 2, 1, {"refuse": 1})])
    return out


def scores(rewards: Mapping[tuple[str, str], Sequence[float]]) -> list[dict[str, Any]]:
    return [
        {"prompt_id": prompt, "language": language, "sample_index": index, "reward": reward}
        for (language, prompt), found in rewards.items()
        for index, reward in enumerate(found)
    ]


def everything(dataset_of: DatasetOf, tmp_path: Path) -> dict[str, Any]:
    """run's arguments for a small run of every stage, in which some texts are hostile."""
    prompt = {"prompt_id": "p0", "language": "da", "messages": [{"role": "user", "content": "Hvad?"}],
              "reference": None, "source_dataset": None, "domain": None, "split": "train"}  # fmt: skip
    sample = {"prompt_id": "p0", "language": "da", "sample_index": 0, "text": "ja", "token_ids": [1],
              "finish_reason": "stop", "seed": 1, "identified": "da"}  # fmt: skip
    pairs = dataset_of(
        "pairs", [pair(0, ("da", 2.0), ("da", -1.0), chosen=HOSTILE, rejected="x" * 1_000_000, prompt=HOSTILE)]
    )
    lines = ['{"step": 1, "loss": 0.7, "learning_rate": 1e-6}', '{"step": 2, "loss": 0.6, "eval_loss": 0.65}']
    verdicts = [verdict("model_first", "model", HOSTILE), verdict("reference_first", None, "")]
    return {
        "prompts": [dataset_of("prompts", [prompt], metrics={"language_fidelity": {"da": 1.0}})],
        "samples": [dataset_of("samples", [sample])],
        "scores": [dataset_of("scores", scores({("da", "p0"): [2.0, -1.0]}))],
        "pairs": pairs,
        "training": trained(tmp_path / "training", lines, [pairs]),
        "benchmarks_base": dataset_of("benchmarks", [score("mcc", 50.0, 1.0)], "b0"),
        "benchmarks_tuned": dataset_of("benchmarks", [score("mcc", 53.0, 1.2)], "b1"),
        "answers_base": dataset_of("answers", answers("base", {"q0": "da"}, HOSTILE), "a0"),
        "answers_tuned": dataset_of("answers", answers("tuned", {"q0": "en"}, HOSTILE), "a1"),
        "verdicts": dataset_of(
            "verdicts",
            verdicts,
            metrics={"model": HOSTILE, "reference": "base", "win_rates": [rate("da", 0.6, [0.51, 0.69])]},
            models={"judge": {"id": HOSTILE}},
        ),
        "decision": decided(tmp_path / "decision", HOSTILE),
    }


def numbers_of(out: Path, **inputs: Any) -> Any:
    report.run(out=out, **inputs)
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def dealt(dataset_of: DatasetOf, rows: Sequence[dict[str, Any]], contract: str, tasks: int) -> list[Path]:
    """`rows` as `tasks` tasks would leave them that each took some of every language's prompts."""
    share = [[row for row in rows if int(row["prompt_id"][1:]) % tasks == task] for task in range(tasks)]
    return [dataset_of(contract, share[task], f"{contract}-{task}-of-{tasks}") for task in reversed(range(tasks))]


def wrote(stage: str, *spent: Spent, **fields: Any) -> Manifest:
    """What a stage wrote, a stage of the samples of a policy unless `fields` says otherwise."""
    about: dict[str, Any] = {"contract": "samples", "models": {"policy": {"id": "m"}}, "counts": [], "metrics": {}}
    about |= {"files": [], "config": {}, "inputs": [], "warnings": [], "libraries": {}} | fields
    return Manifest(stage=stage, stage_version=1, ledger=spent, **about)
