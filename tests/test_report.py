"""Report: the numbers are the data's, the words no stronger than the intervals, and hostile text is only text."""

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from croco import dataset, report
from croco.dataset import Count, Manifest, Spent
from croco.page import distributions, excerpts, findings, ledger, plots, wording
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


def score(metric: str, value: float, half_width: float, language: str = "da") -> dict[str, Any]:
    return {
        "benchmark": "scala", "task": "acceptability", "language": language, "metric": metric, "score": value,
        "half_width_95": half_width, "iterations": [value] * 3, "split": "test",
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


def scores(rewards: Mapping[tuple[str, str], Sequence[float]]) -> list[dict[str, Any]]:
    return [
        {"prompt_id": prompt, "language": language, "sample_index": index, "reward": reward}
        for (language, prompt), found in rewards.items()
        for index, reward in enumerate(found)
    ]


@pytest.fixture
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
        "benchmarks_base": dataset_of("benchmarks", [score("mcc", 50.0, 2.0)], "b0"),
        "benchmarks_tuned": dataset_of("benchmarks", [score("mcc", 53.0, 0.9)], "b1"),
        "answers_base": dataset_of("answers", answers("base", {"q0": "da"}, HOSTILE), "a0"),
        "answers_tuned": dataset_of("answers", answers("tuned", {"q0": "en"}, HOSTILE), "a1"),
        "verdicts": dataset_of(
            "verdicts",
            verdicts,
            metrics={"model": HOSTILE, "reference": "base", "win_rates": [rate("da", 0.6, [0.51, 0.69])]},
            models={"judge": {"id": HOSTILE}},
        ),
    }


def test_the_numbers_of_a_run_are_those_of_its_data(everything: dict[str, Any], tmp_path: Path) -> None:
    manifest = report.run(out=tmp_path / "out", **everything)
    assert [file["path"] for file in manifest.files] == ["report.html", "report.md", "report.json"]
    numbers = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert numbers["benchmarks"][0]["verdict"] == "higher"
    assert numbers["benchmarks"][0]["change"] == pytest.approx(3.0)
    assert numbers["rewards"]["languages"][0]["value"] == pytest.approx(0.5)
    assert numbers["pairs"]["margins"][0]["value"] == pytest.approx(3.0)
    assert [row["value"] for row in (numbers["translations"][0], numbers["samples"][0])] == [1.0, 1.0]
    assert numbers["training"]["curves"][1]["train"] == [[1, 0.7], [2, 0.6]]
    assert numbers["training"]["curves"][1]["eval"] == [[2, 0.65]]
    flow = {row["stage"]: row for row in numbers["flow"] if row["input"] == "training"}
    assert flow["train"]["dropped"] == {"too_long": 1}
    assert manifest.metrics["win_rate"] == {"da": 0.6}
    assert numbers["warnings"] == []


def test_hostile_text_is_only_text(everything: dict[str, Any], tmp_path: Path) -> None:
    report.run(out=tmp_path / "out", **everything, config=report.ReportConfig(title=HOSTILE))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert len(page) < 1_000_000
    assert "<script" not in page and "<img" not in page
    assert page.count("</style>") == 1
    assert "{{ 7 * 7 }} {% raw %}" in page  # as the model wrote it, not run as a template
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "⟨U+202E⟩dehcated⟨U+202C⟩ ⟨U+0000⟩⟨U+0007⟩⟨U+001B⟩[31m" in page
    assert "1,500 of 1,000,000 characters shown" in page
    summary = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "<script" not in summary and not re.search(r"(?<!\\)\]\(", summary)
    assert not {"\u202e", "\x00", "\x1b"} & {*page, *summary}


def test_the_page_loads_nothing_from_anywhere(everything: dict[str, Any], tmp_path: Path) -> None:
    report.run(out=tmp_path / "out", **everything)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    loaded = re.findall(r"""<[^>]*\s(?:src|href|srcset|action|data|xlink:href)\s*=\s*["']?([^"'\s>]*)""", page)
    assert [address for address in loaded if not address.startswith(("#", "data:,"))] == []
    assert "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page


