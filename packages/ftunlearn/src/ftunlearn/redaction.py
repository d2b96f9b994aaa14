"""Hashes in place of prompts and answers, for reports about data that must not leave the house.

The hash of a short text can be found by trying texts: it is a pseudonym that lets two reports be
compared, not a proof of secrecy.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

_TEXTS = {"prompt", "answer", "question", "text", "vanilla", "unlearned", "paraphrases"}
"""Keys whose strings are what a person or a model wrote."""
_NAMES = {"id", "group", "component", "protocol", "source", "label", "created", "spec"}
_UNTOUCHED = {"settings", "environment", "fingerprint"}
_SHORTEST = 3


def digest(text: str) -> str:
    """`sha256:` and 16 hexadecimal digits of the text's SHA-256."""
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def texts_in(value: Any, key: str = "") -> set[str]:
    """Every string under a key that holds what a person or a model wrote."""
    if isinstance(value, dict):
        return set().union(*(texts_in(item, name) for name, item in value.items()))
    if isinstance(value, list | tuple):
        return set().union(*(texts_in(item, key) for item in value))
    return {value} if isinstance(value, str) and key in _TEXTS else set()


def redacted(value: Any, secrets: set[str], key: str = "") -> Any:
    """A copy in which texts are hashes, in sentences that quote them too.

    Args:
        value: JSON values.
        secrets: what :func:`texts_in` found; those of 3 letters and more are also replaced where
            another string quotes them as words of their own.
        key: the name that `value` stands under.
    """
    pattern = _pattern(secrets)

    def walk(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {
                name: item if name in _UNTOUCHED else walk(item, name)
                for name, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [walk(item, key) for item in value]
        if not isinstance(value, str) or key in _NAMES:
            return value
        if key in _TEXTS:
            return digest(value)
        return value if pattern is None else pattern.sub(lambda hit: digest(hit[0]), value)

    return walk(value, key)


def _pattern(secrets: set[str]) -> re.Pattern[str] | None:
    words = {part.strip() for part in secrets if len(part.strip()) >= _SHORTEST}
    if not words:
        return None
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\w)")
