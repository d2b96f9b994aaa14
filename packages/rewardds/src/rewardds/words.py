"""Words as they are compared: case, spacing, punctuation and invisible marks do not count.

Nor do underscores: they join words in names, such as a file's.
"""

from __future__ import annotations

import re
import unicodedata

_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Myanmar, Khmer
    "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # kana, CJK
    "\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """The words of a text, folded (NFKC, case); of scripts without spaces each character."""
    shown = "".join(c for c in text if unicodedata.category(c) != "Cf")
    folded = unicodedata.normalize("NFKC", shown).casefold()
    return _WORD.findall(unicodedata.normalize("NFKC", folded))
