"""Prepare: an English instruction set -> prompts (paper: 20,000 of Dolci-Instruct-SFT, stratified by domain).

    python -m croco prepare --out DIR                                     # Dolci-Instruct-SFT from the hub
    python -m croco prepare --source chats.jsonl --count 500 --out DIR    # or a JSON array, or Parquet

A source row has `messages`, a list of {role, content}, and may have `domain` and `source_dataset`. Its prompt is every
turn up to the last user turn, the system turn and earlier turns included; the assistant turn after it, if there is one,
is the `reference`. A row is dropped for the first of these reasons that holds:

    tools          it defines or calls functions, or has a tool's turn: the prompt cannot be answered without them
    null_content   a turn has no content
    empty_content  a turn is nothing but white space
    not_unicode    a turn has half of a surrogate pair, which no file or tokenizer can hold
    no_user_turn   nobody asks anything
    turn_order     not user and assistant by turns after at most one system turn, as chat templates require
    over_long      the prompt has more than `max_chars` characters
    duplicate      an earlier row has the same prompt up to case, white space and Unicode form
    not_sampled    usable, but not drawn

A row that is no conversation (no messages, an unknown role, content that is not text) is an error that names its line.
Rows in another language than English are kept, as in the paper; metrics["language_fidelity"] has the English share.
"""

import heapq
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croco import dataset, languages, rows, sources
from croco.sources import Records, Row
from croco.writer import Writer

VERSION = 1
DOLCI = "allenai/Dolci-Instruct-SFT"
DOLCI_REVISION = "bd3c8f3a9b2cc5a9682e44b96ddd0bb2ff027221"
"""The commit that public users of the data set have in their caches (ours; which one the paper used is not known)."""
ROLES = ("system", "user", "assistant")
TOOL_ROLES = ("tool", "function", "environment")
TOOL_FIELDS = ("tools", "functions", "function_calls", "tool_calls")
"""Of a row or a turn; Dolci has `functions` and `function_calls` in its turns."""
COLUMNS = ("messages", "domain", "source_dataset", *TOOL_FIELDS)
TURN_ORDER = re.compile("s?(ua)*ua?")
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class PrepareConfig:
    """Which rows of the source become prompts."""

    count: int = 20_000
    """Prompts, at least 1 (paper). A source with fewer usable rows gives all of them, with a warning."""
    max_chars: int = 8_000
    """Characters a prompt may have over all its turns, at least 1 (ours: about 2,000 tokens of English, which may
    double in another language and still leaves half of an 8,192-token context to the answer)."""
    eval_share: float = 0.01
    """Expected share of prompts whose split is `eval`, by hash of the prompt, in [0, 1) (reference code: test_size)."""
    seed: int = 0
    """Of the draw within each domain (ours)."""
    revision: str | None = None
    """Commit of a hub source. None takes DOLCI_REVISION for Dolci and the newest of any other; either way the manifest
    has the commit, to be given here for the same rows again (ours)."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.max_chars < 1:
            raise ValueError(f"found count {self.count}, max_chars {self.max_chars}; expected 1 or more of each")
        if not 0 <= self.eval_share < 1:
            raise ValueError(f"eval_share: found {self.eval_share}; expected 0 or more and below 1")


def prepare(records: Records, config: PrepareConfig) -> tuple[list[dict[str, Any]], list[dataset.Count], list[Any]]:
    """(prompts by prompt_id, counts, per domain how many rows were read, usable and chosen).

    The source is read twice, once to draw and once to take what was drawn, so that only that is ever held.
    """
    tally, read, usable = dataset.Tally("prompts"), Counter[str | None](), Counter[str | None]()
    lowest: dict[str | None, list[tuple[float, int]]] = {}
    seen: set[str] = set()
    for position, (place, row) in enumerate(_progress(records(), "reading")):
        turns, domain = turns_of(row, place), _label(row, "domain", place)
        tally.take("en")
        read[domain] += 1
        reason = reason_to_drop(row, turns, config.max_chars)
        if not reason:
            known = len(seen)
            seen.add(rows.prompt_id_of(normalised(prompt_turns(turns))))
            reason = "duplicate" if len(seen) == known else None
        if reason:
            tally.drop("en", reason)
            continue
        usable[domain] += 1
        draw = rows.fraction_of("prepare", config.seed, rows.prompt_id_of(prompt_turns(turns)))
        heap = lowest.setdefault(domain, [])
        (heapq.heappush if len(heap) < config.count else heapq.heappushpop)(heap, (-draw, -position))
    wanted = quotas(usable, config.count)
    chosen = {-position for domain, heap in lowest.items() for _, position in heapq.nlargest(wanted[domain], heap)}
    taken = (record for at, record in enumerate(_progress(records(), "taking what was drawn")) if at in chosen)
    prompts = sorted((prompt_of(row, place, config.eval_share) for place, row in taken), key=lambda p: p["prompt_id"])
    tally.keep("en", len(prompts))
    tally.drop("en", "not_sampled", usable.total() - len(prompts))
    domains = [
        {"domain": name, "read": read[name], "usable": usable[name], "chosen": wanted.get(name, 0)}
        for name in sorted(read, key=lambda name: name or "")
    ]
    return prompts, tally.counts(), domains


def turns_of(row: Row, place: str) -> list[Row]:
    """The row's conversation. Raises: ValueError that names `place` if there is none."""
    turns = row.get("messages") if isinstance(row, Mapping) else None
    if not isinstance(turns, list) or not turns:
        found = f"messages {turns!r}" if isinstance(row, Mapping) and "messages" in row else "no messages"
        raise ValueError(f"{place}: found {found}; expected a list of turns, each with a role and content")
    for turn in turns:
        role = turn.get("role") if isinstance(turn, Mapping) else None
        if role not in (*ROLES, *TOOL_ROLES):
            raise ValueError(f"{place}: found a turn with role {role!r}; expected {', '.join(ROLES)}")
        if not isinstance(turn.get("content"), str | None):
            raise ValueError(f"{place}: found content {turn['content']!r:.80}; expected text")
    return turns


