"""Who may join a sum: no replays, no client too small to hide, no claim that cannot hold."""

from __future__ import annotations

from collections.abc import Sequence

from afl.client_stats import ClientStats
from afl.errors import ReplayedUpload, TooFewClients
from afl.ledger import Ledger
from afl.privacy_unit import bounded
from lipogram.errors import InvalidSetting


def check_admission(
    ledger: Ledger,
    client: str,
    stats: ClientStats,
    *,
    digest: str,
    number: int,
    members: Sequence[str],
    minimum_rows: int,
    minimum_cohort: int,
) -> None:
    """Raise unless a client, or a masked cohort, may add these statistics under this round.

    ``digest`` is theirs, ``number`` the round.

    Raises:
        ReplayedUpload: these statistics, or this round of the client, were here before.
        TooFewClients: fewer rows than the minimum, a cohort that is too small, or shared noise of
            more clients than are named.
    """
    present, last = ledger.present, ledger.last_round(client)
    if last is not None and number <= last:
        raise ReplayedUpload(
            f"client {client!r} has used round {last}: round {number} is over; send further "
            "rows, or come back after leaving, under a higher one"
        )
    if stats.n_rows and any(entry.digest == digest for entry in present.values()):
        raise ReplayedUpload(f"the statistics of client {client!r} are in the sum already")
    everyone = {name for entry in present.values() for name in entry.members}
    if again := sorted(everyone & {client, *members}):
        raise ReplayedUpload(f"client {again[0]!r} is in a masked cohort of this sum already")
    needed = (stats.noise or {}).get("shares", 0)
    if len(set(members)) < needed:
        raise TooFewClients(
            f"{client!r} claims noise that {needed} clients share, {len(set(members))} are named "
            "as members: the claim would not hold"
        )
    if members:
        if len(set(members)) < minimum_cohort:
            raise TooFewClients(
                f"cohort {client!r} has {len(set(members))} members, at least "
                f"{minimum_cohort} are needed to hide one among the others"
            )
    elif stats.noise is None and 0 < stats.n_rows < minimum_rows:
        raise TooFewClients(
            f"client {client!r} has {stats.n_rows} rows, at least {minimum_rows} are "
            "asked for, because few rows can be read out of their sums: collect more, add "
            "noise, or send under a mask"
        )


def as_bounded(
    ledger: Ledger, client: str, stats: ClientStats, members: Sequence[str], bound: float | None
) -> ClientStats:
    """A client's statistics as they enter a sum that hides clients; without a bound, as they are.

    Raises:
        InvalidSetting: a masked cohort, whose clients cannot be bounded one by one; statistics with
            noise, weights or one second moment a class.
        ReplayedUpload: a client that is in the sum already: the bound is for all that it sends.
    """
    if bound is None:
        return stats
    if members:
        raise InvalidSetting(
            f"{client!r} is a masked cohort: its clients cannot be bounded one by one here; let "
            "each bound its own sums and add a share of the noise"
        )
    if any(name == client for name, _ in ledger.present):
        raise ReplayedUpload(
            f"client {client!r} is in the sum, which bounds all that a client sends: take it out "
            "and add all of its rows at once"
        )
    return bounded(stats, bound)
