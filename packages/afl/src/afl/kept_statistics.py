"""Statistics that somebody kept, and the sum that they went into."""

from __future__ import annotations

from collections.abc import Iterable

from afl.client_stats import ClientStats
from afl.errors import ReplayedUpload, RevealsOneClient
from afl.federation import Federation
from afl.privacy_unit import bounded
from afl.wire import Envelope
from lipogram.errors import NotSeen


def kept_statistics(federation: Federation, sent: Iterable[Envelope]) -> dict[str, ClientStats]:
    """What clients added to a sum, by client, each message checked against the ledger.

    Several messages of one client are added up; where the federation bounds clients, the statistics
    are scaled down as they were when they came in.

    Args:
        federation: with the sum.
        sent: messages that are in it, or some of them.

    Raises:
        RevealsOneClient: a client whose part is under masks: the sum of its cohort is all there is.
        NotSeen: a message that is not in the sum, or no longer.
        ReplayedUpload: one message twice.
        BudgetSpent: there is a budget, and what comes of single clients has no noise.
    """
    federation.privacy.check_exact()
    present, bound = federation.ledger.present, federation.privacy.client_bound
    cohort_of = {name: entry.client for entry in present.values() for name in entry.members}
    found: dict[str, ClientStats] = {}
    seen: set[tuple[str, int]] = set()
    for each in sent:
        key = each.client, each.round
        if each.client in cohort_of:
            raise RevealsOneClient(
                f"client {each.client!r} is in the masked cohort {cohort_of[each.client]!r}: "
                "nobody has its part of the sum, so nothing can be said about it alone"
            )
        if key not in present or present[key].digest != each.digest:
            raise NotSeen(
                f"client {each.client!r} is not in the sum with these statistics of round "
                f"{each.round}: it needs the very ones that were added"
            )
        if key in seen:
            raise ReplayedUpload(f"client {each.client!r}, round {each.round}, is there twice")
        seen.add(key)
        held = each.stats if bound is None else bounded(each.stats, bound)
        found[each.client] = found[each.client] + held if each.client in found else held
    return found
