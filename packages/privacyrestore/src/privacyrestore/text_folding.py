"""Texts as detection compares them: case, accents, invisible letters and look-alikes do not count.

Every folded letter knows which letters of the text it stands for.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

_AMP = r"(?:amp;|#0*38;|#[xX]0*26;)*"
_ENTITY = re.compile(rf"&{_AMP}(?:#[0-9]{{1,32}}|#[xX][0-9a-fA-F]{{1,32}}|[a-zA-Z]{{2,31}});?")
_NESTED = re.compile(rf"&{_AMP}")
_MOST_NESTED = 4
_TOKEN = re.compile(r"[^\W_]+(?:'s(?![^\W_]))?|[^\w\s']")
_FOREIGN = re.compile(r"[^\x00-\x7f]")
_BLANKS = {code: " " for code in (*range(33), 127, *map(ord, "-_*~`|>"))}
_APOSTROPHES = "\u2018\u2019\u201b\u02bb\u02bc\u02b9\u00b4\u2032\uff07\ua78c"
_TAG = re.compile(r"<[a-zA-Z/!][^<>]{0,200}>")
_BROKEN = re.compile(r"(?<=[^\W\d_])[-\u2010\u00ad][ \t]*\r?\n[\s>]*(?=[^\W\d_])")
_LOOK_ALIKES = dict(
    zip(
        "аеорсухіјѕԁһԛԝкмтнвгґӏѵαονρτυικεηχβγωıɡøłđħʟօոսհ",
        "aeopcyxijsdhqwkmthbrrlvaovptuikenxbywigoldhlonuh",
        strict=True,
    )
)
"""Letters, after case folding, that are read as Latin ones."""

_GREEK_CAPITALS = str.maketrans(
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7",
    "ABEZHIKMNOPTYX",
)
"""Those whose small letters look like others, or like none."""


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


@dataclass
class _Letters:
    """A text, and for each of its letters the first and the last plus one of those it stands for.

    In a text that is only ASCII each stands for itself.
    """

    text: str
    starts: list[int] | range
    ends: list[int] | range


@dataclass
class _Growing:
    """A text while it is put together."""

    parts: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def keep(self, letters: _Letters, start: int, end: int) -> None:
        self.parts.append(letters.text[start:end])
        self.starts += letters.starts[start:end]
        self.ends += letters.ends[start:end]

    def add(self, text: str, start: int, end: int) -> None:
        self.parts.append(text)
        self.starts += [start] * len(text)
        self.ends += [end] * len(text)

    def done(self) -> _Letters:
        return _Letters("".join(self.parts), self.starts, self.ends)


def fold(text: str) -> str:
    """The words and signs of a text as they are compared, with a blank between any two."""
    return " ".join(token.text for token in tokens(text))


def tokens(text: str) -> list[Token]:
    """A text's words and signs, folded.

    Folding resolves character references of HTML, also those within others; decomposes (NFKD);
    drops accents and what has no width; folds case; reads look-alikes as Latin letters; takes
    hyphens, underscores and marks of emphasis for blanks; and joins the 's of a possessive.
    """
    letters = _folded(_resolved(_Letters(text, range(len(text)), range(1, len(text) + 1))))
    folded, starts, ends = letters.text, letters.starts, letters.ends
    found = []
    for match in _TOKEN.finditer(folded):
        word, first = match.group(), match.start()
        if word.isascii():
            place = (starts[first], ends[match.end() - 1])
            found.append(Token(word.replace("'", ""), *place))
            continue
        for start, end in _words(word, first):
            said = folded[start:end].replace("'", "")
            if said:
                found.append(Token(said, starts[start], ends[end - 1]))
    return found


def views(text: str) -> Iterator[tuple[str, range | list[int]]]:
    """The text, and other ways in which it may be read.

    Yields:
        A text, and for each of its letters the place in the one given. First the text itself; then,
        where there are any, without tags of HTML; and with words whole that the end of a line
        parts. Each of these also with Greek capitals as the Latin ones they look like.
    """
    places: range | list[int] = range(len(text))
    for cut in (None, _TAG, _BROKEN):
        if cut is not None:
            if not cut.search(text):
                continue
            text, places = _without(cut, text, places)
        yield text, places
        capitals = text.translate(_GREEK_CAPITALS)
        if capitals != text:
            yield capitals, places


def _without(cut: re.Pattern[str], text: str, places: range | list[int]) -> tuple[str, list[int]]:
    parts, left, last = [], list[int](), 0
    for match in cut.finditer(text):
        parts.append(text[last : match.start()])
        left += places[last : match.start()]
        last = match.end()
    return "".join([*parts, text[last:]]), left + list(places[last:])


def _resolved(letters: _Letters) -> _Letters:
    """Without references to characters; one can hide in what others resolve to."""
    for _ in range(_MOST_NESTED):
        if "&" not in letters.text:
            break
        found, last = _Growing(), 0
        for match in _ENTITY.finditer(letters.text):
            reference = _NESTED.sub("&", match.group(), count=1)
            meant = html.unescape(reference)
            if meant == match.group():
                continue
            found.keep(letters, last, match.start())
            found.add(meant, letters.starts[match.start()], letters.ends[match.end() - 1])
            last = match.end()
        if not last:
            break
        found.keep(letters, last, len(letters.text))
        letters = found.done()
    return letters


def _folded(letters: _Letters) -> _Letters:
    if letters.text.isascii():
        plain = letters.text.lower().translate(_BLANKS)
        return _Letters(plain, letters.starts, letters.ends)
    found, last = _Growing(), 0
    for match in _FOREIGN.finditer(letters.text):
        place = match.start()
        if place > last:
            found.keep(letters, last, place)
        if plain := _plain(match.group()):
            found.add(plain, letters.starts[place], letters.ends[place])
        elif found.ends and unicodedata.category(match.group())[0] == "M":
            # An accent goes with the letter before it.
            found.ends[-1] = letters.ends[place]
        last = place + 1
    found.keep(letters, last, len(letters.text))
    whole = found.done()
    # Capitals of ASCII are left; what is not ASCII keeps its length since it is folded already.
    whole.text = whole.text.lower().translate(_BLANKS)
    return whole


@lru_cache(maxsize=4096)
def _plain(letter: str) -> str:
    """What a letter that is not ASCII is compared as; nothing for what is not seen."""
    if letter in _APOSTROPHES:
        return "'"
    found = []
    for part in unicodedata.normalize("NFKD", letter):
        kind = unicodedata.category(part)
        if kind in ("Mn", "Me", "Cf", "Cn", "Co") or part in "\u115f\u1160\u0640":
            continue
        if kind in ("Pd", "Pc", "Zs", "Zl", "Zp", "Cc") or part == "\u2800":
            found.append(" ")
        elif kind == "Nd":
            found.append(str(unicodedata.decimal(part)))
        else:
            found += [_LOOK_ALIKES.get(p, p) for p in part.casefold()]
    return "".join(found)


def _words(token: str, start: int) -> Iterator[tuple[int, int]]:
    """Places of the words in a run of letters: parted before and after each unspaced letter."""
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
