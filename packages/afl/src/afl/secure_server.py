"""The server's side of a masked sum; :mod:`afl.secure_sum` tells what it does and assumes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from afl.cohort import Advert, Session, check_cohort, neighbourhoods
from afl.errors import BelowThreshold, RejectedUpload, ReplayedUpload, TooFewClients
from afl.fixed_point import Ring
from afl.limits import MINIMUM_COHORT
from afl.masking import KEY_BYTES, mask, mask_seed, public_key, signed
from afl.shamir import SHARE_BYTES, combine

PARCEL_BYTES = 2 * SHARE_BYTES + 16  # two shares and the cipher's tag


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
    _groups: dict[str, list[str]] = field(default_factory=dict, repr=False)

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
        if "keys" not in self._closed:
            self._groups = neighbourhoods(self.session, self.adverts)
            self._closed.add("keys")
        return dict(self.adverts)

    def deliver(self, name: str, parcels: Mapping[str, bytes]) -> None:
        """Stage 2: take a client's parcels for its neighbours."""
        _known(name, self._groups)
        _once(name, self.parcels, "parcels")
        self._check_open("parcels", name)
        sizes = {len(parcel) for parcel in parcels.values()}
        if set(parcels) != set(self._groups[name]) - {name} or sizes != {PARCEL_BYTES}:
            raise RejectedUpload(f"{name!r} sent parcels that do not fit the roster, or their size")
        self.parcels[name] = dict(parcels)

    def mailbox(self, name: str) -> dict[str, bytes]:
        """Parcels for a client, by sender."""
        _known(name, self.parcels)
        self._closed.add("parcels")
        return {sender: self.parcels[sender][name] for sender in self._dealt(name, but=name)}

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
            BelowThreshold: fewer than the threshold in some neighbourhood: the masks stay on for
                ever.
            TooFewClients: fewer than the minimum cohort.
        """
        left = set(self.vectors)
        for name in self.parcels:
            near = len(left.intersection(self._groups[name]))
            if near < self.session.threshold:
                raise BelowThreshold(
                    f"{near} vectors arrived near {name!r}, {self.session.threshold} are needed: "
                    "nothing can be opened"
                )
        least = max(self.session.minimum_cohort, MINIMUM_COHORT)
        if len(left) < least:
            raise TooFewClients(f"{len(left)} vectors, at least {least} hide one another")
        self._closed.add("vectors")
        return sorted(left)

    def receive(self, name: str, shares: Mapping[str, bytes]) -> None:
        """Stage 4: take a survivor's shares."""
        _known(name, self.vectors)
        _once(name, self.shares, "shares")
        expected = set(self._dealt(name))
        if set(shares) != expected or {len(s) for s in shares.values()} != {SHARE_BYTES}:
            raise RejectedUpload(f"{name!r} sent shares of other clients, or of another length")
        self.shares[name] = dict(shares)

    def result(self) -> Ring:
        """The sum (size,) of the survivors' vectors.

        Raises:
            BelowThreshold: fewer clients sent shares than the threshold.
            RejectedUpload: shares that open another key than the client had.
        """
        left = self.survivors()
        secrets = {name: self._open(name) for name in self.parcels}  # all of them, or no sum at all
        size = self.session.size
        total = np.zeros(size, dtype=np.uint64)
        for name in left:
            total += self.vectors[name]
            total -= mask(secrets[name], size)
        for name in sorted(set(self.parcels) - set(left)):
            if public_key(secrets[name]) != self.adverts[name].masks:
                raise RejectedUpload(f"the shares of {name!r} do not open its key")
            for peer in self._dealt(name):
                if peer in self.vectors:
                    other = self.adverts[peer].masks
                    seed = mask_seed(secrets[name], other, self.session.name, name, peer)
                    total -= signed(mask(seed, size), peer < name)
        return total

    def _open(self, name: str) -> bytes:
        """A survivor's seed, or the key of one that dropped out."""
        held = {
            place: self.shares[sender][name]
            for place, sender in enumerate(self._groups[name], start=1)
            if sender in self.shares
        }
        if len(held) < self.session.threshold:
            raise BelowThreshold(
                f"{len(held)} clients sent shares of {name!r}, {self.session.threshold} are "
                "needed: nothing is opened"
            )
        return combine(held, self.session.threshold)

    def _dealt(self, name: str, but: str | None = None) -> list[str]:
        return [peer for peer in self._groups[name] if peer in self.parcels and peer != but]

    def _check_open(self, stage: str, name: str) -> None:
        if stage in self._closed:
            raise RejectedUpload(f"{name!r} comes too late: the list of {stage} is closed")


def _once(name: str, held: Collection[str], what: str) -> None:
    if name in held:
        raise ReplayedUpload(f"{name!r} has sent {what} before")


def _known(name: str, held: Collection[str]) -> None:
    if name not in held:
        raise RejectedUpload(f"{name!r} is not in this stage of the sum")
