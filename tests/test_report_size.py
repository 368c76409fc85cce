"""The report of a run of the paper's size: small enough for mail, and for Kubeflow's UI to show the Markdown whole."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from croco import dataset, promote, report, winrate
from croco.suites import PAPER
from croco.writer import Writer
from tests import reported
from tests.evaluations import BASE, TEMPLATE, weights

CODES = tuple(PAPER)
QUESTIONS, PROMPTS, CANDIDATES, TASKS = 498, 400, 4, 4
"""Questions a language are m-ArenaHard's; more prompts or candidates would be other numbers on no larger a page."""
SECONDS = 34_567.8
"""What a language took of every stage."""
CUT = 400_000
"""Characters of Markdown beyond which Kubeflow's UI cuts it. Source: its MarkdownViewer.tsx."""
KINDS = ("coding", "math", "writing", "roleplay", "translation", "reasoning", "extraction", "other")
TUNED = weights("c")
TEXT = 'Et svar på dansk, der fortæller en hel del og "citerer" <b>noget</b> & mere undervejs. '


def wrote(
    out: Path, contract: str, rows: Sequence[dict[str, Any]], stage: str, inputs: Sequence[Path] = (), **found: Any
) -> Path:
    """A stage's dataset with a ledger by language, as a long run leaves it."""
    config = {f"setting_{number}": f"value of {number}" for number in range(20)}
    writer = Writer(out, contract, stage=stage, version=1, config=config, inputs=inputs)
    writer.add(rows)
    language = "prompt_language" if contract == "pairs" else "language"
    counts = []
    for code in CODES:
        kept = sum(row[language] == code for row in rows)
        counts.append(dataset.Count(contract, code, kept + 37, kept, {"too_long": 30, "empty": 7}))
        writer.spent(code).add(tokens_in=123_456_789, tokens_out=98_765_432, seconds=SECONDS, gpu_seconds=SECONDS)
        writer.spent(code).add(run_seconds=SECONDS, bytes_read=4**15, bytes_written=4**14, shards_computed=144)
    writer.began -= SECONDS * len(CODES)  # as if it had
    writer.finish(counts, **found)
    return out


def benchmarks(out: Path, identity: dict[str, str], seed: int) -> Path:
    """Every data set of the paper, with two metrics each."""
    rng = np.random.default_rng(seed)
    rows = []
    for code, names in PAPER.items():
        for name in names:
            for metric in ("mcc", "macro_f1"):
                scores = (50 + 5 * seed + rng.normal(0, 3, 10)).tolist()
                half = 1.96 * float(np.std(scores, ddof=1)) / 10**0.5
                row = reported.score(metric, float(np.mean(scores)), 1.0, code)
                rows.append(row | {"benchmark": name, "iterations": scores, "half_width_95": half})
    data = {"local_data_sha256": {}, "data_revisions": {name: "r" * 40 for names in PAPER.values() for name in names}}
    metrics = {**data, "ran_with": [{"dtype": "bfloat16"}], "generative_type": ["instruction_tuned"]}
    policy = {"policy": {**identity, "chat_template_sha256": TEMPLATE}}
    return wrote(out, "benchmarks", rows, "benchmark", models=policy, metrics=metrics)


def answers(out: Path, identity: dict[str, str], name: str) -> Path:
    """Long answers to every question in every language, nearly all of them in it."""
    about = {"finish_reason": "stop", "generator": name, "category": "hard_prompt"}
    rows = [
        {**about, "question_id": f"{number:032x}", "language": code, "prompt": TEXT * 30, "output": name + TEXT * 50,
         "identified": code if number % 50 else "en", "subcategory": KINDS[number % len(KINDS)]}
        for code in CODES
        for number in range(QUESTIONS)
    ]  # fmt: skip
    policy = {"policy": {**identity, "chat_template_sha256": TEMPLATE}}
    metrics = {"sampling": {"temperature": 0}, "questions": {"id": "q", "sha256": "a" * 64}}
    return wrote(out, "answers", rows, "answer", models=policy, metrics=metrics)


