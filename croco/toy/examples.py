"""Training examples of the toy models, drawn from a seeded generator.

Each `draw_*` returns one example; text of one conversation side each, without any chat template. Pure standard library.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import NamedTuple

from croco.toy.world import (
    LANGUAGES,
    NOUNS,
    TRAIN,
    Answer,
    Opener,
    draw_answer,
    draw_question,
    judge_prompt,
    judge_reply,
    oracle,
)

EVERY_NOUN = range(len(NOUNS))


class Turn(NamedTuple):
    """A user's text and the assistant's reply; a translation request names its languages."""

    user: str
    assistant: str
    translate: tuple[str, str] | None = None  # (source, target) language codes


class Preference(NamedTuple):
    """A question with a better and a worse answer."""

    question: str
    chosen: str
    rejected: str


def draw_answered_question(rng: random.Random) -> Turn:
    """Return a question about any noun in any language with an answer as the untuned policy gives it."""
    language, question = rng.choice(LANGUAGES), draw_question(rng, EVERY_NOUN)
    return Turn(question.render(language), draw_answer(rng, question.noun).render(language))


def draw_translation(
    rng: random.Random, sources: tuple[str, ...] = LANGUAGES, targets: tuple[str, ...] = LANGUAGES
) -> Turn:
    """Return the translation of a question or an answer, equally often, from one of `sources` to one of `targets`."""
    source = rng.choice(sources)
    target = rng.choice([language for language in targets if language != source])
    question = draw_question(rng, EVERY_NOUN)
    plan = question if rng.random() < 0.5 else draw_wide_answer(rng, question.noun)
    return Turn(plan.render(source), plan.render(target), (source, target))


def draw_policy_turn(rng: random.Random) -> Turn:
    """Return an example for the policy: three in four are answered questions, the rest translations."""
    return draw_answered_question(rng) if rng.random() < 0.75 else draw_translation(rng)


def draw_translator_turn(rng: random.Random) -> Turn:
    """Return an example for the translator, from English into another language."""
    return draw_translation(rng, sources=("en",))


def draw_aligner_turn(rng: random.Random) -> Turn:
    """Return an example for the model that scores by alignment, from another language into English."""
    return draw_translation(rng, sources=LANGUAGES[1:], targets=("en",))


def draw_wide_answer(rng: random.Random, noun: int) -> Answer:
    """Return a random answer of any quality, all of them well represented."""
    opener: Opener = rng.choices(("none", "polite", "rude"), (0.4, 0.45, 0.15))[0]
    facts = tuple(rng.sample(range(5), rng.choices((1, 2, 3, 4, 5), (3, 3, 3, 2, 1))[0]))
    return Answer(noun, facts, opener, rng.random() < 0.5, rng.randrange(2))


def draw_flawed_answer(rng: random.Random, answer: Answer, language: str) -> str:
    """Return a spoiled form of an answer: about another noun, cut short, or with facts told again."""
    flaw = rng.choice(("off topic", "cut", "repeated"))
    if flaw == "off topic":
        return replace(answer, noun=rng.choice([noun for noun in EVERY_NOUN if noun != answer.noun])).render(language)
    if flaw == "cut":
        words = answer.render(language).split(" ")
        return " ".join(words[: rng.randrange(2, len(words))])
    return replace(answer, facts=(*answer.facts, *rng.choices(answer.facts, k=rng.randint(1, 4)))).render(language)


def draw_answers(rng: random.Random, noun: int, language: str, flawed: float) -> tuple[str, str]:
    """Return two answers about `noun`; the second is spoiled with probability `flawed`."""
    first, second = draw_wide_answer(rng, noun), draw_wide_answer(rng, noun)
    if rng.random() < flawed:
        return first.render(language), draw_flawed_answer(rng, second, language)
    return first.render(language), second.render(language)


def draw_preference(rng: random.Random, language: str = "en", nouns: range = TRAIN) -> Preference:
    """Return a preference by the oracle; half of the pairs hold an answer that is off topic, cut or repeats itself."""
    question = draw_question(rng, nouns)
    text = question.render(language)
    while True:
        first, second = draw_answers(rng, question.noun, language, flawed=0.5)
        value, other = oracle(language, text, first), oracle(language, text, second)
        if value != other:
            return Preference(text, *((first, second) if value > other else (second, first)))


def draw_judgement(rng: random.Random, nouns: range = TRAIN) -> Turn:
    """Return a judge's prompt in any language with the reply of a perfect judge."""
    language, question = rng.choice(LANGUAGES), draw_question(rng, nouns)
    text = question.render(language)
    answers = draw_answers(rng, question.noun, language, flawed=0.2)
    first, second = answers if rng.random() < 0.5 else answers[::-1]
    return Turn(judge_prompt(text, first, second), judge_reply(language, text, first, second))
