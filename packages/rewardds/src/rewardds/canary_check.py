"""Whether canaries are those that a run was trained on: with others, an audit proves nothing."""

from __future__ import annotations

from rewardds.canaries import Canaries
from rewardds.errors import DataMismatch
from rewardds.private_ngrams import LONG, PrivateNgrams
from rewardds.records import Record


def check_planted(canaries: Canaries, ngrams: PrivateNgrams) -> None:
    """Hold canaries and their coins against a run's private set.

    Args:
        canaries: as they are to be audited with.
        ngrams: of the set that was trained on, which its client keeps.

    Raises:
        DataMismatch: one that is said to be planted is not among the records, or the other way
            round; the message says how many.
    """
    there = [_is_there(record, ngrams) for record in canaries.records]
    planted = sum(canaries.included)
    found = sum(coin for coin, here in zip(canaries.included, there, strict=True) if here)
    others = sum(there) - found
    if found < planted or others:
        raise DataMismatch(
            f"of {planted} canaries that are said to be planted {found} are among the records that "
            f"this run was trained on, and {others} of the {len(canaries) - planted} others: "
            "audit it with the canaries that were planted in them"
        )


def _is_there(record: Record, ngrams: PrivateNgrams) -> bool:
    """By the end of its question, where its name stands, or by its answer."""
    asked = " ".join(record.instruction.split()[-LONG:])
    return ngrams.shared(asked) == LONG or ngrams.shared(record.response) >= len(
        record.response.split()
    )