def test_links_within_the_page_lead_somewhere(everything: dict[str, Any], tmp_path: Path) -> None:
    report.run(out=tmp_path / "out", **everything)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    ids = re.findall(r'\sid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(ids)


def test_the_same_inputs_give_the_same_bytes(everything: dict[str, Any], tmp_path: Path) -> None:
    digests = {report.run(out=tmp_path / name, **everything).digest for name in ("one", "two")}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("given", "absent"),
    [
        (["pairs"], "EuroEval, Win rates, Language fidelity of answers, Language fidelity of translations, "
                    "Language fidelity of samples, Rewards, Training."),
        (["training"], "EuroEval, Win rates, Language fidelity of answers, Language fidelity of translations, "
                       "Language fidelity of samples, Rewards, Pairs."),
        (["answers_tuned", "benchmarks_base", "verdicts"], "Language fidelity of translations, "
                                                           "Language fidelity of samples, Rewards, Pairs, Training."),
    ],
)  # fmt: skip
def test_what_was_not_given_is_said_to_be_missing(
    everything: dict[str, Any], tmp_path: Path, given: list[str], absent: str
) -> None:
    report.run(out=tmp_path / "out", **{name: everything[name] for name in given})
    numbers = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert numbers["summary"][-1] == {
        "section": "missing", "heading": "Not part of this run", "verdict": "missing", "text": absent,
    }  # fmt: skip
    assert "Not part of this run" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found no input"):
        report.run(out=tmp_path / "out")


def test_scores_of_one_model_are_shown_and_not_compared(everything: dict[str, Any], tmp_path: Path) -> None:
    report.run(out=tmp_path / "out", benchmarks_base=everything["benchmarks_base"])
    numbers = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert numbers["benchmarks"][0]["verdict"] is None
    assert numbers["summary"][0]["text"] == "1 scores of one model; nothing to compare them with."


def test_a_page_too_large_to_mail_is_written_with_a_warning(dataset_of: DatasetOf, tmp_path: Path) -> None:
    pairs = [pair(number, ("da", 1.0), ("da", 0.0), chosen="<" * 100_000) for number in range(20)]
    config = report.ReportConfig(samples_per_language=20, max_characters=100_000)
    with pytest.warns(UserWarning, match=r"report.html has 8\.\d MB; lower --samples-per-language"):
        report.run(out=tmp_path / "out", pairs=dataset_of("pairs", pairs), config=config)
    assert (tmp_path / "out" / "report.html").is_file()


def test_language_fidelity_is_counted_over_the_questions_both_answered(dataset_of: DatasetOf) -> None:
    base = dataset_of("answers", answers("base", {"q0": "da", "q1": "da", "q2": "da", "q3": "da", "q4": "da"}), "a0")
    tuned = dataset_of("answers", answers("tuned", {"q0": "da", "q1": "en", "q2": None, "q3": "da", "q9": "da"}), "a1")
    found = distributions.answered(base, tuned)
    (row,) = found["languages"]
    assert (row["base"]["value"], row["tuned"]["value"], row["change"]["value"]) == (1.0, 0.5, -0.5)
    assert row["change"]["n"] == 4
    assert found["left_out"] == {"base": 1, "tuned": 1}
    assert row["verdict"] == "no evidence"  # 2 of 4 may be chance


def test_a_region_asks_for_its_language(dataset_of: DatasetOf) -> None:
    rows = [row | {"language": "pt-PT"} for row in answers("base", {"q0": "pt", "q1": "es"})]
    (row,) = distributions.answered(dataset_of("answers", rows), None)["languages"]
    assert row["base"]["value"] == 0.5


def test_rewards_are_counted_per_language_and_over_all(dataset_of: DatasetOf) -> None:
    rewards = {("da", "p0"): [0.0, 2.0], ("da", "p1"): [4.0], ("en", "p0"): [10.0, 10.0]}
    found, pairs = distributions.rewards([dataset_of("scores", scores(rewards))], None, 5)
    assert pairs is None and found is not None
    assert found["edges"] == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    danish, english, everything = found["languages"]
    assert (danish["value"], danish["n"], danish["clusters"], danish["histogram"]) == (2.0, 3, 2, [1, 1, 1, 0, 0])
    assert (english["value"], english["low"], english["histogram"]) == (10.0, None, [0, 0, 0, 0, 2])
    assert (everything["language"], everything["n"], everything["clusters"]) == ("all", 5, 2)
    assert everything["value"] == pytest.approx(26 / 5)


