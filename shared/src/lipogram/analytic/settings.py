"""Checks of single settings: each returns the value as its plain type, or names what is wrong."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from lipogram.errors import InvalidSetting


def whole(name: str, value: Any, *, least: int = 1, most: int = 2**63 - 1) -> int:
    """An integer between two bounds.

    Raises:
        InvalidSetting: anything else, booleans and whole floats included.
    """
    number = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        upper = "" if most == 2**63 - 1 else f" and at most {most:,}"
        raise InvalidSetting(
            f"{name} is {value!r}, it must be an integer of at least {least}{upper}"
        )
    return int(value)


def positive(name: str, value: Any) -> float:
    """A finite number above 0.

    Raises:
        InvalidSetting: anything else.
    """
    known = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    try:
        number = float(value) if known else float("nan")
    except OverflowError:
        number = float("inf")
    if not 0 < number < float("inf"):
        raise InvalidSetting(f"{name} is {value!r}, it must be a finite number above 0")
    return number


def flag(name: str, value: Any) -> bool:
    """True or False.

    Raises:
        InvalidSetting: anything else.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidSetting(f"{name} is {value!r}, it must be True or False")
    return bool(value)


def one_of(name: str, value: Any, allowed: Iterable[str]) -> str:
    """One of some names.

    Raises:
        InvalidSetting: anything else.
    """
    names = tuple(allowed)
    if not isinstance(value, str) or value not in names:
        raise InvalidSetting(f"{name} is {value!r}, it must be one of {', '.join(names)}")
    return value
