"""Segments: a text -> the prose in it, in pieces short enough to translate, and everything else, kept as it is."""

import re
from collections.abc import Callable, Iterator, Sequence

VERBATIM = re.compile(
    r"""
    ^[^\S\n]*(?P<fence>`{3,}|~{3,})[^`\n]*                           # fenced code, to its closing fence or, as in
        (?:\n[\s\S]*?(?:^[^\S\n]*(?P=fence)[`~]*[^\S\n]*$|\Z)|\Z)    # CommonMark, to the end of the text
    | <{3,}\w*(?:>{3,})?                                             # a delimiter of Infomaniak's format
    | (?:\A|^[^\S\n]*\n)                                             # code by indentation: from the start, or a blank
        (?P<code>(?:[ ]{4}|[ ]{0,3}\t)[^\S\n]*                       # line, where it does not begin with a list item,
            (?!(?:[-*+•]|\d{1,3}[.)])[^\S\n])\S.*
            (?:\n(?:[ ]{4}|[ ]{0,3}\t)[^\S\n]*\S.*)*                 # to a blank line or the end of the text
        )(?=\n[^\S\n]*(?:\n|\Z)|\Z)
    | ^[^\S\n]*\n                                                    # a blank line
    | ^(?:[^\S\n]+|(?:[-*+>•]|\#{1,6}|\d{1,3}[.)])[^\S\n]+)+         # indentation and marks before a line
    | (?<=\S)[^\S\n]{2,}$                                            # a Markdown line break
    """,
    re.MULTILINE | re.VERBOSE,
)
OUTER = re.compile(r"^[ ]{0,3}(?!\s).+", re.MULTILINE)
"""A line that is not indented as code is."""
ITEM = re.compile(r"[ ]*(?:[-*+•]|\d{1,3}[.)])[^\S\n]")
"""How a list item begins."""
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
    for start, end in [*_kept(text), (len(text), len(text))]:
        for piece in cut(text[at:start], fits):
            prose = piece.strip() if letters(piece) else ""
            before, _, after = piece.partition(prose) if prose else (piece, "", "")
            parts += [(before, False), (prose, True), (after, False)]
        parts.append((text[start:end], False))
        at = end
    return [part for part in parts if part[0]]


def _kept(text: str) -> Iterator[tuple[int, int]]:
    """Where `text` is kept as it is. What is indented under a list item goes on with the item and is no code."""
    at = 0
    while found := VERBATIM.search(text, at):
        start, at = found.span()
        if found["code"]:
            outer = OUTER.findall(text, 0, start)
            at = found.start("code") if outer and ITEM.match(outer[-1]) else at
        yield start, at


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