def test_the_language_mix_counts_chosen_and_rejected(dataset_of: DatasetOf) -> None:
    rows = [pair(0, ("en", 3.0), ("da", 1.0)), pair(1, ("en", 2.0), ("en", 1.0)), pair(2, ("da", 9.0), ("da", 1.0))]
    _, found = distributions.rewards([], dataset_of("pairs", rows), 5)
    assert found is not None
    assert {row["language"]: (row["chosen"]["value"], row["rejected"]["value"]) for row in found["mix"]} == {
        "da": (pytest.approx(1 / 3), pytest.approx(2 / 3)),
        "en": (pytest.approx(2 / 3), pytest.approx(1 / 3)),
    }
    assert found["across_languages"]["value"] == pytest.approx(1 / 3)
    assert {row["language"]: row["value"] for row in found["margins"]} == {"da": 8.0, "en": 1.5, "all": 11 / 3}
    assert [sum(row["chosen"]) for row in found["picked"]] == [1, 2]


def test_a_reward_that_is_no_number_is_refused(dataset_of: DatasetOf) -> None:
    bad = dataset_of("scores", scores({("da", "p0"): [1.0, float("nan")]}))
    with pytest.raises(ValueError, match="found a value that is not finite"):
        distributions.rewards([bad], None, 5)


def test_a_broken_line_of_the_training_log_is_named(tmp_path: Path) -> None:
    directory = trained(tmp_path / "training", ['{"step": 1, "loss": 0.7}', '{"loss": 0.6}'])
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: found .*expected a JSON object with a step"):
        findings.training(directory)


def test_a_training_log_that_was_changed_is_refused(tmp_path: Path) -> None:
    directory = trained(tmp_path / "training", ['{"step": 1, "loss": 0.7}'])
    (directory / "metrics.jsonl").write_text('{"step": 1, "loss": 0.1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="not the one its manifest lists"):
        findings.training(directory)


def test_a_loss_that_is_no_number_is_null_and_not_drawn(tmp_path: Path) -> None:
    directory = trained(tmp_path / "t", ['{"step": 1, "loss": NaN}', '{"step": 2, "loss": 0.5}'])
    report.run(out=tmp_path / "out", training=directory)
    numbers = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert numbers["training"]["curves"][0]["train"] == [[1, None], [2, 0.5]]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)


def test_the_markdown_has_the_language_mix_and_the_spread_of_rewards(dataset_of: DatasetOf, tmp_path: Path) -> None:
    rows = [pair(0, ("en", 3.0), ("da", 1.0)), pair(1, ("en", 2.0), ("en", 1.0)), pair(2, ("da", 9.0), ("da", 1.0))]
    rewards = dataset_of("scores", scores({("da", "p0"): [0.0, 2.0, 4.0, 6.0, 8.0]}))
    report.run(out=tmp_path / "out", pairs=dataset_of("pairs", rows), scores=[rewards])
    lines = (tmp_path / "out" / "report.md").read_text(encoding="utf-8").splitlines()
    mix = lines[lines.index("## Languages of chosen and rejected") :][2:8]
    assert mix[0] == "Share of 3 pairs; chosen and rejected are in different languages in 33.3 % of them."
    shares = [[cells[at].strip() for at in (1, 2, 4)] for cells in (line.split("|") for line in mix[4:])]
    assert shares == [["Danish", "33.3 %", "66.7 %"], ["English", "66.7 %", "33.3 %"]]
    (danish,) = (line for line in lines if line.startswith("| Danish | 5 |"))
    assert danish.endswith("| 0.00 | 2.00 | 4.00 | 6.00 | 8.00 |")


def test_the_markdown_shows_the_course_of_training_in_a_few_steps(tmp_path: Path) -> None:
    lines = [
        f'{{"step": {step}, "loss": {1 / step}, "rewards/margins": {step / 10}, "rewards/accuracies": 0.5}}'
        for step in range(1, 10)
    ]
    report.run(out=tmp_path / "out", training=trained(tmp_path / "t", [*lines, '{"step": 9, "eval_loss": 0.25}']))
    page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8").splitlines()
    start = page.index("| rows | step | loss | margin | accuracy |")
    assert page[start + 2 : start + 9] == [
        "| training | 1 | 1.0000 | 0.1000 | 0.5000 |",
        "| training | 3 | 0.3333 | 0.3000 | 0.5000 |",
        "| training | 5 | 0.2000 | 0.5000 | 0.5000 |",
        "| training | 7 | 0.1429 | 0.7000 | 0.5000 |",
        "| training | 9 | 0.1111 | 0.9000 | 0.5000 |",
        "| held out | 9 | 0.2500 | – | – |",
        "",
    ]


