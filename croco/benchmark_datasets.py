"""Benchmark data sets: the paper's EuroEval data sets of each language, and local ones declared in a folder.

A folder holds `datasets.jsonl`, one data set a line, and a folder of `train.csv`, `val.csv` and `test.csv` for each:

    {"name": "tone-gl", "language": "gl", "task": "classification", "labels": ["kind", "rude"],
     "words": {"kind": "amable", "rude": "groseiro"}, "prompt": "Amable ou groseiro: {text}", "examples": 0}

    tone-gl/test.csv:  text,label
                       "Es un encanto!",kind

It is data only: nothing in it is executed, unlike EuroEval's own custom_datasets.py.
"""

import csv
import io
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from croco import languages
from croco.dataset import sha256_file
from croco.sources import read_json
from croco.writer import key_of

PAPER: Mapping[str, tuple[str, ...]] = {
    code: tuple(names.split())
    for code, names in {
        "da": "dala danish-entailment danish-lexical-inference danwic multi-wiki-qa-da danske-talemaader "
        "danish-citizen-tests ifeval-da",
        "nl": "scala-nl squad-nl include-nl copa-nl multiloko-nl",
        "en": "scala-en wic squad life-in-the-uk mmlu-pro ifeval multiloko-en",
        "fr": "scala-fr fquad mmlu-fr include-fr multinrc-fr ifeval-fr multiloko-fr",
        "de": "scala-de germanquad mmlu-de include-de ifeval-de multiloko-de",
        "it": "scala-it wic-ita mmlu-it include-it ifeval-it",
        "es": "scala-es mlqa-es include-es multinrc-es ifeval-es multiloko-es",
        "no": "norquad nrk-quiz-qa idioms-no mmlu-no nor-common-sense-qa",
        "sv": "multi-wiki-qa-sv mmlu-sv skolprov multiloko-sv hellaswag-sv",
        "pt": "multi-wiki-qa-pt mmlu-pt multiloko-pt goldenswag-pt",  # the reference names the Swedish multi-wiki-qa-sv
        "fi": "tydiqa-fi include-fi hellaswag-fi",  # the reference spells it tidyqa-fi, which does not exist
    }.items()
}
"""EuroEval's names by language; EuroEval has no data set in gl, ga, mt or cy.

Source: the reference's 5.euroeval.sh (the paper speaks of 32 data sets and does not list them; these are 61), with two
wrong names corrected. All exist in EuroEval 17; 16.11, the last for Python 3.11, lacks 28 of them.
"""

INDEX = "datasets.jsonl"
TASKS = ("classification", "multiple-choice")
SPLITS = ("train", "val", "test")
NAME = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True)
class LocalDataset:
    """A data set of a local folder, checked; each line of datasets.jsonl has these fields but `files`."""

    name: str
    """A lower-case letter, then letters, digits and dashes; also the folder of its CSV files."""
    language: str
    task: str
    """`classification`, or `multiple-choice`: every text then spells its choices out, each as `a. ` and so on."""
    labels: tuple[str, ...]
    """What the label column holds; two or more, spelled as names are (a number would not be read as text)."""
    prompt: str
    """What the model is asked: `{text}` and, if wanted, `{labels_str}`, the words in quotes."""
    words: Mapping[str, str]
    """What the model has to answer for each label; a label that is not named stands for itself."""
    examples: int
    """Solved examples before the question (EuroEval's few-shot), drawn from train.csv."""
    files: Mapping[str, Path]
    """Split -> CSV file."""

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


def _declared(entry: Any, folder: Path) -> LocalDataset:
    """A line of datasets.jsonl as a data set. Raises: ValueError that says what was found and expected."""
    required = {field.name for field in fields(LocalDataset)} - {"words", "examples", "files"}
    if not isinstance(entry, dict) or not required <= entry.keys() <= required | {"words", "examples"}:
        found = sorted(entry) if isinstance(entry, dict) else entry
        raise ValueError(f"found {found}; expected an object of {sorted(required)} and, if wanted, words and examples")
    name, labels, examples = entry["name"], entry["labels"], entry.get("examples", 0)
    words = entry.get("words", {})
    for key in ("language", "task", "prompt"):
        if not isinstance(entry[key], str):
            raise ValueError(f"found {key} {entry[key]!r}; expected text")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"found name {name!r}; expected a lower-case letter, then letters, digits, dashes")
    if entry["task"] not in TASKS:
        raise ValueError(f"found task {entry['task']!r}; expected one of {', '.join(TASKS)}")
    if not isinstance(labels, list) or not all(isinstance(label, str) and NAME.fullmatch(label) for label in labels):
        raise ValueError(f"found labels {labels!r}; expected a list of names of lower-case letters, digits and dashes")
    if len(labels) < 2 or not isinstance(words, dict) or not words.keys() <= {*labels}:
        raise ValueError(f"found labels {labels} and words {words}; expected two labels or more, and words for them")
    words = {label: words.get(label, label) for label in labels}
    if not all(isinstance(word, str) and word and word == word.lower().strip() for word in words.values()):
        raise ValueError(f"found words {words}; expected lower-case text (EuroEval compares in lower case)")
    if len({*words.values()}) < len(labels):
        raise ValueError(f"found labels {labels} and words {words}; expected each once")
    if entry["task"] == "multiple-choice" and any(words[label] != label for label in labels):
        raise ValueError(f"found words {words}; expected none for multiple-choice, whose texts name the labels")
    if type(examples) is not int or examples < 0:
        raise ValueError(f"found examples {examples!r}; expected a number from 0")
    placeholders = [field for _, field, _, _ in string.Formatter().parse(entry["prompt"]) if field is not None]
    if "text" not in placeholders or not {*placeholders} <= {"text", "labels_str"}:
        raise ValueError(
            f"found prompt {entry['prompt']!r}; expected {{text}} in it, and at most {{labels_str}} besides"
        )
    return LocalDataset(
        name=name,
        language=languages.get(entry["language"]).code,
        task=entry["task"],
        labels=tuple(labels),
        prompt=entry["prompt"],
        words=words,
        examples=examples,
        files={split: folder / name / f"{split}.csv" for split in SPLITS},
    )


def _check_rows(dataset: LocalDataset, path: Path) -> None:
    """Raises: FileNotFoundError, or ValueError with file and line, unless every row is one of `dataset`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: found no file; expected the columns text and label of {dataset.name}")
    rows = 0
    for line, row in _rows(path):
        rows += 1
        if None in row:
            raise ValueError(f"{path}:{line}: found more than two cells; expected text and label, quoted where needed")
        if row["label"] not in dataset.labels:
            raise ValueError(f"{path}:{line}: found label {row['label']!r}; expected one of {list(dataset.labels)}")
        if not (row["text"] or "").strip():
            raise ValueError(f"{path}:{line}: found no text; expected one to label")
        if dataset.task == "multiple-choice" and not re.search(rf"\b{re.escape(row['label'])}\. ", row["text"]):
            raise ValueError(f"{path}:{line}: found no choice {row['label'] + '. '!r} in the text; expected the answer")
    if not rows:
        raise ValueError(f"{path}: found no row; expected one or more")


def _rows(path: Path) -> Iterator[tuple[int, dict[str | None, Any]]]:
    """(line number, row) of a CSV file of text and label. Raises: ValueError that names file and line."""
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
            yield reader.line_num, row
    except csv.Error as error:  # only the inner reader has counted the line it failed in
        line = reader.reader.line_num
        raise ValueError(f"{path}:{line}: found {error}; expected CSV of text and label") from error
