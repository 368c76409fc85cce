"""The toy world: questions, answers and their true quality in four parallel languages.

A question asks about one animal. An answer is a plan (how it opens, which facts in which order, how it closes) that can
be rendered into any language, so translations are exact. Three marks are shared by all languages: "!" ends a polite
opener, ":)" a closing and "..." a rude remark; they carry most of what an English-only reward model can learn for the
other languages. The `oracle` gives the true quality of an answer; no model ever sees it outside English preferences
(reward model) and judged pairs about training nouns (judge).

Every noun is a plural of masculine gender in French and Spanish, so that one form fits every template.
Pure standard library: importing this costs nothing.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

LANGUAGES = ("en", "de", "fr", "es")

NOUNS = [
    dict(zip(LANGUAGES, line.split(), strict=True))
    for line in """\
cats Katzen chats gatos
dogs Hunde chiens perros
horses Pferde chevaux caballos
birds Vögel oiseaux pájaros
wolves Wölfe loups lobos
bears Bären ours osos
ducks Enten canards patos
donkeys Esel ânes burros
elephants Elefanten éléphants elefantes
dolphins Delfine dauphins delfines
rabbits Kaninchen lapins conejos
pigs Schweine cochons cerdos
foxes Füchse renards zorros
monkeys Affen singes monos
sharks Haie requins tiburones
bulls Stiere taureaux toros
penguins Pinguine pingouins pingüinos
camels Kamele chameaux camellos
crabs Krebse crabes cangrejos
owls Eulen hiboux búhos
snails Schnecken escargots caracoles
roosters Hähne coqs gallos
deer Hirsche cerfs ciervos
crows Raben corbeaux cuervos""".splitlines()
]
TRAIN, DEV, TEST = range(0, 16), range(16, 19), range(19, 24)
"""Noun indices: preferences use only `TRAIN`; settings were chosen on `DEV`; `TEST` is for the final measurement."""

KINDS = ("knowledge", "story", "life", "child")
QUESTIONS = {
    "en": (
        "What do you know about {}?",
        "Tell me something about {}.",
        "How do {} live?",
        "Can you explain {} to a child?",
    ),
    "de": (
        "Was weißt du über {}?",
        "Erzähl mir etwas über {}.",
        "Wie leben {}?",
        "Kannst du {} einem Kind erklären?",
    ),
    "fr": (
        "Que sais-tu sur les {}?",
        "Raconte-moi quelque chose sur les {}.",
        "Comment vivent les {}?",
        "Peux-tu expliquer les {} à un enfant?",
    ),
    "es": (
        "¿Qué sabes sobre los {}?",
        "Cuéntame algo sobre los {}.",
        "¿Cómo viven los {}?",
        "¿Puedes explicar los {} a un niño?",
    ),
}
LEADS = {
    "en": ("", "Hello.", "I have a question.", "I am writing a book.", "This is for my school."),
    "de": ("", "Hallo.", "Ich habe eine Frage.", "Ich schreibe ein Buch.", "Das ist für meine Schule."),
    "fr": ("", "Bonjour.", "J'ai une question.", "J'écris un livre.", "C'est pour mon école."),
    "es": ("", "Hola.", "Tengo una pregunta.", "Estoy escribiendo un libro.", "Esto es para mi escuela."),
}
FACTS = {
    "en": (
        "Many {} live near the river.",
        "Most {} eat in the morning.",
        "Some {} sleep all day.",
        "Young {} learn very fast.",
        "In winter {} look for warm places.",
    ),
    "de": (
        "Viele {} leben nahe am Fluss.",
        "Die meisten {} fressen am Morgen.",
        "Manche {} schlafen den ganzen Tag.",
        "Junge {} lernen sehr schnell.",
        "Im Winter suchen {} warme Orte.",
    ),
    "fr": (
        "De nombreux {} vivent près de la rivière.",
        "La plupart des {} mangent le matin.",
        "Certains {} dorment toute la journée.",
        "Les jeunes {} apprennent très vite.",
        "En hiver les {} cherchent des endroits chauds.",
    ),
    "es": (
        "Muchos {} viven cerca del río.",
        "La mayoría de los {} comen por la mañana.",
        "Algunos {} duermen todo el día.",
        "Los {} jóvenes aprenden muy rápido.",
        "En invierno los {} buscan lugares cálidos.",
    ),
}
POLITE = {
    "en": ("That is a good question!", "I am glad you ask!"),
    "de": ("Das ist eine gute Frage!", "Schön, dass du fragst!"),
    "fr": ("C'est une bonne question!", "Je suis ravi de répondre!"),
    "es": ("¡Es una buena pregunta!", "¡Me alegra tu pregunta!"),
}
RUDE = {
    "en": ("You should know this already...", "What a boring subject..."),
    "de": ("Das solltest du schon wissen...", "Was für ein langweiliges Thema..."),
    "fr": ("Tu devrais déjà le savoir...", "Quel sujet ennuyeux..."),
    "es": ("Ya deberías saberlo...", "Qué tema tan aburrido..."),
}
CLOSING = {
    "en": ("I hope this helps you :)", "Ask me again any time :)"),
    "de": ("Ich hoffe, das hilft dir :)", "Frag mich gerne wieder :)"),
    "fr": ("J'espère que cela t'aide :)", "Demande-moi quand tu veux :)"),
    "es": ("Espero que esto te ayude :)", "Pregúntame cuando quieras :)"),
}
WORD = re.compile(r"[^\W\d_]+")
SENTENCE_END = re.compile(r"(?<=[.!?)])\s+")
VERDICT = re.compile(r"\[\[(A|B|C)\]\]")
"""The judge's verdict: A or B is better, or C, a tie. Where there are several, the last one counts."""