def test_a_short_training_shows_each_step_once(tmp_path: Path) -> None:
    directory = trained(tmp_path / "t", ['{"step": 1, "loss": 0.7}', '{"step": 2, "loss": NaN}'])
    nothing = {"margin": None, "accuracy": None}
    assert report.milestones(findings.collect(findings.Inputs(training=directory), bins=5)["training"]) == [
        {"rows": "training", "step": 1, "loss": 0.7, **nothing},
        {"rows": "training", "step": 2, "loss": None, **nothing},
    ]


def test_a_stage_that_read_other_pairs_is_warned_of(
    dataset_of: DatasetOf, everything: dict[str, Any], tmp_path: Path
) -> None:
    everything["pairs"] = dataset_of("pairs", [pair(9, ("da", 1.0), ("da", 0.0))], "others")
    report.run(out=tmp_path / "out", **everything)
    (warning,) = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["warnings"]
    assert warning["input"] == "training"
    assert re.fullmatch(r"made from pairs [0-9a-f]{12}, not from those reported here", warning["text"])


def win_rates(dataset_of: DatasetOf, *rates: Mapping[str, Any]) -> dict[str, Any]:
    return findings.win_rates(
        dataset_of("verdicts", [verdict("model_first", "tie")], metrics={"win_rates": list(rates)})
    )


def test_a_win_rate_is_above_parity_only_with_its_whole_interval(dataset_of: DatasetOf) -> None:
    found = win_rates(
        dataset_of,
        rate("all", 0.55, [0.52, 0.58], length_controlled=0.51, lc_interval_95=[0.48, 0.54]),
        rate("da", 0.6, [0.5, 0.7]),
        rate("de", 0.4, [0.3, 0.49]),
        rate("fr", float("nan"), None),
    )
    assert [row["verdict"] for row in found["languages"]] == ["no evidence", "lower", "unknown", "higher"]
    said = wording.summarize({**dict.fromkeys(wording.SECTIONS), "win_rates": found})[0]
    assert said["verdict"] == "mixed"
    assert said["text"].replace("\u00a0", " ") == (
        "model against reference, all languages: 55.0 % (95 % interval 52.0 to 58.0 %, n = 100 questions): above "
        "parity. With answer length accounted for: 51.0 % (95 % interval 48.0 to 54.0 %): no evidence either way. "
        "By language: below parity in de; no evidence either way in da; no interval in fr."
    )


def test_a_win_rate_in_percent_is_refused(dataset_of: DatasetOf) -> None:
    with pytest.raises(ValueError, match="expected shares between 0 and 1"):
        win_rates(dataset_of, rate("da", 55.0, [52.0, 58.0]))


def test_the_summary_counts_changes_beyond_the_intervals(dataset_of: DatasetOf) -> None:
    base = [score("mcc", 50.0, 2.0), score("f1", 50.0, 2.0), score("em", 50.0, 2.0), score("mcc", 50.0, 1.0, "fr")]
    tuned = [score("mcc", 53.0, 0.9), score("f1", 53.0, 1.1), score("em", 60.0, float("nan")),
             score("mcc", 45.0, 1.0, "fr")]  # fmt: skip
    found = findings.benchmarks(dataset_of("benchmarks", base, "b0"), dataset_of("benchmarks", tuned, "b1"))
    (said, _) = wording.summarize({**dict.fromkeys(wording.SECTIONS), "benchmarks": found})
    assert said["verdict"] == "mixed"
    assert said["text"].replace("\u00a0", " ") == (
        "Of 4 scores, 1 higher and 1 lower after tuning, beyond their 95 % intervals; no evidence of a change in 1; "
        "no interval for 1. Higher: 1 in da. Lower: 1 in fr."
    )


# Stages whose rows are spread over several directories


