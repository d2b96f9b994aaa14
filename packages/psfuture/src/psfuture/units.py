"""What a source is read in, and a target shown in: words, or characters where none are parted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lipogram.errors import InvalidSetting

Unit = Literal["word", "char"]


def check_unit(unit: str) -> None:
    """Refuse what is no unit.

    Raises:
        InvalidSetting: neither "word" nor "char".
    """
    if unit not in ("word", "char"):
        raise InvalidSetting(f"the unit {unit!r} is neither word nor char")


def split(text: str, unit: Unit) -> tuple[str, ...]:
    """Units of a text: words parted by white space, or characters without white space."""
    words = text.split()
    return tuple(words) if unit == "word" else tuple("".join(words))


def source_words(units: Sequence[str], unit: Unit) -> tuple[str, ...]:
    """Units as a backend takes them: words, or one text without spaces."""
    return tuple(units) if unit == "word" else ("".join(units),)
