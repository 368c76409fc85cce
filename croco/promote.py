"""Promote: the evaluations of a tuned model and its base -> whether it may take the base's place, and why.

A policy that is stated beforehand, and read here alone. Every check passes, or the model is refused with its reasons:

- the results are of these very weights, and of one base; both models had one template, one engine, the same settings;
- every language asked for is there, in EuroEval, in the arena and among its answers, with enough judged questions;
- EuroEval: in no language are the scores lower, beyond the 95 % interval of their paired change (croco/paired.py);
- arena: the win rate over all languages lies above parity with its whole interval, with answer length accounted for
  too, and in no language below;
- language fidelity: in no language did fewer answers keep to it, beyond the interval of the change.

Where a model of this name was promoted before, the same holds against that one: EuroEval and fidelity as against the
base, and the questions' scores against the base, question by question. What cannot be told is no pass.

    python -m croco promote --benchmarks-base DIR --benchmarks-tuned DIR --answers-base DIR --answers-tuned DIR \\
        --verdicts DIR --out DIR [--name croco-da --store s3://bucket/prefix]

Source: ours; neither the paper nor its released code decides anything by its results.
"""

import dataclasses
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croco import dataset, languages, release
from croco.comparison import against_base, against_last
from croco.likeness import PASS, Check, Evidence, settings
from croco.store import Store, open_store
from croco.writer import Writer

VERSION = 1


@dataclass(frozen=True)
class PromoteConfig:
    """What a model must show; all of it ours."""

    languages: tuple[str, ...] = ()
    """Languages that EuroEval must have scored. Default: those it scored the base model in."""
    questions_languages: tuple[str, ...] = ()
    """Languages of the arena's questions that must have been judged. Default: those the base model answered in."""
    min_questions: int = 100
    """Judged questions a language must have, from 10; m-ArenaHard has about 500."""
    max_unreadable: float = 0.05
    """Share of a language's verdicts that may be unreadable, in [0, .5)."""

    def __post_init__(self) -> None:
        for codes in (self.languages, self.questions_languages):
            if codes:
                languages.check(codes)
        if self.min_questions < 10:
            raise ValueError(f"min_questions: found {self.min_questions}; expected 10 or more")
        if not 0 <= self.max_unreadable < 0.5:
            raise ValueError(f"max_unreadable: found {self.max_unreadable}; expected a share from 0 to below .5")


def run(
    *,
    benchmarks_base: Path,
    benchmarks_tuned: Path,
    answers_base: Path,
    answers_tuned: Path,
    verdicts: Path,
    training: Path | None = None,
    out: Path,
    name: str | None = None,
    store: str | None = None,
    config: PromoteConfig = PromoteConfig(),
) -> dataset.Manifest:
    """Decide whether a tuned model is promoted: decision.json and decision.md, and `promote` among the metrics.

    A refusal is a result and not a failure.

    Args:
        benchmarks_base: EuroEval scores of the base model.
        benchmarks_tuned: EuroEval scores of the tuned model.
        answers_base: The base model's answers to the arena's questions.
        answers_tuned: The tuned model's.
        verdicts: The judge's verdicts on the tuned model's answers against the base's.
        training: What `train` wrote, with or without the weights: results must be of the model it made.
        out: Directory to write.
        name: Line of models whose last promoted one it must not fall behind, or, where that is this very model, the one
            before; without it only the base is looked at.
        store: Where promoted models are, and finished work is kept and looked for: s3://bucket/prefix or a folder.
    """
    if name:
        release.check_name(name)
    if name and not store:
        raise ValueError("promote: found a name and no store; expected --store, where promoted models are")
    tuned = Evidence(benchmarks_tuned, answers_tuned, verdicts)
    base = Evidence(benchmarks_base, answers_base)
    inputs = [benchmarks_base, benchmarks_tuned, answers_base, answers_tuned, verdicts]
    released = open_store(store) if name and store else None
    models = tuned.models(base)
    last = release.last(released, name) if released and name else None
    if last and released and last.sha256 == models["tuned"].get("sha256"):
        last = release.before(released, last)  # a run that is repeated is decided as it was
    writer = Writer(
        out,
        None,
        stage="promote",
        version=VERSION,
        config=config,
        inputs=[*inputs, *([training] if training else [])],
        models={**models, **({"last": {"sha256": last.sha256}} if last else {})},
        store=store,
        also=name,
    )
    if writer.done:
        return writer.done
    start = _start(training, name, released)
    checks = [*settings(tuned, base, training, start), *against_base(tuned, base, config)]
    if last and released:
        with tempfile.TemporaryDirectory(prefix="croco-promote-") as folder:
            kept = {what: release.fetch(released, last, what, Path(folder) / what) for what in release.EVALUATIONS}
            checks += against_last(tuned, Evidence(**kept), last.version)
    reasons = [check.text for check in checks if check.verdict != PASS]
    decision = {
        "promote": not reasons,
        "name": name,
        "models": writer.models,
        "last": last.version if last else None,
        "start": start.version if start else None,
        "policy": dataclasses.asdict(config),
        "evidence": {what: dataset.load_manifest(path).digest for what, path in vars(tuned).items()},
        "reasons": reasons,
        "checks": [dataclasses.asdict(check) for check in checks],
    }
    (out / "decision.json").write_text(json.dumps(decision, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "decision.md").write_text(markdown(decision, checks), encoding="utf-8")
    for file in ("decision.json", "decision.md"):
        writer.attach(out / file)
    passed = dataset.Tally("checks")
    for check in checks:
        passed.take(None)
        passed.keep(None) if check.verdict == PASS else passed.drop(None, check.verdict)
    return writer.finish(
        passed.counts(), metrics={"promote": not reasons, "refusals": len(reasons), "reasons": reasons}
    )


def _start(training: Path | None, name: str | None, released: Store | None) -> release.Release | None:
    """The promoted model of this name that training began from, if it did from one."""
    sha256 = dataset.load_manifest(training).models.get("base", {}).get("sha256") if training else None
    if not (sha256 and name and released):
        return None
    found = release.read(released, name, release.version_of(sha256))
    return found if found and found.sha256 == sha256 else None


def markdown(decision: dict[str, Any], checks: list[Check]) -> str:
    """The decision for people: the outcome, why not, then every check."""
    head = "Promoted" if decision["promote"] else "Not promoted"
    against = f"the base and {decision['name']} {decision['last']}" if decision["last"] else "the base"
    lines = [f"# {head}", "", f"Compared with {against}.", ""]
    lines += [f"- {reason}" for reason in decision["reasons"]] + ([""] if decision["reasons"] else [])
    lines += ["| check | language | outcome | what was found |", "|---|---|---|---|"]
    for check in checks:
        where = languages.LANGUAGES[check.language].name if check.language in languages.LANGUAGES else "all"
        lines.append(f"| {check.name} | {where} | {check.verdict} | {check.text.replace('|', '&#124;')} |")
    return "\n".join(lines) + "\n"