def reason_to_drop(row: Row, turns: Sequence[Row], max_chars: int) -> str | None:
    """The first reason of the policy above that the row itself gives; None if it is usable."""
    shape = "".join(turn["role"][0] for turn in turns)
    texts = [turn["content"] for turn in turns if turn.get("content") is not None]
    if any(turn["role"] in TOOL_ROLES for turn in turns) or any(_has_tools(part) for part in (row, *turns)):
        return "tools"
    if len(texts) < len(turns):
        return "null_content"
    if not all(text.strip() for text in texts):
        return "empty_content"
    if any(SURROGATE.search(text) for text in texts):
        return "not_unicode"
    if "u" not in shape:
        return "no_user_turn"
    if not TURN_ORDER.fullmatch(shape):
        return "turn_order"
    if sum(len(turn["content"]) for turn in prompt_turns(turns)) > max_chars:
        return "over_long"
    return None


def _has_tools(part: Row) -> bool:
    return any(part.get(field) not in (None, "", "[]", "null", [], {}) for field in TOOL_FIELDS)


def prompt_turns(turns: Sequence[Row]) -> list[dict[str, str]]:
    """Every turn up to the last user turn, nothing but role and content."""
    last = max(at for at, turn in enumerate(turns) if turn["role"] == "user")
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns[: last + 1]]


def normalised(turns: Sequence[Row]) -> list[dict[str, str]]:
    """Turns that are equal where a reader would call them the same text."""
    texts = (unicodedata.normalize("NFKC", turn["content"]).casefold() for turn in turns)
    return [{"role": turn["role"], "content": " ".join(text.split())} for turn, text in zip(turns, texts, strict=True)]


def prompt_of(row: Row, place: str, eval_share: float) -> dict[str, Any]:
    """The row of the contract `prompts` that a usable source row becomes."""
    messages = prompt_turns(row["messages"])
    prompt_id, last = rows.prompt_id_of(messages), row["messages"][-1]
    return {
        "prompt_id": prompt_id,
        "language": "en",
        "messages": messages,
        "reference": last["content"] if last["role"] == "assistant" else None,
        "source_dataset": _label(row, "source_dataset", place),
        "domain": _label(row, "domain", place),
        "split": "eval" if rows.fraction_of("split", prompt_id) < eval_share else "train",
    }


def _label(row: Row, name: str, place: str) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{place}: found {name} {value!r:.80}; expected text or null")
    return value


def quotas(sizes: Mapping[str | None, int], count: int) -> dict[str | None, int]:
    """How many of `count` each stratum of the given size gets: the largest-remainder method, ties by name.

    All of every stratum where `count` is the total or more.
    """
    total = sum(sizes.values())
    if count >= total:
        return dict(sizes)
    shares = {name: divmod(size * count, total) for name, size in sizes.items()}
    order = sorted(shares, key=lambda name: (-shares[name][1], name or ""))
    extra = set(order[: count - sum(whole for whole, _ in shares.values())])
    return {name: whole + (name in extra) for name, (whole, _) in shares.items()}


def _progress(records: Iterable[tuple[str, Row]], what: str) -> Iterable[tuple[str, Row]]:
    from tqdm import tqdm

    return tqdm(records, desc=f"prepare: {what}", unit=" rows", mininterval=1)


def run(
    *, source: str = DOLCI, out: Path, store: str | None = None, config: PrepareConfig = PrepareConfig()
) -> dataset.Manifest:
    """English prompts of an instruction set.

    Args:
        source: hub data set id, or a local JSONL, JSON array or Parquet file, with `messages`.
        out: directory to write the prompts to.
        store: where finished work is kept and looked for: s3://bucket/prefix or a folder.
    """
    revision = config.revision or (DOLCI_REVISION if source == DOLCI else None)
    records, identity = sources.open_source(source, revision, COLUMNS)
    settings: dict[str, Any] = {"stage": "prepare", "version": VERSION, "config": config, "neutral": ["revision"]}
    writer = Writer(out, "prompts", **settings, also=identity, store=store)
    if writer.done:
        return writer.done
    prompts, counts, domains = prepare(records, config)
    if len(prompts) < config.count:
        writer.warn(f"prepare: found {len(prompts)} usable rows; expected {config.count}; all of them are kept")
    writer.add(prompts)
    asked = ["\n".join(turn["content"] for turn in p["messages"] if turn["role"] == "user") for p in prompts]
    fidelity = {"en": languages.fidelity(asked, ["en"] * len(asked))} if asked else {}
    metrics = {"source": identity, "domains": domains, "language_fidelity": fidelity}
    return writer.finish(counts, metrics=metrics)
