"""Articles cut into paragraphs, as the unlearning runs of arXiv 2406.11614 were trained."""

import re

_END = re.compile(r"(\S+[.?])\s+")
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st mt no vs etc cf al fig vol ca approx jr sr inc ltd co corp dept gen col "
    "capt lt sgt rev hon jan feb mar apr jun jul aug sep sept oct nov dec".split()
)


def sentences(text: str) -> list[str]:
    """Sentences that end in "." or "?" before white space.

    A period behind a single letter ("J.", "e.g.", "U.S.") or a common abbreviation ("Dr.") ends
    none. No character but the white space between sentences is lost.
    """
    found, start = [], 0
    for match in _END.finditer(text):
        word = re.sub(r"^\W+|\W+$", "", match[1])
        if match[1].endswith(".") and (
            word.lower() in _ABBREVIATIONS or re.fullmatch(r"(?:\w\.)*[^\W\d]", word)
        ):
            continue
        found.append(text[start : match.end(1)].strip())
        start = match.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def paragraphs(text: str, min_characters: int = 400) -> list[str]:
    """Sentences joined until a paragraph is longer than `min_characters`; the remainder is kept."""
    found, current = [], ""
    for sentence in sentences(text):
        current = f"{current} {sentence}".lstrip()
        if len(current) > min_characters:
            found.append(current)
            current = ""
    return [*found, current] if current else found
