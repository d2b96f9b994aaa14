"""A sum that shows nothing but itself: masks that cancel, and shares for those who drop out.

The protocol of Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine
Learning", CCS 2017, over integers modulo 2⁶⁴. It holds against a server that keeps to the protocol
and looks at everything, together with fewer than t clients. It does not hold against clients that
send wrong numbers: nobody can look at one upload.

Stages: each client advertises two public keys; deals shares of its secrets to the others; sends
its vector under masks; and, once the server says who is left, gives the shares that take off the
masks: for those who are left the share of their own mask's seed, for those who dropped out that of
their key, and never both for one client.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from afl.errors import BelowThreshold, RejectedUpload, ReplayedUpload, TooFewClients
from afl.fixed_point import Ring
from afl.masking import KEY_BYTES, mask, private_key, public_key, seal, shared_key, unseal
from afl.shamir import SHARE_BYTES, combine, split
from lipogram.errors import InvalidSetting

MINIMUM_COHORT = 3
PARCEL_BYTES = 2 * SHARE_BYTES + 16  # two shares and the cipher's tag


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
        threshold: t, shares that open a secret; more than half of the clients.
        minimum_cohort: neither side takes part in a sum of fewer clients.
    """

    name: str
    size: int
    threshold: int
    minimum_cohort: int = MINIMUM_COHORT


class SecureSumClient:
    """One client's side.

    Args:
        name: its name.
        session: what is summed.
    """

    def __init__(self, name: str, session: Session) -> None:
        self.name, self.session = name, session
        self._channel, self._key, self._seed = private_key(), private_key(), secrets.token_bytes(32)
        self._roster: dict[str, Advert] = {}
        self._shares: dict[str, bytes] = {}
        self._opened = self._masked = False

    def __repr__(self) -> str:
        return f"SecureSumClient({self.name!r})"

    def advertise(self) -> Advert:
        """Stage 1: public keys."""
        return Advert(public_key(self._channel), public_key(self._key))

    def deal(self, roster: Mapping[str, Advert]) -> dict[str, bytes]:
        """Stage 2: shares of both secrets, one encrypted parcel for each other client.

        Raises:
            RejectedUpload: a roster without this client's own keys, or with damaged ones.
            TooFewClients: a roster below the threshold.
            ReplayedUpload: shares were dealt before.
        """
        if self._roster:
            raise ReplayedUpload(f"{self.name!r} has dealt its shares: begin another session")
        if roster.get(self.name) != self.advertise():
            raise RejectedUpload(f"the roster has other keys for {self.name!r} than its own")
        if len({a.masks for a in roster.values()}) < len(roster):
            raise RejectedUpload("two clients of the roster have one key")
        check_cohort(self.session, len(roster))
        names = sorted(roster)
        keys = split(self._key, self.session.threshold, len(names))
        seeds = split(self._seed, self.session.threshold, len(names))
        parcels, own = {}, b""
        for place, name in enumerate(names):
            text = keys[place] + seeds[place]
            if name == self.name:
                own = text
                continue
            mask_seed(self._key, roster[name], self.session, self.name, name)  # or it is no key
            parcels[name] = seal(self._parcel_key(roster[name], self.name, name), text, self.name)
        self._roster, self._shares = dict(roster), {self.name: own}
        return parcels

    def mask(self, vector: Ring, parcels: Mapping[str, bytes]) -> Ring:
        """Stage 3: the vector under its own mask and one for each client that dealt.

        Args:
            vector: (size,).
            parcels: from each other client that dealt, by sender.

        Raises:
            RejectedUpload: another length, an unknown sender, or a parcel that was changed.
            BelowThreshold: fewer clients dealt than the threshold.
            ReplayedUpload: a vector was sent before; two under one mask would show their
                difference.
        """
        if self._masked:
            raise ReplayedUpload(f"{self.name!r} has sent its vector: begin another session")
        if vector.shape != (self.session.size,) or vector.dtype != np.uint64:
            raise RejectedUpload(f"a vector of {vector.shape}, agreed were {self.session.size}")
        if len(parcels) + 1 < self.session.threshold:
            raise BelowThreshold(
                f"{len(parcels) + 1} clients dealt shares, {self.session.threshold} are needed"
            )
        opened = {}
        for sender, parcel in parcels.items():
            if sender not in self._roster or sender == self.name:
                raise RejectedUpload(f"a parcel from {sender!r}, which is not in the roster")
            key = self._parcel_key(self._roster[sender], sender, self.name)
            opened[sender] = unseal(key, parcel, sender)
            if len(opened[sender]) != 2 * SHARE_BYTES:
                raise RejectedUpload(f"a parcel of another size from {sender!r}")
        total = vector + mask(self._seed, self.session.size)
        for peer in opened:
            key = mask_seed(self._key, self._roster[peer], self.session, self.name, peer)
            total += signed(mask(key, self.session.size), self.name < peer)
        self._masked = True
        self._shares |= opened
        return total

    def open(self, survivors: Collection[str]) -> dict[str, bytes]:
        """Stage 4: for each client that dealt, one share, of its seed or of its key.

        Args:
            survivors: clients whose vectors arrived.

        Raises:
            BelowThreshold: fewer than the threshold or the minimum cohort: no mask may come off.
            RejectedUpload: a survivor that never dealt.
            ReplayedUpload: asked a second time; both shares of one client would lay it open.
        """
        if self._opened:
            raise ReplayedUpload(f"{self.name!r} has opened its shares once, and never does again")
        left = set(survivors)
        if stranger := sorted(left - set(self._shares)):
            raise RejectedUpload(f"{stranger[0]!r} is named as a survivor, but dealt no shares")
        needed = max(self.session.threshold, self.session.minimum_cohort)
        if len(left) < needed or self.name not in left:
            raise BelowThreshold(f"{len(left)} clients are left, {needed} are needed")
        self._opened = True
        return {
            name: text[SHARE_BYTES:] if name in left else text[:SHARE_BYTES]
            for name, text in self._shares.items()
        }

    def _parcel_key(self, advert: Advert, sender: str, receiver: str) -> bytes:
        purpose = f"parcel {sender!r} to {receiver!r}"
        return shared_key(self._channel, advert.channel, purpose, self.session.name)


