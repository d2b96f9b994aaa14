"""A text without its spans, with the grammar around the gaps mended by rule."""

from __future__ import annotations

import re
from dataclasses import dataclass

from privacyrestore.errors import SpanRemains
from privacyrestore.span_detector import Span, SpanDetector

MOST_ROUNDS = 50
_MOST_PASSES = 8
_GAP = "\ue000"
_LINK = r"(?:\b(?:and|or|nor)\b|&)"
_SIGN = r"[,;/+]"
_END = r"(?=\s*+(?:[.,;:!?)\]}]|$))"
_SHORT = (
    r"\b(?:with|without|of|from|by|for|about|to|in|on|like|including|such as|due to|because of|"
    r"between|despite)\s++"
)
# No repeat may give blanks back or begin inside a run of them: a long run would take for ever.
_RULES = tuple(
    (re.compile(pattern, re.IGNORECASE), by)
    for pattern, by in (
        (rf"\b(?:an?|the|some|any|my|his|her|their|your|our|its)\s++{_GAP}", _GAP),
        # Two gaps are one; in a list of others it stays the last one, after its "and".
        (rf"(?<=, ){_GAP}\s*+(?:,\s*+)?({_LINK})\s++{_GAP}", rf"\1 {_GAP}"),
        (rf"{_GAP}\s*+(?:(?:{_SIGN}|{_LINK})\s*+)*+{_GAP}", _GAP),
        # The last of a list: the one before it takes its "and".
        (
            rf",[ \t]*+([^,;.:!?()\n{_GAP}]{{1,80}}?)(?<!\s)[ \t]*+,?[ \t]*+({_LINK})\s++{_GAP}",
            r" \2 \1",
        ),
        (rf"(?<!\s)\s*+(?:,\s*+)?{_LINK}\s++{_GAP}", ""),
        # In the middle of one, and the first of one.
        (rf",\s*+{_GAP}\s*+(?:,\s*+)?(?={_LINK})", " "),
        (rf"{_SIGN}\s*+{_GAP}\s*+(?={_SIGN})", ""),
        (rf"(?<!\s)\s*+{_SIGN}\s*+{_GAP}", ""),
        (rf"{_GAP}\s*+{_SIGN}\s*+", ""),
        (rf"{_GAP}\s++{_LINK}\s++", ""),
        (rf"[(\[{{]\s*+{_GAP}\s*+[)\]}}]", _GAP),
        # What led up to it says nothing without it.
        (rf"(?<!\s)\s*+(?:{_SHORT}){{1,4}}{_GAP}{_END}", ""),
    )
)
_LEFT = re.compile(rf"(?<!\s)(\s*+){_GAP}(\s*+)(?=(.?))", re.DOTALL)


@dataclass(frozen=True)
class Removal:
    """What is left of a text, and what was taken.

    Attributes:
        text: without its spans.
        spans: what was found, by its place in the text as it was. A span that only showed when
            others had gone stands for the whole text.
    """

    text: str
    spans: tuple[Span, ...]


def remove_spans(text: str, detector: SpanDetector) -> Removal:
    """Take out all spans, and what taking them out brings together, until none is found.

    A text without spans comes back as it is, to the letter. Names of lists lose their commas,
    links their other side, empty brackets themselves; articles and prepositions go with what they
    stood before. The result need not be good English.

    Raises:
        SpanRemains: after fifty rounds there is still one.
    """
    found: list[Span] = []
    left = text.replace(_GAP, "")
    for number in range(MOST_ROUNDS):
        spans = detector.find(left)
        if not spans:
            return Removal(left, tuple(found)) if found else Removal(text, ())
        known = {span.span_id for span in found}
        if number == 0 and left == text:
            found += spans
        else:
            found += [Span(0, len(text), i) for i in sorted({s.span_id for s in spans} - known)]
        left = _mended(_with_gaps(left, spans))
    raise SpanRemains(
        "removal brings ever new spans together in this text; nothing was sent. Reword it"
    )


def _with_gaps(text: str, spans: list[Span]) -> str:
    parts, last = [], 0
    for span in spans:
        if span.start >= last:
            parts += [text[last : span.start], _GAP]
        last = max(last, span.end)
    return "".join([*parts, text[last:]])


def _mended(text: str) -> str:
    for _ in range(_MOST_PASSES):
        before = text
        for pattern, by in _RULES:
            if _GAP not in text:
                break
            text = pattern.sub(by, text)
        if text == before:
            break
    return _LEFT.sub(_filled, text).replace(_GAP, "").strip()


def _filled(match: re.Match[str]) -> str:
    """What stands in place of a gap and the blanks around it."""
    before, after, following = match.groups()
    if lines := (before + after).count("\n"):
        return "\n" * lines
    if not following or following in ".,;:!?)]}":
        return ""
    return " " if before or after else ""
