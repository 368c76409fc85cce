"""Toy data sets for EuroEval: two a language, in the folder format of croco/benchmark_datasets.py.

toy-tone-LANGUAGE     classification: is this answer kind or rude?
toy-topic-LANGUAGE    multiple choice: which of two animals is this sentence about?

Both ask about the nouns of the final measurement only. Pure standard library.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path

from croco.toy.world import DEV, FACTS, LANGUAGES, NOUNS, TEST, TRAIN, Answer

ROWS = {"train": (TRAIN, 16), "val": (DEV, 16), "test": (TEST, 64)}
"""Split -> nouns its rows are about, and how many rows."""
TONE = {"en": ("kind", "rude"), "de": ("nett", "grob"), "fr": ("poli", "grossier"), "es": ("amable", "grosero")}
"""What the model has to answer to a kind and to a rude text."""
OR = {"en": "or", "de": "oder", "fr": "ou", "es": "o"}

Draw = Callable[[random.Random, str, range], tuple[str, str]]
"""(generator, language, nouns) -> (text, label)."""


def draw_tone(rng: random.Random, language: str, nouns: range) -> tuple[str, str]:
    """Return an answer that opens politely or rudely, and which."""
    label = rng.choice(("kind", "rude"))
    facts = tuple(rng.sample(range(5), rng.choice((1, 2))))
    answer = Answer(rng.choice(nouns), facts, "polite" if label == "kind" else "rude", wording=rng.randrange(2))
    return answer.render(language), label


def draw_topic(rng: random.Random, language: str, nouns: range) -> tuple[str, str]:
    """Return a fact about one of two animals with both as choices a and b, and which it is."""
    names = [NOUNS[noun][language] for noun in rng.sample(nouns, 2)]
    label = rng.choice("ab")
    fact = rng.choice(FACTS[language]).format(names["ab".index(label)])
    return f"{fact} a. {names[0]} b. {names[1]}", label


def tone_prompt(language: str) -> str:
    """Return how the policy is asked for the tone of {text}: `kind or rude? {text}`."""
    kind, rude = TONE[language]
    return f"{kind} {OR[language]} {rude}? {{text}}"


def topic_prompt(language: str) -> str:
    """Return how the policy is asked for the topic of {text}: `a or b? {text}`."""
    return f"a {OR[language]} b? {{text}}"


def write(out: Path, seed: int) -> None:
    """Write the data sets to folder `out`."""
    entries = []
    for language in LANGUAGES:
        words = dict(zip(("kind", "rude"), TONE[language], strict=True))
        tone = {"task": "classification", "labels": ["kind", "rude"], "words": words, "prompt": tone_prompt(language)}
        topic = {"task": "multiple-choice", "labels": ["a", "b"], "prompt": topic_prompt(language)}
        for name, entry, draw in (("tone", tone, draw_tone), ("topic", topic, draw_topic)):
            entries.append({"name": f"toy-{name}-{language}", "language": language, **entry})
            _write_rows(out / f"toy-{name}-{language}", language, draw, random.Random(f"{seed} {name} {language}"))
    (out / "datasets.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def _write_rows(folder: Path, language: str, draw: Draw, rng: random.Random) -> None:
    """Write one data set's splits."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, (nouns, number) in ROWS.items():
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows(draw(rng, language, nouns) for _ in range(number))
