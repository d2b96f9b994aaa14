"""Held-out texts that are training texts all the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rewardds.words import words


def same_words(text: str) -> str:
    """Equal for texts of the same words, whatever their case, spacing and punctuation."""
    return " ".join(words(text)) or text


def overlapping(train: Iterable[str], held_out: Mapping[str, str]) -> frozenset[str]:
    """Ids of held-out texts that have the words of a training text.

    Args:
        train: texts that were learnt from.
        held_out: texts by id.
    """
    known = {same_words(text) for text in train}
    return frozenset(id_ for id_, text in held_out.items() if same_words(text) in known)
