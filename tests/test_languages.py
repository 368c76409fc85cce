"""Languages: codes that are refused, and what the identifier makes of one sentence each."""

import math

import pytest

from croco import languages

SENTENCES = {
    "da": "Jeg vil gerne vide, hvordan vejret bliver i morgen, og om vi skal tage en paraply med.",
    "nl": "Ik zou graag willen weten hoe het weer morgen wordt en of we een paraplu nodig hebben.",
    "en": "I would like to know what the weather will be tomorrow and whether we need an umbrella.",
    "fr": "Je voudrais savoir quel temps il fera demain et si nous avons besoin d'un parapluie.",
    "de": "Ich möchte gerne wissen, wie das Wetter morgen wird und ob wir einen Regenschirm brauchen.",
    "it": "Vorrei sapere che tempo farà domani e se abbiamo bisogno di un ombrello.",
    "es": "Me gustaría saber qué tiempo hará mañana y si necesitamos llevar un paraguas.",
    "gl": "Gustaríame saber que tempo fará mañá e se necesitamos levar un paraugas connosco.",
    "ga": "Ba mhaith liom a fháil amach cén aimsir a bheidh againn amárach agus an bhfuil scáth fearthainne uainn.",
    "mt": "Nixtieq inkun naf x'temp se jagħmel għada u jekk għandniex bżonn umbrella magħna.",
    "cy": "Hoffwn wybod sut dywydd fydd hi yfory ac a oes angen ymbarél arnom ni.",
    "no": "Jeg vil gjerne vite hvordan været blir i morgen, og om vi trenger å ta med en paraply.",
    "pt": "Gostaria de saber como vai estar o tempo amanhã e se precisamos de levar um guarda-chuva.",
    "sv": "Jag skulle vilja veta hur vädret blir i morgon och om vi behöver ta med ett paraply.",
    "fi": "Haluaisin tietää, millainen sää huomenna on ja tarvitsemmeko me sateenvarjoa.",
}


@pytest.mark.parametrize("code", SENTENCES)
def test_every_language_is_told_from_the_others(code: str) -> None:
    assert languages.identify(SENTENCES[code]) == code


def test_every_language_has_a_sentence_here() -> None:
    assert {language.base for language in languages.LANGUAGES.values()} == set(SENTENCES)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Я хотел бы узнать, какая погода будет завтра", "ru"),
        ("Chciałbym wiedzieć, jaka pogoda będzie jutro i czy potrzebujemy parasola.", "pl"),
        ("Eg vil gjerne vite korleis vêret blir i morgon, og om vi treng å ta med ein paraply.", "no"),
    ],
)
def test_a_language_that_is_none_of_ours_is_not_taken_for_one(text: str, code: str) -> None:
    assert languages.identify(text) == code


@pytest.mark.parametrize("text", ["", "   ", "42 + 1 = 43", "!?"])
def test_a_text_without_letters_is_in_no_language(text: str) -> None:
    assert languages.identify(text) is None


def test_fidelity_is_the_share_in_the_language_asked_for() -> None:
    texts = [SENTENCES["pt"], SENTENCES["en"], SENTENCES["da"], "42"]
    assert languages.fidelity(texts, ["pt-PT", "en", "sv", "da"]) == 0.5
    assert math.isnan(languages.fidelity([], []))


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        ([], r"languages: found \[\]; expected one or more codes"),
        ([""], "language: found ''; expected one of da, nl"),
        (["da", "xx"], "language: found 'xx'; expected one of"),
        (["da", "da"], r"languages: found \['da', 'da'\]; expected one or more codes, each once"),
    ],
)
def test_wrong_codes_are_refused(codes: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        languages.check(codes)
