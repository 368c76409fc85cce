"""Benchmark data sets: local ones for EuroEval, declared in a folder.

A folder holds `datasets.jsonl`, one data set a line, and a folder of `train.csv`, `val.csv` and `test.csv` for each:

    {"name": "tone-gl", "language": "gl", "task": "classification", "labels": ["kind", "rude"],
     "words": {"kind": "amable", "rude": "groseiro"}, "prompt": "Amable ou groseiro: {text}", "examples": 0}

    tone-gl/test.csv:  text,label
                       "Es un encanto!",kind

Reading comprehension has no labels; its rows are lines of `train.jsonl`, `val.jsonl` and `test.jsonl`:

    {"name": "rain-gl", "language": "gl", "task": "reading-comprehension", "prompt": "{text} {question}"}

    rain-gl/test.jsonl:  {"context": "Hoxe chove en Vigo.", "question": "Onde chove?", "answers": ["Vigo", "en Vigo"]}

It is data only: nothing in it is executed, unlike EuroEval's own custom_datasets.py.
"""

import csv
import io
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from croco import languages
from croco.dataset import sha256_file
from croco.sources import read_json
from croco.writer import key_of

INDEX = "datasets.jsonl"
READING = "reading-comprehension"
TASKS = ("classification", "multiple-choice", READING)
SPLITS = ("train", "val", "test")
NAME = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True)
class LocalDataset:
    """A data set of a local folder, checked; each line of datasets.jsonl has these fields but `files`."""

    name: str
    """A lower-case letter, then letters, digits and dashes; also the folder of its files."""
    language: str
    task: str
    """`classification`; `multiple-choice`: every text then spells its choices out, each as `a. ` and so on; or
    `reading-comprehension`: every answer stands in its context."""
    labels: tuple[str, ...]
    """What the label column holds; two or more, spelled as names are (a number would not be read as text).
    None for reading-comprehension."""
    prompt: str
    """What the model is asked: `{text}` and, if wanted, `{labels_str}`, the words in quotes; for reading-comprehension
    `{text}`, the context, and `{question}`."""
    words: Mapping[str, str]
    """What the model has to answer for each label; a label that is not named stands for itself."""
    examples: int
    """Solved examples before the question (EuroEval's few-shot), drawn from the train split."""
    files: Mapping[str, Path]
    """Split -> CSV file, or JSON Lines for reading-comprehension."""

    @property
    def sha256(self) -> str:
        """Of what is declared and of the files' contents, wherever they lie."""
        return key_of({**asdict(self), "files": {split: sha256_file(path) for split, path in self.files.items()}})


def read_local(folder: Path) -> list[LocalDataset]:
    """The data sets declared in `folder`, after every one of their rows was checked.

    Raises: FileNotFoundError for a missing file; ValueError, with file and line, for what is not as declared.
    """
    index = folder / INDEX
    if not index.is_file():
        raise FileNotFoundError(f"{index}: found no file; expected one JSON object a line, a data set each")
    datasets: list[LocalDataset] = []
    for place, entry in read_json(index):
        try:
            dataset = _declared(entry, folder)
            if dataset.name in [other.name for other in datasets]:
                raise ValueError(f"found the name {dataset.name!r} again; expected each name once")
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        datasets.append(dataset)
    if not datasets:
        raise ValueError(f"{index}: found no data set; expected one or more")
    for dataset in datasets:
        for path in dataset.files.values():
            _check_rows(dataset, path)
    return datasets


def as_on_the_hub(local: LocalDataset, folder: Path) -> Path:
    """`folder`, in which a reading-comprehension data set now lies as EuroEval's own do on the hub: its local format,
    CSV, has no room for several answers.
    """
    folder.mkdir(parents=True)
    answers = pa.struct({"answer_start": pa.list_(pa.int32()), "text": pa.list_(pa.string())})
    schema = pa.schema({"id": pa.string(), "context": pa.string(), "question": pa.string(), "answers": answers})
    for split, path in local.files.items():
        rows = []
        for number, (_, row) in enumerate(read_json(path)):
            starts = [row["context"].index(answer) for answer in row["answers"]]
            rows.append({"id": str(number), **row, "answers": {"answer_start": starts, "text": row["answers"]}})
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{split}.parquet")
    files = "".join(f"  - split: {split}\n    path: {split}.parquet\n" for split in local.files)
    card = f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n"
    (folder / "README.md").write_text(card, encoding="ascii")
    return folder


def _declared(entry: Any, folder: Path) -> LocalDataset:
    """A line of datasets.jsonl as a data set. Raises: ValueError that says what was found and expected."""
    reading = isinstance(entry, dict) and entry.get("task") == READING
    required = {"name", "language", "task", "prompt"} | (set() if reading else {"labels"})
    optional = {"examples"} | (set() if reading else {"words"})
    if not isinstance(entry, dict) or not required <= entry.keys() <= required | optional:
        found = sorted(entry) if isinstance(entry, dict) else entry
        wanted = " and ".join(sorted(optional, reverse=True))
        raise ValueError(f"found {found}; expected an object of {sorted(required)} and, if wanted, {wanted}")
    name, examples = entry["name"], entry.get("examples", 0)
    for key in ("language", "task", "prompt"):
        if not isinstance(entry[key], str):
            raise ValueError(f"found {key} {entry[key]!r}; expected text")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"found name {name!r}; expected a lower-case letter, then letters, digits, dashes")
    if entry["task"] not in TASKS:
        raise ValueError(f"found task {entry['task']!r}; expected one of {', '.join(TASKS)}")
    labels, words = ((), {}) if reading else _labels(entry["task"], entry["labels"], entry.get("words", {}))
    if type(examples) is not int or examples < 0:
        raise ValueError(f"found examples {examples!r}; expected a number from 0")
    _check_prompt(entry["prompt"], reading)
    return LocalDataset(
        name=name,
        language=languages.get(entry["language"]).code,
        task=entry["task"],
        labels=labels,
        prompt=entry["prompt"],
        words=words,
        examples=examples,
        files={split: folder / name / f"{split}.{'jsonl' if reading else 'csv'}" for split in SPLITS},
    )