def verdicts(out: Path, tuned: Path, base: Path) -> Path:
    """A judge that explains itself at length."""
    about = {"reference_chars": 4000, "category": "hard_prompt", "judge_text": TEXT * 40 + "[[A]]"}
    rows = [
        {**about, "question_id": f"{number:032x}", "language": code, "order": order, "model_chars": 4000 + number % 90,
         "verdict": "model" if number % 5 < 3 else "reference", "subcategory": KINDS[number % len(KINDS)]}
        for code in CODES
        for number in range(QUESTIONS)
        for order in ("model_first", "reference_first")
    ]  # fmt: skip
    models = {"model": TUNED, "reference": BASE, "judge": {"id": "judge", "sha256": "j" * 64}}
    rates = {"win_rates": winrate.win_rates(rows, 100, 0), "subcategories": winrate.by_subcategory(rows, 100, 0)}
    metrics = {"model": "tuned", "reference": "base"} | rates
    return wrote(out, "verdicts", rows, "arena", inputs=[tuned, base], models=models, metrics=metrics)


def drawn(folder: Path) -> dict[str, Any]:
    """Prompts, candidates dealt to several tasks, their rewards, and the pairs made of them."""
    prompts = [
        {"prompt_id": f"p{number}", "language": code, "messages": [{"role": "user", "content": TEXT * 30}],
         "reference": None, "source_dataset": None, "domain": None, "split": "train"}
        for code in CODES
        for number in range(PROMPTS)
    ]  # fmt: skip
    keys = [
        {"prompt_id": row["prompt_id"], "language": row["language"], "sample_index": index}
        for row in prompts
        for index in range(CANDIDATES)
    ]
    answer = {"text": TEXT, "token_ids": [1, 2, 3], "finish_reason": "stop", "seed": 1}
    rewards = np.random.default_rng(0).normal(0, 10, len(keys)).tolist()
    samples = [key | answer | {"identified": key["language"]} for key in keys]
    scores = [key | {"reward": reward} for key, reward in zip(keys, rewards, strict=True)]
    pairs = [
        reported.pair(0, (code, 9.0 + number % 7), (CODES[number % len(CODES)], -1.0 - number % 5),
                      chosen=TEXT * 50, rejected=TEXT * 50, prompt=TEXT * 30) | {"pair_id": f"{code} {number}"}
        for code in CODES
        for number in range(PROMPTS)
    ]  # fmt: skip
    dealt = [range(task, len(keys), TASKS) for task in range(TASKS)]
    policy = {"models": {"policy": BASE}}
    fidelity = {"language_fidelity": dict.fromkeys(CODES, 1.0)}
    parts = [
        wrote(folder / f"samples-{task}", "samples", [samples[at] for at in mine], "sample", **policy)
        for task, mine in enumerate(dealt)
    ]
    return {
        "prompts": [wrote(folder / "prompts", "prompts", prompts, "translate", metrics=fidelity)],
        "samples": parts,
        "scores": [
            wrote(folder / f"scores-{task}", "scores", [scores[at] for at in mine], "score", inputs=[parts[task]])
            for task, mine in enumerate(dealt)
        ],
        "pairs": wrote(folder / "pairs", "pairs", pairs, "pair"),
    }


def trained(out: Path, pairs: Path) -> Path:
    """A run of 3000 steps, of which each tenth was logged."""
    names = ("loss", "learning_rate", "grad_norm", "rewards/margins", "rewards/accuracies", "rewards/chosen")
    lines = [json.dumps({"step": step} | dict.fromkeys(names, 0.123456789 + 1 / step)) for step in range(10, 3001, 10)]
    return reported.trained(out, lines, [pairs])


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of every stage, each of which worked in all of the paper's languages."""
    folder = tmp_path_factory.mktemp("size")
    sides = {"base": BASE, "tuned": TUNED}
    given: dict[str, Any] = {
        f"benchmarks_{name}": benchmarks(folder / f"benchmarks-{name}", sides[name], seed)
        for seed, name in enumerate(sides)
    }
    given |= {f"answers_{name}": answers(folder / f"answers-{name}", sides[name], name) for name in sides}
    given["verdicts"] = verdicts(folder / "verdicts", given["answers_tuned"], given["answers_base"])
    promote.run(**given, out=folder / "decision")
    given |= drawn(folder) | {"decision": folder / "decision"}
    report.run(**given, training=trained(folder / "training", given["pairs"]), out=folder / "report")
    return folder / "report"


def test_the_page_can_be_mailed(pages: Path) -> None:
    assert 500_000 < (pages / "report.html").stat().st_size < report.LARGE


def test_kubeflows_ui_shows_the_markdown_whole(pages: Path) -> None:
    text = (pages / "report.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in text for names in PAPER.values() for name in names)
    assert len(text) < CUT
