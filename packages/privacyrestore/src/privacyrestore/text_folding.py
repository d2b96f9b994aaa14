"""Texts as detection compares them: case, accents, invisible letters and look-alikes do not count.

Every folded letter knows which letters of the text it stands for.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,31});?")
_TOKEN = re.compile(r"[^\W_]+|[^\w\s]")
_BROKEN = re.compile(r"(?<=[^\W\d_])-[ \t]*\r?\n\s*(?=[^\W\d_])")
_LOOK_ALIKES = dict(
    zip(
        "аеорсухіјѕԁһԛԝкмтнвгαονρτυικεηχβγ",
        "aeopcyxijsdhqwkmthbraovptuikenxby",
        strict=True,
    )
)
"""Cyrillic and Greek letters, after case folding, that are read as Latin ones."""

Letters = list[tuple[str, int, int]]


@dataclass(frozen=True)
class Token:
    """A word, or a sign that is neither part of one nor blank.

    Attributes:
        text: folded. In scripts that are written without blanks each letter is a word.
        start, end: where it stands in the text as given.
    """

    text: str
    start: int
    end: int


def fold(text: str) -> str:
    """The words and signs of a text as they are compared, with a blank between any two."""
    return " ".join(token.text for token in tokens(text))


def tokens(text: str) -> list[Token]:
    """A text's words and signs, folded.

    Folding resolves character references of HTML, also those within others; decomposes (NFKD);
    drops accents and what has no width; folds case; reads look-alikes as Latin letters; and takes
    hyphens, dashes and underscores for blanks.
    """
    letters = _folded(_resolved([(letter, i, i + 1) for i, letter in enumerate(text)]))
    joined = "".join(letter for letter, _, _ in letters)
    found = []
    for match in _TOKEN.finditer(joined):
        for start, end in _words(match.group(), match.start()):
            found.append(Token(joined[start:end], letters[start][1], letters[end - 1][2]))
    return found


def views(text: str) -> Iterator[tuple[str, list[int] | None]]:
    """The text, and where words are broken at the end of a line, the text with them whole.

    Yields:
        A text, and for each of its letters the place in the one given; None for the text itself.
    """
    yield text, None
    if not _BROKEN.search(text):
        return
    kept: list[int] = []
    last = 0
    for match in _BROKEN.finditer(text):
        kept += range(last, match.start())
        last = match.end()
    kept += range(last, len(text))
    yield "".join(text[i] for i in kept), kept


def _resolved(letters: Letters) -> Letters:
    """Without references to characters; one can hide in what another resolves to."""
    for _ in range(4):
        text = "".join(letter for letter, _, _ in letters)
        found, last, changed = [], 0, False
        for match in _ENTITY.finditer(text):
            meant = html.unescape(match.group())
            if meant == match.group():
                continue
            found += letters[last : match.start()]
            start, end = letters[match.start()][1], letters[match.end() - 1][2]
            found += [(letter, start, end) for letter in meant]
            last, changed = match.end(), True
        if not changed:
            return letters
        letters = found + letters[last:]
    return letters


def _folded(letters: Letters) -> Letters:
    found = []
    for letter, start, end in letters:
        if letter.isascii():
            plain = " " if letter in "-_" or letter <= " " else letter.lower()
            found.append((plain, start, end))
            continue
        for part in unicodedata.normalize("NFKD", letter):
            kind = unicodedata.category(part)
            if kind in ("Mn", "Me", "Cf") or part == "\u115f":
                continue
            if kind in ("Pd", "Pc", "Zs", "Zl", "Zp", "Cc"):
                found.append((" ", start, end))
                continue
            if part in "\u2018\u2019\u02bc":
                part = "'"
            found += [(_LOOK_ALIKES.get(p, p), start, end) for p in part.casefold()]
    return found


def _words(token: str, start: int) -> Iterator[tuple[int, int]]:
    """Places of the words in a run of letters: parted before and after each unspaced letter."""
    if token.isascii():
        yield start, start + len(token)
        return
    begun = None
    for i, letter in enumerate(token):
        if _unspaced(letter):
            if begun is not None:
                yield start + begun, start + i
            yield start + i, start + i + 1
            begun = None
        elif begun is None:
            begun = i
    if begun is not None:
        yield start + begun, start + len(token)


def _unspaced(letter: str) -> bool:
    """Whether the letter's script is written without blanks, or hangs particles on its words."""
    code = ord(letter)
    return (
        0x0E00 <= code <= 0x0EFF  # Thai, Lao
        or 0x1000 <= code <= 0x109F  # Burmese
        or 0x1100 <= code <= 0x11FF  # Korean, which NFKD takes apart
        or 0x1780 <= code <= 0x17FF  # Khmer
        or 0x3040 <= code <= 0x30FF  # Japanese
        or 0x3400 <= code <= 0x9FFF  # Han
        or 0x20000 <= code <= 0x3FFFF
    )
