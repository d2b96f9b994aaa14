"""Two texts that say the same, cut into pairs of sentences, and the pairs worth keeping."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

MIN_WORDS, MAX_WORDS = 4, 60

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_QUOTES = "\"'\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb"
_END = re.compile(rf"[.!?…]+[{_QUOTES})\]]*\s+")
_OPENING = f"{_QUOTES}([¿¡"
# A full stop after these ends no sentence, in English, Portuguese or German; "d. h." and "U.S."
# are single letters, which never end one here.
_ABBREVIATIONS = frozenset(
    "abs approx art bspw bzw ca cap cf dept dr dra engl etc evtl ex exs fig figs ggf hrsg incl "
    "inkl int jr mr mrs ms nr núm op pág págs prof pt resp sec sog sr sra st usw vgl vol vs "
    "zzgl".split()
)
_NUMBER = re.compile(r"\d+")
_SEPARATOR = re.compile(r"(?<=\d)[.,](?=\d)")  # a point here is a comma there
_CODE = re.compile(r"(?:^|(?<=\s))(?:--?[a-z]|/|\S*(?:://|[_@\\$]))\S*")
_WORD = re.compile(r"[^\W\d_]{3,}")


def clean(text: str) -> str:
    """One line of it: white space of any kind a single blank, nothing invisible, composed (NFC)."""
    return " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFC", text)).split())


def sentences(text: str) -> list[str]:
    """A clean text cut after full stops, question and exclamation marks.

    No cut is made before a small letter, after a known abbreviation, a single letter, or a number
    of up to two digits (German ordinals): a cut too few costs a pair where the other language has
    it; a cut too many could pair what does not belong together.
    """
    found, start = [], 0
    for mark in _END.finditer(text):
        following = text[mark.end() :].lstrip(_OPENING)[:1]
        before = text[start : mark.start()].split()
        last = before[-1].strip(_OPENING).lower() if before else ""
        if not following or following.islower():
            continue
        if text[mark.start()] == "." and (
            len(last) < 2 or last in _ABBREVIATIONS or re.fullmatch(r"\d{1,2}|(\w\.)+\w", last)
        ):
            continue
        found.append(text[start : mark.end()].strip())
        start = mark.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def sentence_pairs(source: str, target: str) -> list[tuple[str, str]]:
    """The sentences of two clean texts, paired where both have equally many; else none."""
    sources, targets = sentences(source), sentences(target)
    return list(zip(sources, targets, strict=True)) if len(sources) == len(targets) else []


def plausible(source: str, target: str) -> bool:
    """Whether one can be a translation of the other.

    Both have 4 to 60 words, neither is over 1.8 times (and 15 characters) longer, they hold the
    same numbers and the same code (options, paths, addresses, names with an underscore), and the
    target is no copy of the source: at most half of the words are the same.
    """
    if not all(MIN_WORDS <= len(text.split()) <= MAX_WORDS for text in (source, target)):
        return False
    shorter, longer = sorted((len(source), len(target)))
    if longer > 1.8 * shorter + 15:
        return False
    if not _same_numbers(source, target) or _code(source) != _code(target):
        return False
    words, others = (set(_WORD.findall(_CODE.sub("", text).lower())) for text in (source, target))
    return bool(words) and len(words & others) <= 0.5 * min(len(words), len(others))


def _same_numbers(source: str, target: str) -> bool:
    """As they stand (dates, versions), or once separators are left out (2,000.50, 2.000,50)."""
    texts = [(source, target), (_SEPARATOR.sub("", source), _SEPARATOR.sub("", target))]
    return any(Counter(_NUMBER.findall(a)) == Counter(_NUMBER.findall(b)) for a, b in texts)


def _code(text: str) -> Counter[str]:
    return Counter(token.strip(f".,;:!?()[]{_QUOTES}") for token in _CODE.findall(text))


def unique_pairs(texts: Iterable[tuple[str, str, str]]) -> Iterator[tuple[str, str, str]]:
    """Plausible pairs of sentences from (document, source, target) texts, no source twice."""
    seen: set[str] = set()
    for document, source_text, target_text in texts:
        for source, target in sentence_pairs(clean(source_text), clean(target_text)):
            if source not in seen and plausible(source, target):
                seen.add(source)
                yield document, source, target
