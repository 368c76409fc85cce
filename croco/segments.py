"""Segments: a text -> the prose in it, in pieces short enough to translate, and everything else, kept as it is."""

import re
from collections.abc import Callable, Sequence

VERBATIM = re.compile(
    r"""
    ^[^\S\n]*(?P<fence>`{3,}|~{3,})[^`\n]*                           # fenced code, to its closing fence or, as in
        (?:\n[\s\S]*?(?:^[^\S\n]*(?P=fence)[`~]*[^\S\n]*$|\Z)|\Z)    # CommonMark, to the end of the text
    | <{3,}\w*(?:>{3,})?                                             # a delimiter of Infomaniak's format
    | ^[^\S\n]*\n                                                    # a blank line
    | ^(?:[^\S\n]+|(?:[-*+>•]|\#{1,6}|\d{1,3}[.)])[^\S\n]+)+         # indentation and marks before a line
    | (?<=\S)[^\S\n]{2,}$                                            # a Markdown line break
    """,
    re.MULTILINE | re.VERBOSE,
)
BORDERS = tuple(re.compile(border) for border in (r"(?<=\n)", r"(?<=[.!?…:;]\s)", r"(?<=\s)"))
"""Where prose may be cut, best first: after a line, a sentence, a word."""

Part = tuple[str, bool]
"""A piece of a text, and whether it goes to the translator."""
Fits = Callable[[str], bool]
"""Whether a piece is short enough to go to the translator whole."""


def split(text: str, fits: Fits) -> list[Part]:
    """The parts of `text`, in order; joined they are `text` again, to the character."""
    parts: list[Part] = []
    at = 0
    for kept in [*VERBATIM.finditer(text), None]:
        for piece in cut(text[at : kept.start() if kept else len(text)], fits):
            prose = piece.strip() if letters(piece) else ""
            before, _, after = piece.partition(prose) if prose else (piece, "", "")
            parts += [(before, False), (prose, True), (after, False)]
        if kept:
            parts.append((kept.group(), False))
            at = kept.end()
    return [part for part in parts if part[0]]


def cut(text: str, fits: Fits, borders: Sequence[re.Pattern[str]] = BORDERS) -> list[str]:
    """`text` in as few pieces as fit, cut at the best border there is; a word that does not fit is left whole."""
    if not borders or fits(text):
        return [text]
    units, pieces = [unit for unit in borders[0].split(text) if unit], []
    while units:
        number = _most(units, fits)
        pieces += ["".join(units[:number])] if number else cut(units[0], fits, borders[1:])
        units = units[number or 1 :]
    return pieces


def _most(units: Sequence[str], fits: Fits) -> int:
    """How many of the first units fit together; tries few more than that, as a try costs a tokenisation."""
    high = 1
    while high <= len(units) and fits("".join(units[:high])):
        high *= 2
    low, high = high // 2, min(high, len(units) + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits("".join(units[:middle])) else (low, middle)
    return low


def letters(text: str) -> int:
    """How many characters are letters of some alphabet."""
    return sum(map(str.isalpha, text))
