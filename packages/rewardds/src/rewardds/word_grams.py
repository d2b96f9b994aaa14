"""Runs of words, by which a text is found again in another, whatever stands between the words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}\U00020000-\U0003ffff]|[^\W_{_UNSPACED}\U00020000-\U0003ffff]+")


def text_words(text: str) -> list[str]:
    """Runs of letters and digits, folded: case, width, punctuation and spacing do not count.

    In scripts that put no blanks between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) each
    letter is a word.
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def word_grams(words: Sequence[str], n: int) -> Iterator[str]:
    """Every run of n words, joined by blanks; none where there are fewer than n."""
    for start in range(len(words) - n + 1):
        yield " ".join(words[start : start + n])