def numbers_of(out: Path, **inputs: Any) -> Any:
    report.run(out=out, **inputs)
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def dealt(dataset_of: DatasetOf, rows: Sequence[dict[str, Any]], contract: str, tasks: int) -> list[Path]:
    """`rows` as `tasks` tasks would leave them that each took some of every language's prompts."""
    share = [[row for row in rows if int(row["prompt_id"][1:]) % tasks == task] for task in range(tasks)]
    return [dataset_of(contract, share[task], f"{contract}-{task}-of-{tasks}") for task in reversed(range(tasks))]


def test_the_numbers_do_not_depend_on_how_many_tasks_shared_a_stage(dataset_of: DatasetOf, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    keys = [(code, f"p{number}") for code in ("da", "en") for number in range(20)]
    scored = scores({key: generator.normal(size=8).astype(np.float32).tolist() for key in keys})
    sampled = [
        {name: row[name] for name in ("prompt_id", "language", "sample_index")}
        | {"text": "ja", "token_ids": [1], "finish_reason": "stop", "seed": 1}
        | {"identified": "da" if row["reward"] > 0 else "en"}
        for row in scored
    ]
    one, three = (
        numbers_of(
            tmp_path / f"out-{tasks}",
            samples=dealt(dataset_of, sampled, "samples", tasks),
            scores=dealt(dataset_of, scored, "scores", tasks),
        )
        for tasks in (1, 3)
    )
    assert [len(entry.pop("parts")) for found in (one, three) for entry in found["provenance"]] == [1, 1, 3, 3]
    assert one.pop("ledger") != three.pop("ledger")
    assert one == three


def test_the_flow_has_a_row_for_each_language_of_a_stage(tmp_path: Path) -> None:
    tasks = [
        ("samples", wrote("sample", counts=[Count("samples", "da", 8, 7, {"empty": 1}), Count("samples", "en", 4, 4)])),
        ("samples", wrote("sample", counts=[Count("samples", "da", 4, 2, {"empty": 1, "no_end": 1})])),
    ]
    assert findings.flow(tasks) == [
        {"input": "samples", "stage": "sample", "unit": "samples", "language": code, "rows_in": taken, "rows_out": kept,
         "dropped": dropped}
        for code, taken, kept, dropped in [("da", 12, 9, {"empty": 2, "no_end": 1}), ("en", 4, 4, {})]
    ]  # fmt: skip


def test_fidelity_of_translations_counts_every_prompt_once(dataset_of: DatasetOf) -> None:
    counts = [Count("prompts", "da", 10, 10), Count("prompts", "de", 4, 4), Count("references", "da", 10, 2, {"x": 8})]
    first = wrote("translate", counts=counts, metrics={"language_fidelity": {"da": 0.8, "de": 1.0}})
    second = wrote(
        "translate",
        counts=[Count("prompts", "da", 40, 40)],
        metrics={"language_fidelity": {"da": 0.5}, "with_prose": {"da": 30}},  # 10 prompts are code alone
    )
    danish, german = distributions.translated([first, second])
    assert (danish["language"], danish["value"], danish["n"]) == ("da", (8 + 15) / 40, 40)
    assert (german["language"], german["value"], german["n"]) == ("de", 1.0, 4)
    assert danish["low"] < 23 / 40 < danish["high"]


def test_a_fidelity_that_is_not_one_of_whole_prompts_is_refused() -> None:
    edited = wrote("translate", counts=[Count("prompts", "da", 10, 10)], metrics={"language_fidelity": {"da": 0.55}})
    with pytest.raises(ValueError, match=r"translate: found 0\.55 of 10 prompts identified as da; expected a whole"):
        distributions.translated([edited])


def test_what_several_tasks_warn_of_is_said_once() -> None:
    tasks = [("samples", wrote("sample", warnings=said)) for said in (["slow", "hot"], ["slow"])]
    assert findings.warnings(tasks) == [{"input": "samples", "text": text} for text in ("slow", "hot")]


# What it took


def wrote(stage: str, *spent: Spent, **fields: Any) -> Manifest:
    """What a stage wrote, a stage of the samples of a policy unless `fields` says otherwise."""
    about: dict[str, Any] = {"contract": "samples", "models": {"policy": {"id": "m"}}, "counts": [], "metrics": {}}
    about |= {"files": [], "config": {}, "inputs": [], "warnings": [], "libraries": {}} | fields
    return Manifest(stage=stage, stage_version=1, ledger=spent, **about)


START = Spent(None, seconds=10, gpu_seconds=20, run_seconds=10, bytes_read=100)
DANISH = Spent("da", 5, 50, 60, 120, 60, bytes_written=1000, shards_computed=2)
FOUND = Spent("da", 7, 70, 40, 80, 0, bytes_read=2000, shards_reused=3)
GERMAN = Spent("de", 1, 10, 30, 60, 30, shards_computed=1)


def test_the_ledger_sums_a_stage_over_its_tasks_by_language() -> None:
    found = ledger.collect([("samples", wrote("sample", DANISH, START)), ("samples", wrote("sample", FOUND, GERMAN))])
    names = [field.name for field in dataclasses.fields(Spent)][1:]
    (stage,) = found["stages"]
    assert (stage["input"], stage["stage"], stage["at_least"]) == ("samples", "sample", [])
    rows = {row["language"]: [row[name] for name in names] for row in stage["languages"]}
    assert list(rows) == ["da", "de", None]
    assert rows["da"] == [12, 120, 100, 200, 60, 2000, 1000, 2, 3]
    assert rows["de"] == [1, 10, 30, 60, 30, 0, 0, 1, 0]
    assert rows[None] == [None, None, 10, 20, 10, 100, 0, 0, 0]
    assert [stage[name] for name in names] == [13, 130, 140, 280, 100, 2100, 1000, 3, 3]
    assert found["languages"] == stage["languages"]
    assert [found["total"][name] for name in names] == [13, 130, 140, 280, 100, 2100, 1000, 3, 3]


def test_stages_and_both_models_of_a_stage_have_rows_of_their_own_in_the_order_of_the_flow() -> None:
    answers = {"contract": "answers"}
    found = ledger.collect(
        [
            ("samples", wrote("sample", DANISH, START)),
            ("answers, base", wrote("answer", FOUND, START, **answers)),
            ("answers, tuned", wrote("answer", GERMAN, START, **answers)),
        ]
    )
    assert [wording.step(row) for row in found["stages"]] == ["sample", "answer, base", "answer, tuned"]
    assert [row["tokens_out"] for row in found["stages"]] == [50, 70, 10]
    assert [(row["language"], row["tokens_out"], row["seconds"]) for row in found["languages"]] == [
        ("da", 120, 100), ("de", 10, 30), (None, None, 30),
    ]  # fmt: skip


def said(row: dict[str, Any]) -> list[str]:
    return [ledger.tokens(row, name) for name in ledger.TOKENS]


def test_tokens_that_nobody_counted_are_missing_from_a_total_that_says_so() -> None:
    uncounted = wrote("train", Spent(None, seconds=5), contract=None, models={"base": {"id": "m"}})
    scored = wrote("score", Spent("da", 900, 0, 60), Spent("de", None, 0, 60), START, contract="scores")
    found = ledger.collect([("scores", scored), ("training", uncounted)])
    score, training = found["stages"]
    assert said(score) == ["at least 900", "0"]
    assert [(row["language"], *said(row)) for row in score["languages"]] == [
        ("da", "900", "0"), ("de", "unknown", "0"), (None, "–", "–"),
    ]  # fmt: skip
    assert (said(training), said(training["languages"][0])) == (["unknown"] * 2, ["unknown"] * 2)
    assert (training["tokens_in"], training["at_least"]) == (None, ["tokens_in", "tokens_out"])
    assert said(found["total"]) == ["at least 900", "at least 0"]


def test_rows_that_no_model_made_lack_no_tokens() -> None:
    nothing: dict[str, Any] = {"models": {}}
    paired = ("pairs", wrote("pair", Spent("da", seconds=1), START, contract="pairs", **nothing))
    prepared = ("prompts", wrote("prepare", START, contract="prompts", **nothing))
    found = ledger.collect([prepared, ("samples", wrote("sample", DANISH, START)), paired])
    assert [said(row) for row in found["stages"]] == [["–", "–"], ["5", "50"], ["–", "–"]]
    assert said(found["total"]) == ["5", "50"]
    imported = ("samples", wrote("import-scores", START, **nothing))  # whoever made them, a model did
    assert said(ledger.collect([prepared, imported])["total"]) == ["unknown", "unknown"]


def test_a_task_that_had_no_work_leaves_its_stages_tokens_known() -> None:
    found = ledger.collect([("samples", wrote("sample", START)), ("samples", wrote("sample", DANISH, START))])
    assert said(found["stages"][0]) == ["5", "50"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.01, "< 0.1 s"), (0.44, "0.4 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"),
     (247, "4 min 07 s"), (3599.7, "1 h 00 min"), (3600 + 4 * 60 + 29, "1 h 04 min"), (7.2e6, "2,000 h 00 min")],
)  # fmt: skip
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert ledger.duration(seconds) == text.replace(" ", "\u00a0")


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (512, "512 B"), (999, "999 B"), (1000, "1.0 kB"), (1.25e6, "1.2 MB"), (999_960, "1.0 MB"),
     (3.4e9, "3.4 GB"), (5.6e12, "5.6 TB"), (2e15, "2,000.0 TB")],
)  # fmt: skip
def test_bytes_have_decimal_units(number: int, text: str) -> None:
    assert ledger.size(number) == text.replace(" ", "\u00a0")