@dataclass
class SecureSumServer:
    """The server's side: it passes parcels on, adds masked vectors, and opens only their sum.

    Each method takes one client's message, and refuses a second one, one from a stranger, and one
    of another stage, without a change. What the server has told a client closes the stage before:
    the roster closes registration, the first mailbox the dealing, the survivors' list the vectors.
    Else clients would mask against different lists, and the sum would be noise.

    Attributes:
        session: what is summed.
    """

    session: Session
    adverts: dict[str, Advert] = field(default_factory=dict)
    parcels: dict[str, dict[str, bytes]] = field(default_factory=dict)
    vectors: dict[str, Ring] = field(default_factory=dict, repr=False)
    shares: dict[str, dict[str, bytes]] = field(default_factory=dict, repr=False)
    _closed: set[str] = field(default_factory=set, repr=False)

    def register(self, name: str, advert: Advert) -> None:
        """Stage 1."""
        _once(name, self.adverts, "keys")
        self._check_open("keys", name)
        if {len(advert.channel), len(advert.masks)} != {KEY_BYTES}:
            raise RejectedUpload(f"{name!r} sent keys of another length")
        self.adverts[name] = advert

    def roster(self) -> dict[str, Advert]:
        """Everybody's public keys.

        Raises:
            TooFewClients: fewer than the minimum, or than the threshold.
        """
        check_cohort(self.session, len(self.adverts))
        self._closed.add("keys")
        return dict(self.adverts)

    def deliver(self, name: str, parcels: Mapping[str, bytes]) -> None:
        """Stage 2: take a client's parcels for the others."""
        _known(name, self.adverts)
        _once(name, self.parcels, "parcels")
        self._check_open("parcels", name)
        sizes = {len(parcel) for parcel in parcels.values()}
        if set(parcels) != set(self.adverts) - {name} or sizes != {PARCEL_BYTES}:
            raise RejectedUpload(f"{name!r} sent parcels that do not fit the roster, or their size")
        self.parcels[name] = dict(parcels)

    def mailbox(self, name: str) -> dict[str, bytes]:
        """Parcels for a client, by sender."""
        _known(name, self.parcels)
        self._closed.add("parcels")
        return {sender: sent[name] for sender, sent in self.parcels.items() if sender != name}

    def collect(self, name: str, vector: Ring) -> None:
        """Stage 3: take a masked vector."""
        _known(name, self.parcels)
        _once(name, self.vectors, "a vector")
        self._check_open("vectors", name)
        if vector.shape != (self.session.size,) or vector.dtype != np.uint64:
            raise RejectedUpload(
                f"{name!r} sent a vector of {vector.shape} {vector.dtype}, agreed were "
                f"{self.session.size} integers"
            )
        self.vectors[name] = vector

    def survivors(self) -> list[str]:
        """Clients whose vectors arrived.

        Raises:
            BelowThreshold: fewer than the threshold: the masks stay on for ever.
            TooFewClients: fewer than the minimum cohort.
        """
        if len(self.vectors) < self.session.threshold:
            raise BelowThreshold(
                f"{len(self.vectors)} vectors arrived, {self.session.threshold} are needed: "
                "nothing can be opened"
            )
        if len(self.vectors) < self.session.minimum_cohort:
            raise TooFewClients(
                f"{len(self.vectors)} vectors, at least {self.session.minimum_cohort} hide one "
                "another"
            )
        self._closed.add("vectors")
        return sorted(self.vectors)

    def receive(self, name: str, shares: Mapping[str, bytes]) -> None:
        """Stage 4: take a survivor's shares."""
        _known(name, self.vectors)
        _once(name, self.shares, "shares")
        if set(shares) != set(self.parcels) or {len(s) for s in shares.values()} != {SHARE_BYTES}:
            raise RejectedUpload(f"{name!r} sent shares of other clients, or of another length")
        self.shares[name] = dict(shares)

    def result(self) -> Ring:
        """The sum (size,) of the survivors' vectors.

        Raises:
            BelowThreshold: fewer clients sent shares than the threshold.
            RejectedUpload: shares that open another key than the client had.
        """
        left, threshold = self.survivors(), self.session.threshold
        if len(self.shares) < threshold:
            raise BelowThreshold(
                f"{len(self.shares)} clients sent shares, {threshold} are needed: nothing is opened"
            )
        place = {name: i for i, name in enumerate(sorted(self.adverts), start=1)}
        size = self.session.size
        total = np.zeros(size, dtype=np.uint64)
        for name in left:
            total += self.vectors[name]
        for name in self.parcels:
            held = {place[sender]: sent[name] for sender, sent in self.shares.items()}
            secret = combine(held, threshold)
            if name in self.vectors:
                total -= mask(secret, size)
                continue
            if public_key(secret) != self.adverts[name].masks:
                raise RejectedUpload(f"the shares of {name!r} do not open its key")
            for peer in left:
                seed = mask_seed(secret, self.adverts[peer], self.session, name, peer)
                total -= signed(mask(seed, size), peer < name)
        return total

    def _check_open(self, stage: str, name: str) -> None:
        if stage in self._closed:
            raise RejectedUpload(f"{name!r} comes too late: the list of {stage} is closed")


