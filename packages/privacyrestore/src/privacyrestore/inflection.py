"""Forms of English words: numbers of nouns, and what -ing and -ed make of verbs.

By rule and generous: a form that no English word has harms nobody, one that is missed leaks.
"""

from __future__ import annotations

_VOWELS = "aeiou"
_HISSES = ("s", "x", "z", "ch", "sh")


def forms(word: str) -> set[str]:
    """The word and its regular relatives; short or foreign ones just with and without an s.

    Irregular ones ("feet", "fell", "worse") are not known; they are aliases.
    """
    if len(word) < 3 or not (word.isascii() and word.isalpha()):
        return {word, f"{word}s"}
    found = {word, f"{word}s", *_plurals(word)}
    if len(word) >= 5:
        found |= _singulars(word)
    if len(word) >= 4:
        for base in {word, *_bases(word)}:
            found |= {base, *_plurals(base), *_verbs(base)}
    return found


def _plurals(word: str) -> set[str]:
    if word.endswith("y") and word[-2] not in _VOWELS:
        return {f"{word[:-1]}ies"}
    if word.endswith("sis"):
        return {f"{word[:-2]}es"}
    if word.endswith(("f", "fe")) and not word.endswith("ff"):
        return {f"{word.rstrip('e')[:-1]}ves", f"{word}s"}
    return {f"{word}es"} if word.endswith((*_HISSES, "o")) else {f"{word}s"}


def _singulars(word: str) -> set[str]:
    if not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return set()
    found = {word[:-1]}
    if word.endswith("ies"):
        found.add(f"{word[:-3]}y")
    if word.endswith("es") and word[:-2].endswith(_HISSES):
        found.add(word[:-2])
    if word.endswith("ses"):
        found.add(f"{word[:-2]}is")
    if word.endswith("ves"):
        found |= {f"{word[:-3]}f", f"{word[:-3]}fe"}
    return found


def _bases(word: str) -> set[str]:
    """Verbs of which the word may be a form."""
    for ending in ("ing", "ed"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) >= 3 and any(letter in "aeiouy" for letter in stem):
            found = {stem, f"{stem}e"}
            if stem[-1] == stem[-2] and stem[-1] not in _VOWELS:
                found.add(stem[:-1])
            if ending == "ed" and stem.endswith("i"):
                found.add(f"{stem[:-1]}y")
            return found
    return set()


def _verbs(base: str) -> set[str]:
    if base.endswith("e"):
        return {f"{base[:-1]}ing", f"{base}d"}
    found = {f"{base}ing", f"{base}ed"}
    if base.endswith("y") and base[-2] not in _VOWELS:
        found.add(f"{base[:-1]}ied")
    if base[-1] not in "aeiouwxy" and base[-2] in _VOWELS and base[-3] not in _VOWELS:
        found |= {f"{base}{base[-1]}ing", f"{base}{base[-1]}ed"}
    return found
