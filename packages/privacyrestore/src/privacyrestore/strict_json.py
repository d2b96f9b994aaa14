"""JSON objects of strangers, read so that everybody who reads them sees the same."""

import json
import math
from typing import Any

from lipogram.errors import InvalidSetting

MAX_DEPTH = 32


def read_object(body: bytes, *, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """The object in a body of RFC 8259: UTF-8 without a mark, no name twice, finite numbers.

    Args:
        body: the whole of it.
        max_depth: how deep arrays and objects may lie in each other; the object itself is 1.

    Raises:
        InvalidSetting: anything else; the text never repeats what was sent.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidSetting("the body is not UTF-8") from None
    try:
        found = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except InvalidSetting:
        raise
    except RecursionError:
        raise InvalidSetting(f"the body is nested deeper than {max_depth} levels") from None
    except ValueError:
        raise InvalidSetting("the body is not JSON") from None
    if not isinstance(found, dict):
        raise InvalidSetting("the body is not a JSON object")
    _check(found, max_depth)
    return found


def _check(value: Any, max_depth: int) -> None:
    """Refuse what is nested too deeply, and halves of surrogate pairs, which no text contains."""
    left = [(value, 1)]
    while left:
        value, depth = left.pop()
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InvalidSetting("a string of the body holds half a surrogate pair") from None
            continue
        if not isinstance(value, (dict, list)):
            continue
        if depth > max_depth:
            raise InvalidSetting(f"the body is nested deeper than {max_depth} levels")
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        left.extend((part, depth + 1) for part in inner)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidSetting("an object of the body holds a name twice")
    return found


def _no_constant(_: str) -> None:
    raise InvalidSetting("the body holds NaN or Infinity, which JSON does not know")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise InvalidSetting("a number of the body is too large")
    return number
