"""Languages: the codes this project knows, and which language a text is written in."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Language:
    """A language the identifier knows."""

    code: str
    """ISO 639-1, or BCP-47 where a region matters."""
    name: str
    """English name, as prompts to a translator or judge spell it."""
    translated: bool
    """Among TranslateGemma's 55 WMT24++ languages, as far as public text says (unconfirmed)."""

    @property
    def base(self) -> str:
        """The code without its region."""
        return self.code.split("-")[0]


LANGUAGES = {
    code: Language(code, name, translated)
    for code, name, translated in [
        ("da", "Danish", True),
        ("nl", "Dutch", True),
        ("en", "English", True),
        ("fr", "French", True),
        ("de", "German", True),
        ("it", "Italian", True),
        ("es", "Spanish", True),
        ("gl", "Galician", False),
        ("ga", "Irish", False),
        ("mt", "Maltese", False),
        ("cy", "Welsh", False),
        ("no", "Norwegian", True),
        ("pt", "Portuguese", True),
        ("pt-BR", "Brazilian Portuguese", True),
        ("pt-PT", "European Portuguese", True),
        ("sv", "Swedish", True),
        ("fi", "Finnish", True),
    ]
}
MAIN = ("da", "nl", "en", "fr", "de", "it", "es")
"""The seven languages of the paper's main study (paper, via the order of its released EuroEval script)."""


def get(code: str) -> Language:
    """The language of `code`. Raises: ValueError for a code this project does not know."""
    if code not in LANGUAGES:
        raise ValueError(f"language: found {code!r}; expected one of {', '.join(LANGUAGES)}")
    return LANGUAGES[code]


def check(codes: Iterable[str]) -> tuple[str, ...]:
    """`codes` as a tuple. Raises: ValueError for an unknown code, a code given twice, or none at all."""
    codes = tuple(get(code).code for code in codes)
    if not codes or len(set(codes)) < len(codes):
        raise ValueError(f"languages: found {list(codes)}; expected one or more codes, each once")
    return codes


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    # The same scores in .6 of the time: numpy would widen the file's half floats for every text anew.
    identifier.nb_ptc = identifier.nb_ptc.astype("float32")
    return identifier


def identify(text: str) -> str | None:
    """Which language `text` is in (ISO 639, without region); None where it has no letter to go by.

    Any of the identifier's 140 languages, so that a text in none of ours is not taken for one; Nynorsk is Norwegian.
    Source: py3langid, which ships its model and knows every language above.
    """
    if not any(character.isalpha() for character in text):
        return None
    code = str(_identifier().classify(text)[0])
    return {"nb": "no", "nn": "no"}.get(code, code)


def fidelity(texts: Sequence[str], asked: Sequence[str]) -> float:
    """Share of texts in the language asked for, in [0, 1]; a text without letters is not in any. nan for no texts."""
    hits = [identify(text) == get(code).base for text, code in zip(texts, asked, strict=True)]
    return sum(hits) / len(hits) if hits else float("nan")
