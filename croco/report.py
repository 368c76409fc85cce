"""Report: everything a run wrote -> one self-contained HTML page, the same in Markdown, the same numbers as JSON.

    python -m croco report --pairs DIR --training DIR --benchmarks-base DIR --benchmarks-tuned DIR ... --out DIR

The page loads nothing from anywhere and runs no script; every text is escaped. It says no more than the 95 %
intervals allow, and what was not given it says is missing. The numbers come from croco.page.findings, what may be said
of them from croco.page.summary, the charts from croco.page.charts, and what changed since the last run from croco.runs.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croco import dataset, release, runs
from croco.page import charts, excerpts, findings, ledger, summary, wording
from croco.writer import Writer

VERSION = 3
LARGE = 5_000_000
"""Bytes of HTML beyond which mail and the Kubeflow UI show it badly (ours)."""


@dataclass(frozen=True)
class ReportConfig:
    """What the report shows."""

    title: str = "CroCo report"
    """Heading of the page (ours)."""
    samples_per_language: int = 3
    """Questions, and pairs, shown as text for each language, 0 to 50 (ours)."""
    max_characters: int = 1500
    """Characters of a text that are shown, 1 to 100,000; the page says what was cut (ours)."""
    bins: int = 40
    """Bins of a histogram, 5 to 200 (ours)."""
    seed: int = 0
    """For the choice of the texts shown (ours)."""

    def __post_init__(self) -> None:
        for name, low, high in [("samples_per_language", 0, 50), ("max_characters", 1, 100_000), ("bins", 5, 200)]:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}: found {getattr(self, name)}; expected {low} to {high}")


def run(
    *,
    out: Path,
    prompts: Sequence[Path] = (),
    samples: Sequence[Path] = (),
    scores: Sequence[Path] = (),
    pairs: Path | None = None,
    training: Path | None = None,
    benchmarks_base: Path | None = None,
    benchmarks_tuned: Path | None = None,
    answers_base: Path | None = None,
    answers_tuned: Path | None = None,
    verdicts: Path | None = None,
    decision: Path | None = None,
    line: str = runs.LINE,
    store: str | None = None,
    config: ReportConfig = ReportConfig(),
) -> dataset.Manifest:
    """Write report.html, report.md and report.json of whatever is given.

    Args:
        out: Directory to write.
        prompts: Datasets of prompts, prepared and translated.
        samples: Datasets of answers sampled.
        scores: Datasets of rewards.
        pairs: Dataset of preference pairs.
        training: What `train` wrote.
        benchmarks_base: EuroEval scores of the base model.
        benchmarks_tuned: EuroEval scores of the tuned model.
        answers_base: The base model's answers to the arena's questions.
        answers_tuned: The tuned model's.
        verdicts: The judge's verdicts on them.
        decision: What `promote` decided by them.
        line: Name of the runs that this is one of, as croco-da; what changed since the last of them is said (ours).
        store: Where finished work is kept and looked for: s3://bucket/prefix or a folder.
    """
    inputs = findings.Inputs(
        prompts, samples, scores, pairs, training, benchmarks_base, benchmarks_tuned, answers_base, answers_tuned,
        verdicts, decision,
    )  # fmt: skip
    directories = [directory for _, directory in inputs.named()]
    if not directories:
        raise ValueError("report: found no input; expected the output of at least one stage, as in --pairs DIR")
    line = release.check_name(line or runs.LINE)
    about: dict[str, Any] = {"stage": "report", "version": VERSION, "config": config, "also": line}
    writer = Writer(out, None, **about, inputs=directories, store=store)
    made = runs.made_with([(name, dataset.load_manifest(directory)) for name, directory in inputs.named()])
    manifest = writer.done
    if not manifest:
        changes = runs.since_last(writer.store, line, made) if writer.store else None
        manifest = write(writer, inputs, changes, config)
    if writer.store:
        runs.keep(writer.store, line, made)
    return manifest


def write(
    writer: Writer, inputs: findings.Inputs, changes: dict[str, Any] | None, config: ReportConfig
) -> dataset.Manifest:
    """Make the pages; `changes` since the last run, if there is a store to know it by."""
    numbers = findings.collect(inputs, bins=config.bins)
    summarized = summary.summarize(numbers)
    about = {"title": wording.visible(config.title), "summary": summarized, "changes": findings.plain(changes)}
    numbers = about | numbers
    choice = (config.samples_per_language, config.max_characters, config.seed)
    texts = {
        "answers": excerpts.answers(inputs.answers_base, inputs.answers_tuned, inputs.verdicts, *choice),
        "pairs": excerpts.pairs(inputs.pairs, *choice) if inputs.pairs else [],
    }
    pages = render(numbers, texts, config)
    if (size := len(pages["report.html"].encode())) > LARGE:
        writer.warn(f"report.html has {size / 1e6:.1f} MB; lower --samples-per-language or --max-characters")
    for name, page in pages.items():
        (writer.out / name).write_text(page, encoding="utf-8")
        writer.attach(writer.out / name)
    shown = dataset.Count("inputs", None, len(writer.inputs), len(writer.inputs))
    return writer.finish([shown], metrics=headline(numbers))


def headline(numbers: dict[str, Any]) -> dict[str, Any]:
    """The few numbers by which runs are compared, for the manifest and Kubeflow's Metrics, none where its section is.

    `promoted` 1 or 0, `checks_failed`; `benchmarks`: scores by verdict; by language `benchmark_change` in points with
    `benchmark_change_low` and `_high`, each of wording.RATES as a share, `language_fidelity_change` as a difference of
    shares.
    """
    found: dict[str, Any] = {"says": {row["section"]: row["verdict"] for row in numbers["summary"]}}
    if promotion := numbers["promotion"]:
        found |= {"promoted": int(promotion["promote"]), "checks_failed": len(promotion["reasons"])}
    if numbers["benchmarks"]:
        found["benchmarks"] = dict(Counter(row["verdict"] for row in numbers["benchmarks"] if row["verdict"]))
        for end, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
            by_language = {row["language"]: row[end] for row in numbers["benchmark_languages"]}
            found[f"benchmark_change{suffix}"] = by_language
    if numbers["win_rates"]:
        rows = numbers["win_rates"]["languages"]
        found |= {rate: {row["language"]: row[rate] for row in rows} for rate in wording.RATES}
    if numbers["answers"]:
        rows = [row for row in numbers["answers"]["languages"] if row["change"]]
        found["language_fidelity_change"] = {row["language"]: row["change"]["value"] for row in rows}
    return found


def render(numbers: dict[str, Any], texts: dict[str, Any], config: ReportConfig) -> dict[str, str]:
    """report.html, report.md and report.json by name. Every text goes through autoescape, in Markdown too."""
    pages = environment()
    filters = (
        wording.share,
        wording.signed,
        wording.number,
        wording.between,
        wording.short,
        wording.interval,
        wording.change,
        wording.marked,
        wording.name,
        wording.step,
        ledger.took,
        ledger.tokens,
        ledger.duration,
        ledger.size,
    )
    pages.filters |= {function.__name__: function for function in filters} | {"plain": markdown}
    names = ("SYMBOLS", "CHANGE", "PARITY", "CHECKED", "RATES")
    pages.globals |= {name: getattr(wording, name) for name in names}
    flow, logged = stages(numbers["flow"]), milestones(numbers["training"]) if numbers["training"] else []
    values = {"numbers": numbers, "texts": texts, "config": config, "stages": flow, "milestones": logged}
    return {
        "report.html": pages.get_template("report.html.j2").render(**values, charts=charts.draw(numbers, flow)),
        "report.md": pages.get_template("report.md.j2").render(**values),
        "report.json": json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    }


def environment() -> Any:
    """How every page is made of its template: each text in it is escaped, and one that is missing is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("croco.page", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def markdown(text: object) -> str:
    """`text` on one line, with what Markdown would take for markup escaped (HTML's is autoescape's work)."""
    return "".join(f"\\{c}" if c in "\\`*_[]|#~!" else c for c in " ".join(str(text).split()))


def milestones(training: dict[str, Any]) -> list[dict[str, Any]]:
    """Loss, margin and accuracy at the first, middle, last and quarter steps of those logged, on training rows and on
    held-out rows; None for what was not logged, as SFT has neither margin nor accuracy.
    """
    names = {"loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "accuracy"}
    curves = {names[curve["metric"]]: curve for curve in training["curves"] if curve["metric"] in names}
    found = []
    for side, rows in (("train", "training"), ("eval", "held out")):
        logged = {name: dict(curve[side]) for name, curve in curves.items()}
        steps = sorted(set().union(*logged.values()))
        places = sorted({quarter * (len(steps) - 1) // 4 for quarter in range(5)}) if steps else []
        for step in (steps[place] for place in places):
            numbers = {name: logged.get(name, {}).get(step) for name in names.values()}
            found.append({"rows": rows, "step": step, **numbers})
    return found


def stages(flow: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The flow's counts over all languages, one row for each input's stage and unit, in order."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for count in flow:
        key = (count["input"], count["stage"], count["unit"])
        row = found.setdefault(key, {"rows_in": 0, "rows_out": 0, "dropped": Counter(), "languages": []})
        row["rows_in"] += count["rows_in"]
        row["rows_out"] += count["rows_out"]
        row["dropped"].update(count["dropped"])
        row["languages"].append(count)
    return [{"input": name, "stage": stage, "unit": unit} | row for (name, stage, unit), row in found.items()]