def test_the_plain_words_say_gpu_hours_and_what_was_reused() -> None:
    spent = Spent(None, 1, 1, 18_000, 36_360, 130, shards_computed=12, shards_reused=1400)
    (words, rest) = ledger.took(dataclasses.asdict(spent)).replace("\u00a0", " ").split(". The ")
    assert words == "Making what is reported here took 10.1 GPU hours (5 h 00 min of work), whichever run did it"
    assert rest == (
        "runs that wrote it worked for 2 min 10 s; of 1,412 shards of work they found 1,400 done and computed 12."
    )
    assert ledger.took(dataclasses.asdict(Spent(None, seconds=3, run_seconds=3))).replace("\u00a0", " ") == (
        "Making what is reported here took no GPU time (3.0 s of work), whichever run did it. "
        "The runs that wrote it worked for 3.0 s."
    )
    assert ledger.gpu_hours(60) == "less than 0.1 GPU hours"


def changed(directory: Path, out: Path, **spent: Any) -> Path:
    """The same data set, but for what it took."""
    shutil.copytree(directory, out)
    manifest = dataset.load_manifest(directory)
    path = out / dataset.MANIFEST
    path.write_text(dataclasses.replace(manifest, ledger=[Spent(**spent)]).to_json(), encoding="utf-8")
    return out