Opener = Literal["none", "polite", "rude"]


@dataclass(frozen=True)
class Question:
    """A question in no particular language."""

    noun: int  # index into NOUNS
    kind: int  # index into KINDS
    lead: int = 0  # index into LEADS; 0 is none

    def render(self, language: str) -> str:
        """Return the question as text in `language`."""
        question = QUESTIONS[language][self.kind].format(NOUNS[self.noun][language])
        return f"{LEADS[language][self.lead]} {question}".lstrip()


@dataclass(frozen=True)
class Answer:
    """An answer in no particular language."""

    noun: int  # index into NOUNS
    facts: tuple[int, ...]  # indices into FACTS, in the order told
    opener: Opener = "none"
    closing: bool = False
    wording: int = 0  # 0 or 1: which wording of opener and closing

    def render(self, language: str) -> str:
        """Return the answer as text in `language`."""
        openers = {"none": [], "polite": [POLITE[language][self.wording]], "rude": [RUDE[language][self.wording]]}
        facts = [FACTS[language][fact].format(NOUNS[self.noun][language]) for fact in self.facts]
        closing = [CLOSING[language][self.wording]] if self.closing else []
        return " ".join(openers[self.opener] + facts + closing)


@cache
def _questions(language: str) -> dict[str, Question]:
    """Return every question of `language` by its text."""
    plans = (Question(*plan) for plan in product(range(len(NOUNS)), range(len(KINDS)), range(len(LEADS["en"]))))
    return {plan.render(language): plan for plan in plans}


@cache
def _vocabulary(language: str) -> frozenset[str]:
    """Return every word an answer in `language` can hold."""
    templates = (*FACTS[language], *POLITE[language], *RUDE[language], *CLOSING[language])
    nouns = (noun[language] for noun in NOUNS)
    return frozenset(word for text in (*templates, *nouns) for word in WORD.findall(text))


def read_question(language: str, text: str) -> Question:
    """Return the plan behind a question's text.

    Raises:
        ValueError: the text is no question of this world in `language`.
    """
    question = _questions(language).get(text)
    if question is None:
        raise ValueError(
            f"found {text!r}; expected a toy question in {language!r}, like {next(iter(_questions(language)))!r}"
        )
    return question


def in_language(language: str, answer: str) -> bool:
    """Return whether the answer has words and every one of them belongs to `language` (exact, by vocabulary)."""
    words = WORD.findall(answer)
    return bool(words) and _vocabulary(language).issuperset(words)


def oracle(language: str, question: str, answer: str) -> float:
    """Return the true quality of an answer, from -1.5 to 3.5, higher is better. Hidden from every model.

    A rude answer is worth -1. Any other: (f - 1) / 2 for f different facts about the noun asked for, in the language
    asked in, or -1 without any; +1 for a polite opener at the start; +0.5 for a closing at the end; -0.5 if there is
    anything else (a repetition, another topic or language, a broken sentence).
    """
    noun = NOUNS[read_question(language, question).noun][language]
    sentences = SENTENCE_END.split(answer.strip())
    if any(sentence in RUDE[language] for sentence in sentences):
        return -1.0
    opened = sentences[0] in POLITE[language]
    closed = sentences[-1] in CLOSING[language]
    facts = {fact.format(noun) for fact in FACTS[language]}.intersection(sentences)
    residue = len(sentences) > opened + len(facts) + closed
    return (len(facts) - 1) / 2 - 0.5 * (not facts) + opened + 0.5 * closed - 0.5 * residue


def draw_question(rng: random.Random, nouns: range) -> Question:
    """Return a random question about one of `nouns`."""
    return Question(rng.choice(nouns), rng.randrange(len(KINDS)), rng.randrange(len(LEADS["en"])))


def draw_answer(rng: random.Random, noun: int) -> Answer:
    """Return a random answer as the untuned policy gives it: sometimes rude, often curt, seldom off topic."""
    if rng.random() < 0.05:
        noun = rng.randrange(len(NOUNS))
    count = rng.choices((1, 2, 3, 4, 5), (0.4, 0.3, 0.15, 0.1, 0.05))[0]
    opener: Opener = rng.choices(("rude", "polite", "none"), (0.1, 0.315, 0.585))[0]
    return Answer(noun, tuple(rng.sample(range(5), count)), opener, rng.random() < 0.3, rng.randrange(2))


def draw_good_answer(rng: random.Random, noun: int) -> Answer:
    """Return a random answer as a careful writer gives it: on topic, two to four facts, usually polite."""
    facts = tuple(rng.sample(range(5), rng.choice((2, 3, 4))))
    opener: Opener = "polite" if rng.random() < 0.6 else "none"
    return Answer(noun, facts, opener, rng.random() < 0.6, rng.randrange(2))


def judge_prompt(question: str, answer_a: str, answer_b: str) -> str:
    """Return the toy judge's prompt (one user message); it replies with two scores and a verdict, `8 3 [[A]]`."""
    return f"{question} [A] {answer_a} [B] {answer_b} [?]"


def judge_reply(language: str, question: str, answer_a: str, answer_b: str) -> str:
    """Return what a perfect judge writes: each answer's oracle as a digit (-1.5 is 0, 3 is 9), then the verdict."""
    a, b = (oracle(language, question, answer) for answer in (answer_a, answer_b))
    verdict = "A" if a > b else "B" if b > a else "C"
    return f"{round(2 * a + 3)} {round(2 * b + 3)} [[{verdict}]]"
