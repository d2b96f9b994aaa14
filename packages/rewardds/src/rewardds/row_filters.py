"""Which texts of a model are no texts: too short or long, odd characters, going in circles."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Literal, get_args

from lipogram.errors import InvalidSetting

Fault = Literal["short", "long", "charset", "repetition"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
RUN = 10
"""Characters of the pieces whose repetition is counted."""

_ODD = {"Cc", "Cs", "Co", "Cn"}  # control, half of a pair, private use, not assigned


@dataclass(frozen=True)
class RowFilter:
    """Bounds on one text. They are public settings: fit them to no private text.

    Attributes:
        min_chars: least characters.
        max_chars: most characters.
        max_odd: largest share of characters that no text has: controls other than line ends and
            tabs, unassigned code points, and those that stand for bytes that are no UTF-8.
        min_letters: least share of letters, marks and digits among characters that are no space.
        max_repetition: largest share of pieces of 10 characters that occurred before in the text.

    Raises:
        InvalidSetting: bounds that contradict each other, or a share outside [0, 1].
    """

    min_chars: int = 1
    max_chars: int = 8192
    max_odd: float = 0.0
    min_letters: float = 0.3
    max_repetition: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.min_chars <= self.max_chars:
            raise InvalidSetting(
                f"min_chars is {self.min_chars} and max_chars {self.max_chars}: "
                "1 <= min_chars <= max_chars"
            )
        for name in ("max_odd", "min_letters", "max_repetition"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise InvalidSetting(f"{name} is {share}: a share is in [0, 1]")

    def fault(self, text: str) -> Fault | None:
        """The first thing that is wrong with a text, spaces around it left away; None if none is.

        Args:
            text: any.
        """
        text = text.strip()
        if len(text) < self.min_chars:
            return "short"
        if len(text) > self.max_chars:
            return "long"
        if odd_share(text) > self.max_odd or letter_share(text) < self.min_letters:
            return "charset"
        if repeated_share(text) > self.max_repetition:
            return "repetition"
        return None


QUESTION = RowFilter(min_chars=8, max_chars=4096)
"""For questions."""
ANSWER = RowFilter()
"""For answers, which may be one digit."""


def odd_share(text: str) -> float:
    """Of the characters of a text, how many no text has; see :class:`RowFilter`."""
    odd = sum(
        character == "\ufffd"
        or (character not in "\n\r\t" and unicodedata.category(character) in _ODD)
        for character in text
    )
    return odd / max(1, len(text))


def letter_share(text: str) -> float:
    """Of the characters that are no space, how many are letters, marks or digits."""
    seen = [unicodedata.category(character)[0] for character in text if not character.isspace()]
    return sum(kind in "LMN" for kind in seen) / max(1, len(seen))


def repeated_share(text: str) -> float:
    """Of the pieces of 10 characters, how many are there more than once, the first not counted.

    Spaces count as one space, and case does not. 0 for a text of fewer than 30 characters, where
    a repeated phrase is no loop yet.
    """
    folded = " ".join(text.split()).casefold()
    pieces = len(folded) - RUN + 1
    if len(folded) < 3 * RUN:
        return 0.0
    return 1 - len({folded[i : i + RUN] for i in range(pieces)}) / pieces
