"""Questions: a benchmark's questions in one language each, from a local file or a hub data set.

Every error names the file and line (or row) that holds what is no question.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croco import models, sources

QUESTIONS = "CohereLabs/m-ArenaHard-v2.1"
"""A configuration a language, split `test` (reference code)."""
FIELDS = ("question_id", "category", "subcategory", "prompt", "language")


@dataclass(frozen=True)
class Question:
    """A benchmark question in one language."""

    question_id: str
    category: str
    subcategory: str
    prompt: str
    language: str


def read_file(path: Path) -> Iterator[Question]:
    """Questions of a JSONL or Parquet file with the benchmark's fields.

    Raises: ValueError naming file and line (Parquet: row) for what is not a question, or stands twice.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: found no file; expected JSONL or Parquet with {', '.join(FIELDS)}, or a hub id"
        )
    first: dict[tuple[str, str], str] = {}
    for place, row in sources.read(path, FIELDS):
        question = _question(row, place)
        key = (question.question_id, question.language)
        if key in first:
            raise ValueError(f"{place}: found {key} again, after {first[key]}; expected each question once a language")
        first[key] = place
        yield question


def read_hub(source: str, revision: str, codes: Sequence[str]) -> Iterator[Question]:
    """Questions of a hub data set with a configuration a language, those of `codes` that it has."""
    import datasets

    with models.reaching_hub(source):
        offered = datasets.get_dataset_config_names(source, revision=revision)
    for code in [code for code in codes if code in offered]:
        with models.reaching_hub(source):
            split = datasets.load_dataset(source, code, revision=revision, split="test")
        for number, row in enumerate(split, 1):
            yield _question({**row, "language": code}, f"{source} {code}:{number}")


def _question(row: Any, place: str) -> Question:
    """`row` as a question. Raises: ValueError naming `place` where a field is not a text, or an id or prompt empty."""
    values = row if isinstance(row, dict) else {}
    for name in FIELDS:
        value = values.get(name)
        if not isinstance(value, str) or (name in ("question_id", "prompt", "language") and not value.strip()):
            raise ValueError(f"{place}: found {name} {value!r}; expected a text in each of {', '.join(FIELDS)}")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"{place}: found half a character in {name}; expected text that UTF-8 can hold")
    return Question(**{name: values[name] for name in FIELDS})
