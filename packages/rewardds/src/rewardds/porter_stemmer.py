"""Porter's stemmer, by which ROUGE takes the forms of an English word for one.

Porter, 1980, "An algorithm for suffix stripping", Program 14(3), with the changes that are in
common use (the author's own of later years, and those of NLTK), since published ROUGE scores stem
with these: single words in a table, short words in -ies and -ied, -y after a consonant only, -bli,
-alli, -fulli and -logi, and words of two letters that end like a short syllable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

_BY_HAND = {
    "sky": "sky", "skies": "sky", "dying": "die", "lying": "lie", "tying": "tie", "news": "news",
    "inning": "inning", "innings": "inning", "outing": "outing", "outings": "outing",
    "canning": "canning", "cannings": "canning", "howe": "howe", "proceed": "proceed",
    "exceed": "exceed", "succeed": "succeed",
}  # fmt: skip
_PLURAL = (("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", ""))
_DOUBLE = (
    ("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"),
    ("bli", "ble"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous"), ("ization", "ize"),
    ("ation", "ate"), ("ator", "ate"), ("alism", "al"), ("iveness", "ive"), ("fulness", "ful"),
    ("ousness", "ous"), ("aliti", "al"), ("iviti", "ive"), ("biliti", "ble"), ("fulli", "ful"),
)  # fmt: skip
_TRIPLE = (
    ("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""),
    ("ness", ""),
)  # fmt: skip
_LAST = tuple((suffix, "") for suffix in "al ance ence er ic able ible ant ement ment ent".split())
_LAST_AFTER_ION = tuple((suffix, "") for suffix in "ou ism ate iti ous ive ize".split())


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """The stem of a word in lower case; one of one or two letters is its own."""
    if word in _BY_HAND:
        return _BY_HAND[word]
    if len(word) <= 2:
        return word
    for step in (_plural, _past, _final_y, _double, _triple, _single, _final_e, _final_l):
        word = step(word)
    return word


def _plural(word: str) -> str:
    if len(word) == 4 and word.endswith("ies"):
        return word[:-1]
    return _replaced(word, _PLURAL, lambda _: True)


def _past(word: str) -> str:
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for suffix in ("ed", "ing"):
        if word.endswith(suffix) and "v" in _shape(word.removesuffix(suffix)):
            return _mended(word.removesuffix(suffix))
    return word


def _mended(word: str) -> str:
    """A stem that lost its -ed or -ing."""
    if word.endswith(("at", "bl", "iz")):
        return word + "e"
    if len(word) > 1 and word[-1] == word[-2] and _shape(word)[-1] == "c":
        return word if word[-1] in "lsz" else word[:-1]
    return word + "e" if _measure(word) == 1 and _is_short(word) else word


def _final_y(word: str) -> str:
    after_consonant = len(word) > 2 and _shape(word)[-2] == "c"
    return word[:-1] + "i" if word.endswith("y") and after_consonant else word


def _double(word: str) -> str:
    if word.endswith("alli"):
        return _double(word[:-2]) if _measure(word[:-4]) > 0 else word
    if word.endswith("logi"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    return _replaced(word, _DOUBLE, lambda rest: _measure(rest) > 0)


def _triple(word: str) -> str:
    return _replaced(word, _TRIPLE, lambda rest: _measure(rest) > 0)


def _single(word: str) -> str:
    if any(word.endswith(suffix) for suffix, _ in _LAST):
        return _replaced(word, _LAST, lambda rest: _measure(rest) > 1)
    if word.endswith(("sion", "tion")):
        return word[:-3] if _measure(word[:-3]) > 1 else word
    return _replaced(word, _LAST_AFTER_ION, lambda rest: _measure(rest) > 1)


def _final_e(word: str) -> str:
    if not word.endswith("e"):
        return word
    rest = word[:-1]
    m = _measure(rest)
    return rest if m > 1 or (m == 1 and not _is_short(rest)) else word


def _final_l(word: str) -> str:
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word


def _replaced(word: str, rules: Iterable[tuple[str, str]], holds: Callable[[str], bool]) -> str:
    """The first suffix that fits is replaced, if the condition holds of what stands before it."""
    for suffix, new in rules:
        if word.endswith(suffix):
            rest = word.removesuffix(suffix)
            return rest + new if holds(rest) else word
    return word


def _shape(word: str) -> str:
    """A letter "c" or "v" for each: consonant or vowel; y is a vowel after a consonant."""
    shape = ""
    for letter in word:
        vowel = letter in "aeiou" or (letter == "y" and shape.endswith("c"))
        shape += "v" if vowel else "c"
    return shape


def _measure(word: str) -> int:
    """Porter's m: how often a run of vowels is followed by one of consonants."""
    return _shape(word).count("vc")


def _is_short(word: str) -> bool:
    """Whether it ends consonant, vowel, consonant other than w, x and y; or is vowel, consonant."""
    shape = _shape(word)
    return shape == "vc" or (shape.endswith("cvc") and word[-1] not in "wxy")
