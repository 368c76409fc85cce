"""Arena: two models' answers to the same questions -> a judge's verdicts and win rates (paper: m-ArenaHard).

    python -m croco arena --answers TUNED --reference BASE --judge MODEL --out DIR

Answers are joined by question_id and language. Every question is judged twice, each model once in each place, and
scores the mean of the two (win 1, tie .5, loss 0); identical answers tie without a call. A reply without a verdict
stays in the dataset as null, and its question is left out of the rates: half of it would carry the judge's bias for a
place. The rates' formulas are in croco/winrate.py, the judges' prompts in croco/judges.py.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croco import chat, checks, dataset, engine, judges, languages, models, rows, winrate
from croco.engine import Generate, Sampling

VERSION = 1
ORDERS = ("model_first", "reference_first")
SIDES = ("model", "reference")


@dataclass(frozen=True)
class ArenaConfig:
    """How answers are compared."""

    judge_format: str = "qwen3.6"
    """Name in judges.FORMATS: the judge's prompt, sampling, thinking mode and context, each
    with where it comes from. Default: for the reference code's judge."""
    max_unreadable: float = 0.05
    """Share of the judge's replies in any one language that may lack a verdict, in [0, .5); above it the stage fails
    (ours; the reference code leaves such rows out in silence)."""
    repetitions: int = 2000
    """Bootstrap samples of each interval, at least 100 (ours)."""
    seed: int = 0
    """Of the judge's sampling, by question, language and order, and of the bootstrap (ours)."""
    max_model_len: int | None = None
    """Tokens of judge prompt and reply; None: the judge format's. Longer ones are counted as dropped (ours)."""
    gpus: int = 1
    """GPUs the judge is split over (ours)."""

    def __post_init__(self) -> None:
        checks.one_of(self, "judge_format", judges.FORMATS)
        if not 0 <= self.max_unreadable < 0.5:
            raise ValueError(f"max_unreadable: found {self.max_unreadable}; expected a share from 0 to below .5")
        if self.repetitions < 100:
            raise ValueError(f"repetitions: found {self.repetitions}; expected 100 or more")
        checks.one_or_more(self, "max_model_len", "gpus")


@dataclass(frozen=True)
class Match:
    """Two answers to one question."""

    question_id: str
    language: str
    category: str
    subcategory: str
    prompt: str
    model: str
    reference: str
    in_language: tuple[bool, bool]
    """Whether model and reference answered in the language of the question."""


@dataclass(frozen=True)
class Call:
    """One question to the judge, as token ids."""

    match: Match
    order: str
    ids: list[int]


def load_side(directory: Path) -> tuple[str, dict[tuple[str, str], dict[str, Any]]]:
    """The generator of an answers dataset, and its rows by (question_id, language).

    Raises: ValueError if it holds more than one model's answers.
    """
    table = dataset.unique(dataset.read(directory, "answers"), "answers", str(directory))
    names = sorted(set(table["generator"].to_pylist()))
    if len(names) != 1:
        raise ValueError(f"{directory}: found answers of {', '.join(names) or 'no model'}; expected one model's")
    return names[0], {(row["question_id"], row["language"]): row for row in table.to_pylist()}


def join(
    answers: dict[tuple[str, str], dict[str, Any]],
    reference: dict[tuple[str, str], dict[str, Any]],
    tally: dataset.Tally,
) -> list[Match]:
    """Questions both models answered, in the order of `answers`; the others are counted as dropped, two verdicts each.

    Raises: ValueError where the two were asked different things under one id.
    """
    matches = []
    for key in answers | reference:
        question_id, language = key
        tally.take(language, len(ORDERS))
        if key not in reference:
            tally.drop(language, "no_reference_answer", len(ORDERS))
        elif key not in answers:
            tally.drop(language, "no_model_answer", len(ORDERS))
        else:
            model, other = answers[key], reference[key]
            if model["prompt"] != other["prompt"]:
                raise ValueError(
                    f"question {question_id} ({language}): found different prompts; expected both models to be asked "
                    "the same; run answer for both with one revision of the questions"
                )
            base = languages.get(language).base
            in_language = (model["identified"] == base, other["identified"] == base)
            texts = (model["prompt"], model["output"], other["output"])
            matches.append(Match(*key, model["category"], model["subcategory"], *texts, in_language))
    return matches


def prepare_calls(
    matches: Sequence[Match], judge: judges.Format, tokenizer: Any, max_model_len: int, tally: dataset.Tally
) -> list[Call]:
    """Both orders of every match whose answers differ, side by side, so that they share the start of their prompt.

    A match the judge cannot be asked about in both orders is counted as dropped.
    """
    from tqdm import tqdm

    calls = []
    for match in tqdm([m for m in matches if m.model != m.reference], desc="judge prompts", mininterval=1):
        pair = []
        for order in ORDERS:
            a, b = (match.model, match.reference) if order == ORDERS[0] else (match.reference, match.model)
            messages = [{"role": "user", "content": judge.prompt(match.prompt, match.language, a, b)}]
            if chat.special_token_in(tokenizer, messages):
                tally.drop(match.language, "special_token", len(ORDERS))
                break
            ids = chat.prompt_ids(tokenizer, messages, **judge.template)
            if len(ids) + judge.sampling.max_tokens > max_model_len:
                tally.drop(match.language, "over_context", len(ORDERS))
                break
            pair.append(Call(match, order, ids))
        else:
            calls += pair
    return calls


