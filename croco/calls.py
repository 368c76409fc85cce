"""Calls: matches -> what a judge is asked, in both orders; its replies -> rows of verdicts."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from croco import chat, dataset, endpoint, judges, rows
from croco.engine import Completion, Sampling
from croco.matches import ORDERS, SIDES, Match
from croco.shards import Metered


@dataclass(frozen=True)
class Call:
    """One question to the judge: token ids for an engine, text for an endpoint."""

    match: Match
    order: str
    prompt: list[int] | str


class Judge(Metered, Protocol):
    """What answers them: an engine.Generator, or an endpoint.Endpoint."""

    max_model_len: int

    def __call__(self, prompts: Any, samplings: Sequence[Sampling], /) -> list[list[Completion]]: ...


def prepare(
    matches: Sequence[Match], form: judges.Format, tokenizer: Any, max_model_len: int, tally: dataset.Tally
) -> list[Call]:
    """Both orders of every match, side by side, so that they share the start of their prompt.

    A match the judge cannot be asked about in both orders is counted as dropped. `tokenizer` None: for an endpoint,
    which knows what is too long.
    """
    calls = []
    for match in matches:
        tally.take(match.language, len(ORDERS))
        pair = []
        for order in ORDERS:
            a, b = (match.model, match.reference) if order == ORDERS[0] else (match.reference, match.model)
            prompt = form.prompt(match.prompt, match.language, a, b)
            messages = [{"role": "user", "content": prompt}]
            if chat.special_token_in(tokenizer, messages) if tokenizer else endpoint.TOKEN_LIKE.search(prompt):
                tally.drop(match.language, "special_token", len(ORDERS))
                break
            ids = chat.prompt_ids(tokenizer, messages, **form.template) if tokenizer else []
            if tokenizer and len(ids) + form.sampling.max_tokens > max_model_len:
                tally.drop(match.language, "over_context", len(ORDERS))
                break
            pair.append(Call(match, order, ids if tokenizer else prompt))
        else:
            calls += pair
    return calls


def ask(
    calls: Sequence[Call], sampling: Sampling, seed: int, judge: Judge, tally: dataset.Tally
) -> list[dict[str, Any]]:
    """A verdict row for each call, the judge asked once for all of them.

    A match whose prompt an endpoint found too long, in either order, is counted as dropped.
    """
    samplings = [
        dataclasses.replace(sampling, seed=_seed(seed, call) if sampling.temperature else None) for call in calls
    ]
    replies = judge([call.prompt for call in calls], samplings) if calls else []
    too_long = {call.match for call, reply in zip(calls, replies, strict=True) if not reply}
    verdicts = []
    for call, reply in zip(calls, replies, strict=True):
        if call.match in too_long:
            tally.drop(call.match.language, "over_context")
            continue
        tally.keep(call.match.language)
        letter = judges.read_verdict(reply[0])
        first, second = SIDES if call.order == ORDERS[0] else SIDES[::-1]
        verdict = {"A": first, "B": second, "C": "tie", None: None}[letter]
        verdicts.append(row(call.match, call.order, verdict, reply[0].text))
    return verdicts


def _seed(seed: int, call: Call) -> int:
    return rows.seed_of("judge", seed, call.match.question_id, call.match.language, call.order)


def row(match: Match, order: str, verdict: str | None, judge_text: str) -> dict[str, Any]:
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