def secure_sum(
    vectors: Mapping[str, Ring],
    *,
    session: str = "",
    threshold: int | None = None,
    minimum_cohort: int = MINIMUM_COHORT,
    dropped: Iterable[str] = (),
) -> tuple[Ring, list[str]]:
    """The whole protocol in one process.

    Args:
        vectors: (size,) integers of each client.
        session: unique name of this sum; a random one by default.
        threshold: t; two thirds of the clients by default.
        minimum_cohort: fewer clients are refused.
        dropped: clients that disappear after dealing their shares.

    Returns:
        The sum of the survivors' vectors, and their names.

    Raises:
        TooFewClients, BelowThreshold, RejectedUpload: see the two sides.
    """
    if not vectors:
        raise TooFewClients("there is no vector to sum")
    needed = default_threshold(len(vectors)) if threshold is None else threshold
    size = len(next(iter(vectors.values())))
    agreed = Session(session or secrets.token_hex(16), size, needed, minimum_cohort)
    server = SecureSumServer(agreed)
    clients = {name: SecureSumClient(name, agreed) for name in vectors}
    for name, client in clients.items():
        server.register(name, client.advertise())
    roster = server.roster()
    for name, client in clients.items():
        server.deliver(name, client.deal(roster))
    gone = set(dropped)
    for name, client in clients.items():
        if name not in gone:
            server.collect(name, client.mask(vectors[name], server.mailbox(name)))
    left = server.survivors()
    for name in left:
        server.receive(name, clients[name].open(left))
    return server.result(), left


def default_threshold(clients: int) -> int:
    """Two thirds of the clients, rounded up, and more than half."""
    return max(math.ceil(2 * clients / 3), clients // 2 + 1)


def check_cohort(session: Session, clients: int) -> None:
    """Raise unless the cohort is large enough, and t more than half of it and at most all.

    With half of them or fewer, a server could have one client opened in both ways by two halves.

    Raises:
        TooFewClients: fewer clients than the minimum or than t.
        InvalidSetting: t is too small.
    """
    threshold = session.threshold
    if clients < session.minimum_cohort:
        raise TooFewClients(
            f"{clients} clients, at least {session.minimum_cohort} hide one another"
        )
    if clients < threshold:
        raise TooFewClients(f"{clients} clients, the threshold is {threshold}")
    if 2 * threshold <= clients:
        raise InvalidSetting(
            f"threshold {threshold} of {clients} clients: it must be more than half of them"
        )


def mask_seed(private: bytes, other: Advert, session: Session, mine: str, theirs: str) -> bytes:
    """Seed of the mask between two clients."""
    return shared_key(private, other.masks, "mask", session.name, mine, theirs)


def signed(values: Ring, positive: bool) -> Ring:
    """The mask, or its negative: of two clients the first by name adds, the other subtracts."""
    return values if positive else np.uint64(0) - values


def _once(name: str, held: Collection[str], what: str) -> None:
    if name in held:
        raise ReplayedUpload(f"{name!r} has sent {what} before")


def _known(name: str, held: Collection[str]) -> None:
    if name not in held:
        raise RejectedUpload(f"{name!r} is not in this stage of the sum")