def ask(calls: Sequence[Call], sampling: Sampling, seed: int, generate: Generate) -> list[dict[str, Any]]:
    """A verdict row for each call, the judge asked once for all of them."""
    samplings = [
        dataclasses.replace(sampling, seed=_seed(seed, call) if sampling.temperature else None) for call in calls
    ]
    replies = generate([call.ids for call in calls], samplings) if calls else []
    verdicts = []
    for call, (reply,) in zip(calls, replies, strict=True):
        letter = judges.read_verdict(reply)
        first, second = SIDES if call.order == ORDERS[0] else SIDES[::-1]
        verdict = {"A": first, "B": second, "C": "tie", None: None}[letter]
        verdicts.append(_row(call.match, call.order, verdict, reply.text))
    return verdicts


def tie_identical(matches: Sequence[Match]) -> list[dict[str, Any]]:
    """Two ties for each match of identical answers."""
    same = [match for match in matches if match.model == match.reference]
    return [_row(match, order, "tie", judges.IDENTICAL) for match in same for order in ORDERS]


def _seed(seed: int, call: Call) -> int:
    return rows.seed_of("judge", seed, call.match.question_id, call.match.language, call.order)


def _row(match: Match, order: str, verdict: str | None, judge_text: str) -> dict[str, Any]:
    return {
        "question_id": match.question_id,
        "language": match.language,
        "order": order,
        "verdict": verdict,
        "model_chars": len(match.model),
        "reference_chars": len(match.reference),
        "category": match.category,
        "subcategory": match.subcategory,
        "judge_text": judge_text,
    }


def check_readable(verdicts: Sequence[dict[str, Any]], most: float, out: Path) -> None:
    """Raises: ValueError where more than the share `most` of the judge's replies in a language lack a verdict."""
    unreadable = Counter(row["language"] for row in verdicts if row["verdict"] is None)
    replies = Counter(row["language"] for row in verdicts if not judges.tied_without_call(row))
    for language, number in sorted(unreadable.items()):
        if number > most * replies[language]:
            example = next(r["judge_text"] for r in verdicts if r["verdict"] is None and r["language"] == language)
            raise ValueError(
                f"arena: found {number} of {replies[language]} replies of the judge in {language} without a verdict; "
                f"expected at most {most:.0%}; the first ends {example[-200:]!r}, all are in {out}/part-00000.parquet; "
                "check that --judge-format fits the judge"
            )


def in_language(matches: Sequence[Match]) -> dict[str, dict[str, float]]:
    """By side and language: the share of answers in the language of the question."""
    codes = dict.fromkeys(match.language for match in matches)
    groups = {code: [match.in_language for match in matches if match.language == code] for code in codes}
    return {
        side: {code: sum(pair[at] for pair in pairs) / len(pairs) for code, pairs in groups.items()}
        for at, side in enumerate(SIDES)
    }


def differences(answers: Path, reference: Path) -> list[str]:
    """What was not the same when the two models answered, by their manifests."""
    model, other = (dataset.load_manifest(directory, "answers").metrics for directory in (answers, reference))
    return [
        f"the two models answered with different {name}: {model.get(name)} and {other.get(name)}; where one is tuned "
        "from the other, only the weights should differ"
        for name in ("sampling", "questions", "chat_template")
        if model.get(name) != other.get(name)
    ]


def run(
    *,
    answers: Path,
    reference: Path,
    judge: str = judges.JUDGE,
    judge_revision: str | None = None,
    out: Path,
    config: ArenaConfig = ArenaConfig(),
) -> dataset.Manifest:
    """Write a judge's verdicts on two models' answers, and the win rates of the first.

    Args:
        answers: Dataset of the answers of the model whose win rate is wanted.
        reference: Dataset of the answers of the model it is compared with.
        judge: Folder or hub id of the judge (default: the reference code's).
        judge_revision: Commit, tag or branch of a hub judge; default main (ours).
        out: Directory to write.
    """
    inputs = [answers, reference]
    writer = dataset.Writer(out, "verdicts", stage="arena", version=VERSION, config=config, inputs=inputs)
    for difference in differences(answers, reference):
        writer.warn(difference)
    (name, model_rows), (reference_name, reference_rows) = load_side(answers), load_side(reference)
    tally = dataset.Tally("verdicts")
    matches = join(model_rows, reference_rows, tally)
    form, identity = judges.FORMATS[config.judge_format], models.identity(judge, judge_revision)
    verdicts = tie_identical(matches)
    if len(verdicts) < len(ORDERS) * len(matches):
        commit, limit = identity.get("revision"), config.max_model_len or form.max_model_len
        judges.check_template(chat.load_tokenizer(judge, commit), config.judge_format)
        llm = engine.load_generator(judge, commit, max_model_len=limit, gpus=config.gpus)
        calls = prepare_calls(matches, form, llm.tokenizer, llm.max_model_len, tally)
        verdicts += ask(calls, form.sampling, config.seed, llm)
    verdicts.sort(key=lambda row: (row["language"], row["question_id"], row["order"]))
    for row in verdicts:
        tally.keep(row["language"])
    writer.add(verdicts)
    check_readable(verdicts, config.max_unreadable, out)
    metrics = {
        "model": name,
        "reference": reference_name,
        "judge": {"sampling": dataclasses.asdict(form.sampling), "template": dict(form.template)},
        "in_language": in_language(matches),
        "win_rates": winrate.win_rates(verdicts, config.repetitions, config.seed),
    }
    asked = {side: dataset.load_manifest(path).models.get("policy") for side, path in zip(SIDES, inputs, strict=True)}
    known = {side: policy for side, policy in asked.items() if policy}
    return writer.finish(tally.counts(), models={**known, "judge": identity}, metrics=metrics)