def test_the_page_the_markdown_and_the_json_show_the_ledger(everything: dict[str, Any], tmp_path: Path) -> None:
    spent = {"language": "da", "tokens_in": 1234, "seconds": 3840, "gpu_seconds": 7680, "run_seconds": 2}
    moved = {"bytes_read": 1_500_000, "bytes_written": 700, "shards_computed": 4, "shards_reused": 5}
    samples = changed(everything["samples"][0], tmp_path / "changed", **spent, **moved)
    numbers = numbers_of(tmp_path / "out", samples=[samples])
    row = {**spent, "tokens_out": None, **moved, "at_least": ["tokens_out"]}
    assert numbers["ledger"]["languages"] == [row]
    assert numbers["ledger"]["total"] == {name: value for name, value in row.items() if name != "language"}
    cells = ["2 h 08 min", "1 h 04 min", "1,234", "unknown", "2.0 s", "1.5 MB", "700 B", "4", "5"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    page = page[page.index('<section id="ledger"') :]
    heads = re.findall(
        r'<th scope="row">([^<]*)</th>((?:\s*<td class="n">[^<]*</td>)*)', page[: page.index("</section>")]
    )
    assert [name for name, _ in heads] == ["test", "All stages", "Danish", "Danish"]
    assert all(re.findall(">([^<]+)</td>", found) == cells for _, found in heads)
    assert "took 2.1 GPU hours (1 h 04 min of work)" in page
    lines = (tmp_path / "out" / "report.md").read_text(encoding="utf-8").splitlines()
    table = lines[lines.index("## What it took") :]
    assert "took 2.1 GPU hours (1 h 04 min of work)" in table[2]
    row_of = [
        f"| {name} | {' | '.join(cells)} |" for name in ("test", "all stages", "test, Danish", "all stages, Danish")
    ]
    assert (table[8:10], table[15:17]) == (row_of[:2], row_of[2:])


def test_a_run_that_found_everything_done_shows_the_same_page(everything: dict[str, Any], tmp_path: Path) -> None:
    def again(given: Any, name: str) -> Any:
        if isinstance(given, list):
            return [again(part, f"{name}-{at}") for at, part in enumerate(given)]
        spent = {"language": None, "seconds": 60.0, "run_seconds": 0.1, "shards_reused": 2}
        return changed(given, tmp_path / "again" / name, **spent)

    second = {name: again(given, name) for name, given in everything.items()}
    for name, inputs in {"first": everything, "second": second}.items():
        report.run(out=tmp_path / name, store=str(tmp_path / "store"), **inputs)
    report.run(out=tmp_path / "without a store", **second)
    for page in ("report.html", "report.md", "report.json"):
        first, restored, made = (tmp_path / name / page for name in ("first", "second", "without a store"))
        assert first.read_bytes() == restored.read_bytes() != made.read_bytes()
    ledger = json.loads((tmp_path / "without a store" / "report.json").read_text(encoding="utf-8"))["ledger"]
    assert (ledger["total"]["shards_computed"], ledger["total"]["shards_reused"]) == (0, 20)


# Words, excerpts and charts


def test_a_share_is_never_rounded_to_a_whole_that_it_is_not() -> None:
    assert [wording.share(value) for value in (1.0, 0.99999, 0.9994, 0.5, 0.0001, 0.0)] == [
        "100.0 %", "> 99.9 %", "99.9 %", "50.0 %", "< 0.1 %", "0.0 %",
    ]  # fmt: skip


def test_excerpts_are_the_same_ids_in_every_language_whatever_the_order() -> None:
    keys = [(language, f"q{number}") for language in ("da", "en") for number in range(50)]
    found = excerpts.choose(keys, 3, seed=0)
    assert found == excerpts.choose(reversed(keys), 3, seed=0)
    assert {key for language, key in found if language == "da"} == {key for language, key in found if language == "en"}
    assert len(found) == 6
    assert found != excerpts.choose(keys, 3, seed=1)


def test_broken_utf8_shows_as_text() -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 3], np.int32)), pa.py_buffer(b"a\xffb")]
    )
    turns = pa.StructArray.from_arrays([pa.array(["user"]), broken], ["role", "content"])
    messages = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), turns)
    assert excerpts.plain(broken) == ["a\\xffb"]
    assert excerpts.plain(messages) == [[{"role": "user", "content": "a\\xffb"}]]