def _labels(task: str, labels: Any, words: Any) -> tuple[tuple[str, ...], dict[str, str]]:
    """Labels, and the word for each. Raises: ValueError that says what was found and expected."""
    if not isinstance(labels, list) or not all(isinstance(label, str) and NAME.fullmatch(label) for label in labels):
        raise ValueError(f"found labels {labels!r}; expected a list of names of lower-case letters, digits and dashes")
    if len(labels) < 2 or not isinstance(words, dict) or not words.keys() <= {*labels}:
        raise ValueError(f"found labels {labels} and words {words}; expected two labels or more, and words for them")
    words = {label: words.get(label, label) for label in labels}
    if not all(isinstance(word, str) and word and word == word.lower().strip() for word in words.values()):
        raise ValueError(f"found words {words}; expected lower-case text (EuroEval compares in lower case)")
    if len({*words.values()}) < len(labels):
        raise ValueError(f"found labels {labels} and words {words}; expected each once")
    if task == "multiple-choice" and any(words[label] != label for label in labels):
        raise ValueError(f"found words {words}; expected none for multiple-choice, whose texts name the labels")
    return tuple(labels), words


def _check_prompt(prompt: str, reading: bool) -> None:
    """Raises: ValueError for a prompt without its placeholders, or with others."""
    placeholders = {field for _, field, _, _ in string.Formatter().parse(prompt) if field is not None}
    if reading and placeholders != {"text", "question"}:
        raise ValueError(f"found prompt {prompt!r}; expected {{text}} and {{question}} in it, and nothing else")
    if not reading and ("text" not in placeholders or not placeholders <= {"text", "labels_str"}):
        raise ValueError(f"found prompt {prompt!r}; expected {{text}} in it, and at most {{labels_str}} besides")


def _check_rows(dataset: LocalDataset, path: Path) -> None:
    """Raises: FileNotFoundError, or ValueError with file and line, unless every row is one of `dataset`."""
    reading = dataset.task == READING
    if not path.is_file():
        what = "questions" if reading else "columns text and label"
        raise FileNotFoundError(f"{path}: found no file; expected the {what} of {dataset.name}")
    rows = 0
    for place, row in read_json(path) if reading else _rows(path):
        rows += 1
        try:
            _check_question(row) if reading else _check_labelled(dataset, row)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    if not rows:
        raise ValueError(f"{path}: found no row; expected one or more")


def _check_labelled(dataset: LocalDataset, row: Mapping[Any, Any]) -> None:
    """Raises: ValueError unless it is a text with one of the labels."""
    if None in row:
        raise ValueError("found more than two cells; expected text and label, quoted where needed")
    if row["label"] not in dataset.labels:
        raise ValueError(f"found label {row['label']!r}; expected one of {list(dataset.labels)}")
    if not (row["text"] or "").strip():
        raise ValueError("found no text; expected one to label")
    if dataset.task == "multiple-choice" and not re.search(rf"\b{re.escape(row['label'])}\. ", row["text"]):
        raise ValueError(f"found no choice {row['label'] + '. '!r} in the text; expected the answer")


def _check_question(row: Any) -> None:
    """Raises: ValueError unless it is a question with answers that stand in its context."""
    if not isinstance(row, dict) or row.keys() != {"context", "question", "answers"}:
        found = sorted(row) if isinstance(row, dict) else row
        raise ValueError(f"found {found}; expected an object of context, question and answers")
    answers = row["answers"]
    if not isinstance(answers, list) or not answers:
        raise ValueError(f"found answers {answers!r}; expected a list of one text or more")
    for text in (row["context"], row["question"], *answers):
        if not isinstance(text, str) or not text.strip() or re.search("[\0\ud800-\udfff]", text):
            raise ValueError(f"found {text!r}; expected text")
    if strange := [answer for answer in answers if answer not in row["context"]]:
        raise ValueError(f"found answers {strange}; expected what stands in the context, letter by letter")


def _rows(path: Path) -> Iterator[tuple[str, dict[str | None, Any]]]:
    """(file and line, row) of a CSV file of text and label. Raises: ValueError that names file and line."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: found bytes that are not UTF-8; expected CSV in UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path}:{line}: found a NUL character; expected text")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if reader.fieldnames != ["text", "label"]:
            raise ValueError(f"{path}:1: found columns {reader.fieldnames}; expected ['text', 'label']")
        for row in reader:
            yield f"{path}:{reader.line_num}", row
    except csv.Error as error:  # only the inner reader has counted the line it failed in
        line = reader.reader.line_num
        raise ValueError(f"{path}:{line}: found {error}; expected CSV of text and label") from error
