"""Excerpts: the handful of texts that the report shows, chosen by hash and made safe to print.

Only the texts that are shown are kept in memory. What models wrote is untrusted: control characters, invisible
characters and direction marks are spelled out, broken UTF-8 too, and long texts are cut with a note of how long they
were. Escaping for HTML is the template's.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from croco import dataset, rows
from croco.page.wording import visible

Rows = list[dict[str, Any]]
FRUGAL = {"batch_readahead": 2, "fragment_readahead": 1}
"""How far Arrow reads ahead: texts are large, and few of them are kept."""


def show(text: str, limit: int) -> dict[str, Any]:
    """`text` as it may be printed: at most `limit` of its `characters`, those nobody would see spelled out."""
    return {"text": visible(text[:limit]), "characters": len(text), "cut": len(text) > limit}


def choose(keys: Iterable[tuple[str, str]], number: int, seed: int) -> set[tuple[str, str]]:
    """Of (language, id) the `number` in each language whose ids hash lowest: the same ids in every language, where
    they are there, whatever the order.
    """
    by_language: dict[str, dict[str, float]] = {}
    for language, key in keys:
        by_language.setdefault(language, {})[key] = rows.fraction_of("excerpt", seed, key)
    return {
        (language, key)
        for language, ids in by_language.items()
        for key in sorted(ids, key=lambda one: (ids[one], one))[:number]
    }


def answers(base: Path | None, tuned: Path | None, verdicts: Path | None, number: int, limit: int, seed: int) -> Rows:
    """The same questions' answers side by side and what the judge wrote, `number` a language, in order of language."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    given = [(side, path) for side, path in (("base", base), ("tuned", tuned)) if path]
    keys = [_keys(path, "answers", "language", "question_id") for _, path in given]
    wanted = choose(set.intersection(*map(set, keys)), number, seed) if keys else set()
    for side, path in given:
        for row in _texts(path, "answers", "language", "question_id", wanted):
            entry = found.setdefault(
                (row["language"], row["question_id"]),
                {
                    "language": row["language"],
                    **{name: visible(row[name]) for name in ("question_id", "category", "subcategory")},
                    "prompt": show(row["prompt"], limit),
                    "base": None,
                    "tuned": None,
                    "judge": [],
                },
            )
            entry[side] = show(row["output"], limit) | {name: row[name] for name in ("finish_reason", "identified")}
    for row in _texts(verdicts, "verdicts", "language", "question_id", wanted) if verdicts else []:
        judged = {"order": row["order"], "verdict": row["verdict"], "words": show(row["judge_text"], limit)}
        found[row["language"], row["question_id"]]["judge"].append(judged)
    return [found[key] for key in sorted(found)]


def pairs(directory: Path, number: int, limit: int, seed: int) -> Rows:
    """Chosen and rejected answers side by side, `number` a language of the prompt, in order of language."""
    wanted = choose(_keys(directory, "pairs", "prompt_language", "pair_id"), number, seed)
    found = []
    for row in _texts(directory, "pairs", "prompt_language", "pair_id", wanted):
        turns = [(turn["role"], turn["content"]) for turn in row["prompt"]]
        prompt = turns[0][1] if len(turns) == 1 else "\n\n".join(f"{role}: {content}" for role, content in turns)
        sides = {
            side: show(row[side], limit) | {"reward": row[f"{side}_reward"], "language": row[f"{side}_language"]}
            for side in ("chosen", "rejected")
        }
        entry = {"language": row["prompt_language"], "prompt": show(prompt, limit), **sides}
        found.append(entry | {name: row[name] for name in ("pair_id", "pool_size", "reward_mean", "reward_std")})
    return sorted(found, key=lambda entry: (entry["language"], entry["pair_id"]))


def _keys(directory: Path, contract: str, *columns: str) -> list[tuple[str, str]]:
    table = dataset.read(directory, contract, columns)
    return list(zip(*(table[column].to_pylist() for column in columns), strict=True))


def _texts(directory: Path, contract: str, language: str, key: str, wanted: set[tuple[str, str]]) -> Rows:
    """The rows of `wanted` (language, key), found without keeping others."""
    paths = [str(path) for path in dataset.parts(directory, contract)]
    ids = pa.array(sorted({identity for _, identity in wanted}), pa.string())
    table = ds.dataset(paths).scanner(filter=ds.field(key).isin(ids), batch_size=1024, **FRUGAL).to_table()
    columns = [plain(column.combine_chunks()) for column in table.columns]
    found = [dict(zip(table.column_names, values, strict=True)) for values in zip(*columns, strict=True)]
    return [row for row in found if (row[language], row[key]) in wanted]


def plain(column: pa.Array) -> list[Any]:
    """`column` as Python values, whatever the bytes of its strings: Arrow lets a string hold what is not UTF-8."""
    return [_decoded(value) for value in _bytes(column).to_pylist()]


def _bytes(column: pa.Array) -> pa.Array:
    if pa.types.is_string(column.type):
        return column.cast(pa.binary())
    if pa.types.is_list(column.type):
        return pa.ListArray.from_arrays(column.offsets, _bytes(column.values))
    if pa.types.is_struct(column.type):
        return pa.StructArray.from_arrays([_bytes(part) for part in column.flatten()], column.type.names)
    return column


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, list):
        return [_decoded(part) for part in value]
    return {name: _decoded(part) for name, part in value.items()} if isinstance(value, dict) else value
