"""Rows: the typed tables that pass between stages.

Every dataset is a set of Parquet files of one schema below plus a manifest (croco/dataset.py). A prompt has the same
`prompt_id` in every language: parallel rows are joined by key, never by position or text. `language` is an ISO 639-1
code (`da`), or BCP-47 where a region matters (`pt-PT`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
"""A conversation: turns of `role` (system, user, assistant) and `content`."""


_TYPES = {
    "str": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "list<int32>": pa.list_(pa.int32()),
    "list<float64>": pa.list_(pa.float64()),
    "messages": MESSAGES,
}


@dataclass(frozen=True)
class Contract:
    """A dataset's schema, the columns that identify a row, and the stage whose run writes it."""

    schema: pa.Schema
    key: tuple[str, ...]
    written_by: str


def _contract(written_by: str, key: str, columns: str) -> Contract:
    """`columns` as `name type` pairs; a type that ends in `?` may be null."""
    fields = [column.split() for column in columns.replace("\n", " ").split(",")]
    schema = pa.schema([pa.field(name, _TYPES[kind.rstrip("?")], nullable=kind.endswith("?")) for name, kind in fields])
    return Contract(schema, tuple(key.split()), written_by)


CONTRACTS: Mapping[str, Contract] = {
    # messages end with a user turn; reference is the data set's own answer; split is train or eval
    "prompts": _contract(
        "prepare` or `python -m croco translate",
        "prompt_id language",
        "prompt_id str, language str, messages messages, reference str?, source_dataset str?, domain str?, split str",
    ),
    # finish_reason is stop or length; identified is the language the text is in, null where it has no letters; logprob
    # is of all token_ids, in nats, null unless it was asked for
    "samples": _contract(
        "sample",
        "prompt_id language sample_index",
        """prompt_id str, language str, sample_index int32, text str, token_ids list<int32>, finish_reason str,
        seed int64, identified str?, logprob float64?""",
    ),
    "scores": _contract(
        "score",
        "prompt_id language sample_index",
        "prompt_id str, language str, sample_index int32, reward float32",
    ),
    # chosen_ids and chosen_logprob are the sample's own, of an answer to this very prompt, where it has a logprob
    "pairs": _contract(
        "pair",
        "pair_id",
        """pair_id str, prompt_id str, prompt_language str, prompt messages, chosen str, rejected str,
        chosen_language str, rejected_language str, chosen_reward float32, rejected_reward float32,
        chosen_index int32, rejected_index int32, pool_size int32, reward_mean float32, reward_std float32,
        domain str?, split str, chosen_ids list<int32>?, rejected_ids list<int32>?, chosen_logprob float64?,
        rejected_logprob float64?""",
    ),
    # reward is null where the completion is the data set's own answer
    "sft": _contract(
        "select",
        "prompt_id language",
        "prompt_id str, language str, prompt messages, completion str, reward float32?, split str",
    ),
    # generator is base, tuned, or the name of another model
    "answers": _contract(
        "answer",
        "question_id language generator",
        """question_id str, language str, prompt str, output str, finish_reason str, identified str?,
        generator str, category str, subcategory str""",
    ),
    # order is model_first or reference_first; verdict is model, reference or tie, null = unreadable
    "verdicts": _contract(
        "arena",
        "question_id language order",
        """question_id str, language str, order str, verdict str?, model_chars int32, reference_chars int32,
        category str, subcategory str, judge_text str""",
    ),
    # one value that was measured of one arm of a study; item is what it was measured on: a question, an iteration
    "outcomes": _contract(
        "tally",
        "arm seed measure language item",
        "arm str, seed int32, measure str, language str, item str, value float64",
    ),
    # score 0 to 100, higher is better; half_width_95 is half of the 95 % interval (EuroEval calls it "se")
    "benchmarks": _contract(
        "benchmark",
        "benchmark language metric",
        """benchmark str, task str, language str, metric str, score float64, half_width_95 float64,
        iterations list<float64>, split str""",
    ),
}


def conform(rows: pa.Table | Sequence[Mapping[str, object]], name: str) -> pa.Table:
    """`rows` as a table of contract `name`, columns in order.

    Raises: ValueError if a column is missing or surplus, has another type, or has a null where none may be.
    """
    schema = CONTRACTS[name].schema
    if not isinstance(rows, pa.Table):
        rows = pa.Table.from_pylist([dict(row) for row in rows], schema=schema) if rows else schema.empty_table()
    if sorted(rows.column_names) != sorted(schema.names):
        raise ValueError(f"{name}: found columns {rows.column_names}; expected {schema.names}")
    for field in schema:
        nulls = rows[field.name].null_count
        if nulls and not field.nullable:
            raise ValueError(f"{name}.{field.name}: found {nulls} null values; expected none")
    return rows.select(schema.names).cast(schema)


def prompt_id_of(messages: Sequence[Mapping[str, object]]) -> str:
    """16 hex digits that identify a prompt by its source-language turns: the same text has the same id in every run."""
    turns = [[turn["role"], turn["content"]] for turn in messages]
    return hashlib.sha256(json.dumps(turns, ensure_ascii=False).encode()).hexdigest()[:16]


def fraction_of(*parts: object) -> float:
    """A number in [0, 1) that depends on `parts` alone: a coin that lands the same on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def seed_of(*parts: object) -> int:
    """A seed in [0, 2**31) that depends on `parts` alone (vLLM takes 64 bits; 31 leave room to add a sample index)."""
    return int(fraction_of("seed", *parts) * 2**31)
