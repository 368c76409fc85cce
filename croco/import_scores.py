"""Import scores: scored JSONL as the paper's released code writes it -> prompts, samples and scores.

    python -m croco import-scores --original da=da.jsonl de=de.jsonl --scored da=da_s.jsonl de=de_s.jsonl --out DIR

A line of an original file is `{"messages": [...], "id"?, "source_dataset"?, "domain"?}`; line k of every original file
is the same prompt in another language. A line of a scored file is one answer, `{"messages": [user, assistant],
"reward_score": x}`, and belongs to the original of its language with the same user turn. The released code keeps the
first user turn alone, so originals are matched, and imported, by theirs.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croco import dataset, languages, rows

VERSION = 1
FAILED = (-999.0,)
"""What the released code writes where it could not read a score; imported as NaN, which `pair` counts and drops."""


@dataclass(frozen=True)
class ImportConfig:
    """How foreign scores come in."""

    eval_share: float = 0.01
    """Share of prompts set apart for evaluation loss, by hash of prompt_id (reference code: test_size)."""
    finish_reason: str = "stop"
    """What to take every answer's end for: the released code does not keep it, so `stop` is assumed (ours)."""

    def __post_init__(self) -> None:
        if not 0 <= self.eval_share < 1:
            raise ValueError(f"eval_share: found {self.eval_share}; expected a share from 0 up to 1")
        if self.finish_reason not in ("stop", "length"):
            raise ValueError(f"finish_reason: found {self.finish_reason!r}; expected stop or length")


def run(
    *, original: list[str], scored: list[str], out: Path, config: ImportConfig = ImportConfig()
) -> dataset.Manifest:
    """Write out/prompts, out/samples and out/scores.

    Args:
        original: LANG=FILE of the prompts, parallel by line.
        scored: LANG=FILE of the scored answers.
        out: Directory to write the three datasets to.
    """
    originals, answers = _files("--original", original), _files("--scored", scored)
    if missing := sorted(set(answers) - set(originals)):
        raise ValueError(f"--scored: found languages {missing} without an --original; expected one for each")
    prompts = read_originals(originals, config)
    found = [row for code, path in answers.items() for row in read_scored(path, code, by_text(prompts[code]))]
    _write(out, "prompts", "prompts", [prompt for code in originals for prompt in prompts[code]], config)
    _write(out, "samples", "answers", [_sample(row, config) for row in found], config)
    key = ("prompt_id", "language", "sample_index", "reward")
    return _write(out, "scores", "scores", [{name: row[name] for name in key} for row in found], config)


def _files(flag: str, values: list[str]) -> dict[str, Path]:
    """LANG=FILE values as language -> file."""
    pairs = [value.partition("=") for value in values]
    if wrong := [value for value, (_, _, path) in zip(values, pairs, strict=True) if not path]:
        raise ValueError(f"{flag}: found {wrong}; expected LANG=FILE")
    languages.check(code for code, _, _ in pairs)
    return {code: Path(path) for code, _, path in pairs}


def _write(out: Path, contract: str, unit: str, table: list[dict[str, Any]], config: ImportConfig) -> dataset.Manifest:
    writer = dataset.Writer(out / contract, contract, stage="import-scores", version=VERSION, config=config)
    writer.add(table)
    numbers = Counter(row["language"] for row in table)
    return writer.finish([dataset.Count(unit, code, n, n) for code, n in sorted(numbers.items())])


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(file:line, object) of each line. Raises: ValueError for a line that is not a JSON object with messages."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            place = f"{path}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{place}: found {line.strip()[:60]!r}; expected one JSON object a line ({error.msg})"
                ) from error
            if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
                raise ValueError(f"{place}: found no list of messages; expected an object with `messages`")
            yield place, row


def _turn(place: str, row: Mapping[str, Any], role: str) -> str:
    """The first turn of `role`, stripped, as the released code reads it."""
    for turn in row["messages"]:
        if turn.get("role") == role and isinstance(turn.get("content"), str):
            return str(turn["content"]).strip()
    raise ValueError(f"{place}: found no {role} turn with text; expected one in `messages`")


def read_originals(original: Mapping[str, Path], config: ImportConfig) -> dict[str, list[dict[str, Any]]]:
    """Prompts of each language; those of one line share a prompt_id, made of the line and its text in every language.

    Raises: ValueError if the files are not parallel (another number of lines).
    """
    texts = {code: [(_turn(place, row, "user"), row) for place, row in _lines(path)] for code, path in original.items()}
    numbers = {code: len(lines) for code, lines in texts.items()}
    if len(set(numbers.values())) > 1:
        raise ValueError(
            f"--original: found {numbers} lines; expected the same number in every language (parallel files)"
        )
    ids = [
        rows.prompt_id_of(
            [{"role": code, "content": texts[code][line][0]} for code in sorted(texts)]
            + [{"role": "line", "content": str(line)}]
        )
        for line in range(next(iter(numbers.values())))
    ]
    return {
        code: [
            {
                "prompt_id": prompt_id,
                "language": code,
                "messages": [{"role": "user", "content": text}],
                "reference": None,
                "source_dataset": row.get("source_dataset"),
                "domain": row.get("domain"),
                "split": "eval" if rows.fraction_of("split", prompt_id) < config.eval_share else "train",
            }
            for prompt_id, (text, row) in zip(ids, lines, strict=True)
        ]
        for code, lines in texts.items()
    }


def by_text(prompts: list[dict[str, Any]]) -> dict[str, list[str]]:
    """User text of one language's originals -> the ids of the lines that have it."""
    ids: dict[str, list[str]] = defaultdict(list)
    for prompt in prompts:
        ids[prompt["messages"][0]["content"]].append(prompt["prompt_id"])
    return ids


def read_scored(path: Path, code: str, ids: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """Scored answers of one language, each with its prompt's id and its number among that prompt's answers.

    Raises: ValueError, with counts, for answers whose prompt is in no original line, or in several.
    """
    found: list[dict[str, Any]] = []
    unmatched, ambiguous, first = 0, 0, ""
    indices: Counter[str] = Counter()
    for place, row in _lines(path):
        lines = ids.get(_turn(place, row, "user"), [])
        if len(lines) != 1:
            unmatched, ambiguous = unmatched + (not lines), ambiguous + bool(lines)
            first = first or place
            continue
        score = row.get("reward_score")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise ValueError(f"{place}: found reward_score {score!r}; expected a number")
        reward = math.nan if score in FAILED else float(score)
        found.append({"prompt_id": lines[0], "language": code, "sample_index": indices[lines[0]], "reward": reward,
                      "text": _turn(place, row, "assistant")})  # fmt: skip
        indices[lines[0]] += 1
    if unmatched or ambiguous:
        raise ValueError(
            f"{first}: found {unmatched} answers whose prompt is in no line of the {code} originals and {ambiguous} "
            "whose prompt is in several; expected one line each; remove duplicates and unmatched rows from the files"
        )
    return found


def _sample(row: Mapping[str, Any], config: ImportConfig) -> dict[str, Any]:
    """token_ids are empty and seed 0: the released code keeps neither."""
    kept = {name: row[name] for name in ("prompt_id", "language", "sample_index", "text")}
    return kept | {"token_ids": [], "finish_reason": config.finish_reason, "seed": 0,
                   "identified": languages.identify(row["text"])}  # fmt: skip