def test_a_chart_names_itself_and_escapes_its_labels() -> None:
    mark = plots.Mark("second", 1.0, 0.5, None, "one")
    drawn = plots.intervals("<b>", [("</title><script>", "1 → 2", [mark])], low=-1, high=2, parity=0)
    assert drawn.startswith('<svg class="intervals" viewBox="0 0 340 60" role="img"><title>&lt;b&gt;</title><desc>')
    assert "<script" not in drawn


def test_a_constant_curve_and_a_single_value_can_be_drawn() -> None:
    assert "polyline" in plots.lines("loss", [(1, 0.0)], [])
    assert "polyline" in plots.histogram("rewards", [0.0, 1.0], [3], of="answers")
    assert "no finite value" in plots.lines("loss", [(1, None)], [])


@pytest.mark.browser
def test_chromium_shows_the_page_without_a_console_message(everything: dict[str, Any], tmp_path: Path) -> None:
    if not (chromium := shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.fail("chromium: found none on PATH; expected it for tests marked browser; install it")
    report.run(out=tmp_path / "out", **everything)

    def console(page: Path) -> list[str]:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync",
                 f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0",
                 "--dump-dom"]  # fmt: skip
        done = subprocess.run(
            [chromium, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        assert "</html>" in done.stdout
        return [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    assert console(tmp_path / "out" / "report.html") == []
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    (tmp_path / "worse.html").write_text(page.replace("</main>", "</main><script>1</script>"), encoding="utf-8")
    assert len(console(tmp_path / "worse.html")) == 1  # the page's own policy refuses scripts, and we would see it
