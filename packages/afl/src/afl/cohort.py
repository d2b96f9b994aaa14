"""What both sides of a masked sum agree on: sizes, thresholds, and who shares masks with whom."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from afl.errors import TooFewClients
from afl.limits import MINIMUM_COHORT
from lipogram.analytic.settings import whole
from lipogram.errors import InvalidSetting

FULL_GRAPH = 100  # clients up to which everybody shares masks with everybody


@dataclass(frozen=True)
class Advert:
    """Public keys of a client: one for encrypted shares, one for masks."""

    channel: bytes
    masks: bytes


@dataclass(frozen=True)
class Session:
    """What all sides know beforehand.

    Attributes:
        name: unique to one sum; keys of another session do not fit.
        size: numbers to a vector.
        threshold: t, shares that open a secret; more than half of a neighbourhood.
        minimum_cohort: neither side takes part in a sum of fewer clients.
        neighbours: clients that each one shares masks with, an even number; None for all others.
            See :func:`plan_neighbours`.
    """

    name: str
    size: int
    threshold: int
    minimum_cohort: int = MINIMUM_COHORT
    neighbours: int | None = None

    def __post_init__(self) -> None:
        whole("size", self.size)
        whole("threshold", self.threshold)
        whole("minimum_cohort", self.minimum_cohort)
        if self.neighbours is not None and whole("neighbours", self.neighbours) % 2:
            raise InvalidSetting(f"neighbours is {self.neighbours}, it must be even")


def check_cohort(session: Session, clients: int) -> None:
    """Raise unless the cohort is large enough, and t more than half of a neighbourhood.

    With half of them or fewer, a server could have one client opened in both ways by two halves.

    Raises:
        TooFewClients: fewer clients than the minimum or than t.
        InvalidSetting: t is too small.
    """
    least = max(session.minimum_cohort, MINIMUM_COHORT)
    if clients < least:
        raise TooFewClients(f"{clients} clients, at least {least} hide one another")
    threshold, group = session.threshold, neighbourhood_size(session, clients)
    if group < threshold:
        raise TooFewClients(f"{group} clients, the threshold is {threshold}")
    if 2 * threshold <= group:
        raise InvalidSetting(
            f"threshold {threshold} of {group} clients: it must be more than half of them"
        )


def neighbourhood_size(session: Session, clients: int) -> int:
    """A client and those it shares masks with."""
    return clients if session.neighbours is None else min(session.neighbours + 1, clients)


def neighbourhoods(session: Session, roster: Mapping[str, Advert]) -> dict[str, list[str]]:
    """For each client, itself and those it shares masks with, by name.

    A circle in an order that follows from everybody's keys, each client with the k/2 next ones on
    either side (the graph of Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic
    Overhead", CCS 2020, section 3). A server that keeps to the protocol cannot choose it.
    """
    names = sorted(roster)
    k = neighbourhood_size(session, len(names)) - 1
    if k >= len(names) - 1:
        return {name: names for name in names}
    keys = [[n, roster[n].channel.hex(), roster[n].masks.hex()] for n in names]
    salt = hashlib.sha256(json.dumps([session.name, keys]).encode()).digest()
    circle = sorted(names, key=lambda name: hashlib.sha256(salt + name.encode()).digest())
    doubled = circle + circle + circle
    size, half = len(circle), k // 2
    return {
        name: sorted(doubled[size + at - half : size + at + half + 1])
        for at, name in enumerate(circle)
    }


def default_threshold(clients: int) -> int:
    """Two thirds of the clients, rounded up, and more than half."""
    return max(math.ceil(2 * clients / 3), clients // 2 + 1)


def default_session(
    name: str, size: int, clients: int, minimum_cohort: int = MINIMUM_COHORT
) -> Session:
    """A session of so many clients: everybody with everybody up to 100, a sparse graph beyond."""
    if clients <= FULL_GRAPH:
        return Session(name, size, default_threshold(clients), minimum_cohort)
    neighbours, threshold = plan_neighbours(clients)
    return Session(name, size, threshold, minimum_cohort, neighbours)


def plan_neighbours(
    clients: int, *, colluding: float = 0.1, dropping: float = 0.2, failure: float = 2.0**-40
) -> tuple[int, int]:
    """The least even k, and t, for which a random graph of so many clients is safe and finishes.

    Safe: in no neighbourhood do t or more collude with the server, and those that are left and do
    not collude hang together, so that only the sum of all of them can be seen. Finishes: in none
    are fewer than t left. A client's neighbours are a random k of the others, so the first and the
    last are tails of the hypergeometric distribution, times the number of clients; the circle
    falls apart only where k/2 in a row are gone or collude (Bell et al. 2020, section 3).

    Args:
        clients: K.
        colluding: most of them that work with the server, as a share.
        dropping: most of them that disappear, as a share.
        failure: the largest probability of either.

    Returns:
        k and t. Where no sparse graph will do, ``K − 1`` (made even) and t of everybody.

    Raises:
        InvalidSetting: shares outside 0 to 1, or that leave no threshold between them.
        TooFewClients: fewer than three clients.
    """
    if whole("clients", clients) < MINIMUM_COHORT:
        raise TooFewClients(f"{clients} clients, at least {MINIMUM_COHORT} hide one another")
    if not (0 <= colluding and 0 <= dropping and max(colluding, 0.5) < 1 - dropping):
        raise InvalidSetting(
            f"colluding {colluding} and dropping {dropping} leave no threshold above one half"
        )
    if not 0 < failure < 1:
        raise InvalidSetting(f"failure is {failure!r}, it must lie between 0 and 1")
    bad, gone = math.ceil(colluding * clients), math.ceil(dropping * clients)
    from scipy.stats import hypergeom  # a second to import, which small cohorts need not wait for

    for k in range(2, clients - 1, 2):
        if clients * _run(bad + gone, clients, k // 2) > failure:
            continue
        for t in range((k + 1) // 2 + 1, k + 2):
            unsafe = hypergeom.sf(t - 1, clients - 1, bad, k)
            stuck = hypergeom.cdf(t - 2, clients - 1, clients - gone - 1, k)  # one that is left
            if gone:  # one that dropped out, whose key the others open
                stuck = max(stuck, hypergeom.cdf(t - 1, clients - 1, clients - gone, k))
            if clients * max(unsafe, stuck) <= failure:
                return k, t
    return 2 * ((clients - 1) // 2 + (clients - 1) % 2), default_threshold(clients)


def _run(removed: int, clients: int, length: int) -> float:
    """Probability that so many given places of a random circle are all removed ones."""
    return math.prod(max(removed - i, 0) / (clients - i) for i in range(length))
