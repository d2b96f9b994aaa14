"""Where a text names what must not be sent.

What this cannot see: a paraphrase ("cannot keep food down"), a misspelling or another spelling
(anaemia for anemia), an irregular form, letters replaced by digits, a word with blanks or signs
between its letters, other words between those of a span, encodings other than HTML's (base64,
percent signs, escapes of JSON), text inside an image, and what follows from the rest (a medicine
that only one illness is treated with). Aliases and a recogniser of entities help against some of
these; nothing helps against the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from lipogram.errors import InvalidSetting
from privacyrestore.inflection import forms
from privacyrestore.text_folding import Token, tokens, views


@dataclass(frozen=True, order=True)
class Span:
    """A place in a text that names a span type.

    Attributes:
        start, end: letters of the text as given, `text[start:end]`.
        span_id: index into the vocabulary.
    """

    start: int
    end: int
    span_id: int


@dataclass(frozen=True)
class Entity:
    """What a recogniser of entities found: a place, and what it takes it for."""

    start: int
    end: int
    label: str


class Recogniser(Protocol):
    """Finds entities beyond the dictionary."""

    def entities(self, text: str) -> list[Entity]:
        """All entities of a text."""


@dataclass
class _Node:
    """What may follow a sequence of words, and which spellings end here."""

    next: dict[str, _Node] = field(default_factory=dict)
    ends: list[_Spelling] = field(default_factory=list)


@dataclass(frozen=True)
class _Spelling:
    """How a span type is written: as given, and in folded words."""

    text: str
    words: tuple[str, ...]
    span_id: int


class SpanDetector:
    """Finds the span types of a vocabulary, as words and in any case, accent and inflection.

    Args:
        vocabulary: M span types.
        aliases: other spellings of some.
        backend: "dictionary"; or "presidio" or "hf-ner", which add what a recogniser of entities
            finds to what the dictionary does.
        language: "en" inflects; with any other the spellings are taken as they are.
        recogniser: see :class:`~privacyrestore.presidio_spans.PresidioRecogniser`, where None is
            one of this dictionary alone, and :class:`~privacyrestore.ner_spans.NerRecogniser`.
        labels: which span type an entity's label stands for. An entity of another label counts
            where the dictionary finds something in it: then the whole of it is that span.

    Raises:
        InvalidSetting: a span type twice, a spelling without a letter or digit,
            aliases or labels of nothing, a backend without its recogniser.
        MissingExtra: "presidio" without that library.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        aliases: Mapping[str, Sequence[str]] | None = None,
        backend: Literal["dictionary", "presidio", "hf-ner"] = "dictionary",
        language: str = "en",
        *,
        recogniser: Recogniser | None = None,
        labels: Mapping[str, str] | None = None,
    ):
        aliases, labels = aliases or {}, labels or {}
        if backend not in ("dictionary", "presidio", "hf-ner"):
            raise InvalidSetting(f"backend {backend!r}: dictionary, presidio or hf-ner")
        if isinstance(vocabulary, str) or any(isinstance(names, str) for names in aliases.values()):
            raise InvalidSetting("vocabulary and the aliases of a span are lists of texts, not one")
        if backend == "dictionary" and (recogniser is not None or labels):
            raise InvalidSetting("the backend 'dictionary' takes no recogniser and no labels")
        if backend == "hf-ner" and recogniser is None:
            raise InvalidSetting("the backend 'hf-ner' needs a recogniser, a NerRecogniser")
        self.vocabulary, self.language = tuple(vocabulary), language
        ids = {name: i for i, name in enumerate(self.vocabulary)}
        if len(ids) != len(self.vocabulary):
            raise InvalidSetting("the vocabulary holds a span type twice")
        if unknown := set(aliases) - set(ids):
            raise InvalidSetting(f"{len(unknown)} aliases are of spans not in the vocabulary")
        if unknown := set(labels.values()) - set(ids):
            raise InvalidSetting(f"{len(unknown)} labels stand for spans not in the vocabulary")
        self._labels = {label: ids[name] for label, name in labels.items()}
        self._root = _Node()
        self._bases: dict[str, set[str]] = {}
        spellings = {name: (name, *aliases.get(name, ())) for name in self.vocabulary}
        for name, i in ids.items():
            for spelling in spellings[name]:
                self._add(spelling, i)
        if backend == "presidio" and recogniser is None:
            from privacyrestore.presidio_spans import PresidioRecogniser

            recogniser = PresidioRecogniser.of_dictionary(spellings, language)
        self._recogniser = recogniser

    def find(self, text: str) -> list[Span]:
        """All places that name a span type, in the order of their starts.

        At each place the longest match counts; one that lies within another does not. Two that
        overlap without that are both there, since each has its own part in what is restored;
        removal takes them out as one. Time grows linearly with the text.

        Raises:
            InvalidSetting: a recogniser that finds what lies outside the text.
        """
        found = set()
        for view, places in views(text):
            for span in self._matches(view):
                found.add(Span(places[span.start], places[span.end - 1] + 1, span.span_id))
        if self._recogniser is not None:
            for entity in self._recogniser.entities(text):
                found.update(self._named(entity, text))
        return _outermost(found)

    def _add(self, spelling: str, span_id: int) -> None:
        words = tuple(token.text for token in tokens(spelling))
        if not any(letter.isalnum() for word in words for letter in word):
            raise InvalidSetting(f"spelling {spelling!r} holds no letter or digit")
        self._enter(_Spelling(spelling, words, span_id))
        if len(words) > 1 and all(word.isascii() and word.isalnum() for word in words):
            # The blanks between words may be lost, one or all.
            joined: set[tuple[str, ...]] = {("".join(words),)}
            for i in range(1, len(words)):
                joined.add((*words[: i - 1], words[i - 1] + words[i], *words[i + 1 :]))
            for run in joined:
                self._enter(_Spelling(spelling, run, span_id))

    def _enter(self, spelling: _Spelling) -> None:
        node = self._root
        for word in spelling.words:
            # Without inflection there is still the s of a possessive, which folding joins.
            for form in forms(word) if self.language == "en" else (word, f"{word}s"):
                self._bases.setdefault(form, set()).add(word)
            node = node.next.setdefault(word, _Node())
        node.ends.append(spelling)

    def _matches(self, text: str) -> Iterator[Span]:
        words, bases, none = tokens(text), self._bases, frozenset[str]()
        for first, token in enumerate(words):
            if token.text not in bases:
                continue
            nodes, last, best = [self._root], first, None
            while nodes and last < len(words):
                known = bases.get(words[last].text, none)
                nodes = [node.next[base] for node in nodes for base in known if base in node.next]
                last += 1
                if ends := [end for node in nodes for end in node.ends]:
                    best = _likest(ends, text, words[first:last])
            if best is not None:
                yield best

    def _named(self, entity: Entity, text: str) -> list[Span]:
        if not 0 <= entity.start <= entity.end <= len(text):
            raise InvalidSetting("the recogniser names a place that lies outside the text")
        if entity.start == entity.end:
            return []
        if entity.label in self._labels:
            return [Span(entity.start, entity.end, self._labels[entity.label])]
        said = {span.span_id for span in self._matches(text[entity.start : entity.end])}
        return [Span(entity.start, entity.end, span_id) for span_id in said]


def _likest(spellings: Sequence[_Spelling], text: str, words: Sequence[Token]) -> Span:
    """The place of some words, as the spelling that is most like what is written there.

    To the letter, then without inflection; of several the longest, then the first.
    """
    start, end = words[0].start, words[-1].end
    said = tuple(word.text for word in words)

    def unlike(spelling: _Spelling) -> tuple[bool, bool, int, int]:
        literal = text.startswith(spelling.text, start)
        return not literal, spelling.words != said, -len(spelling.text), spelling.span_id

    best = min(spellings, key=unlike)
    if text.startswith(best.text, start):
        end = max(end, start + len(best.text))
    return Span(start, end, best.span_id)


def _outermost(spans: set[Span]) -> list[Span]:
    """Those that do not lie within another of them, by their starts."""
    kept: list[Span] = []
    furthest = -math.inf
    for span in sorted(spans, key=lambda s: (s.start, -s.end, s.span_id)):
        same = bool(kept) and (span.start, span.end) == (kept[-1].start, kept[-1].end)
        if span.end > furthest or (same and span.span_id != kept[-1].span_id):
            kept.append(span)
            furthest = max(furthest, span.end)
    return kept
