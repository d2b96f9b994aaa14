"""One client's side of a masked sum; :mod:`afl.secure_sum` tells what it does and assumes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping
from dataclasses import asdict

import numpy as np

from afl.cohort import Advert, Session, check_cohort, neighbourhoods
from afl.errors import BelowThreshold, RejectedUpload, ReplayedUpload
from afl.fixed_point import Ring
from afl.limits import MINIMUM_COHORT
from afl.masking import mask, mask_seed, private_key, public_key, seal, shared_key, signed, unseal
from afl.shamir import SHARE_BYTES, split
from lipogram.errors import CorruptState, LipogramError


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
        """Stage 2: shares of both secrets, one encrypted parcel for each neighbour.

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
        group = neighbourhoods(self.session, roster)[self.name]
        keys = split(self._key, self.session.threshold, len(group))
        seeds = split(self._seed, self.session.threshold, len(group))
        parcels, own = {}, b""
        for place, name in enumerate(group):
            text = keys[place] + seeds[place]
            if name == self.name:
                own = text
                continue
            mask_seed(self._key, roster[name].masks, self.session.name, self.name, name)  # or none
            parcels[name] = seal(self._parcel_key(roster[name], self.name, name), text, self.name)
        self._roster, self._shares = dict(roster), {self.name: own}
        return parcels

    def mask(self, vector: Ring, parcels: Mapping[str, bytes]) -> Ring:
        """Stage 3: the vector under its own mask and one for each neighbour that dealt.

        Args:
            vector: (size,).
            parcels: from each neighbour that dealt, by sender.

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
        group = self._group()
        opened = {}
        for sender, parcel in parcels.items():
            if sender not in group or sender == self.name:
                raise RejectedUpload(f"a parcel from {sender!r}, which is not in the roster")
            key = self._parcel_key(self._roster[sender], sender, self.name)
            opened[sender] = unseal(key, parcel, sender)
            if len(opened[sender]) != 2 * SHARE_BYTES:
                raise RejectedUpload(f"a parcel of another size from {sender!r}")
        total = vector + mask(self._seed, self.session.size)
        for peer in opened:
            key = mask_seed(self._key, self._roster[peer].masks, self.session.name, self.name, peer)
            total += signed(mask(key, self.session.size), self.name < peer)
        self._masked = True
        self._shares |= opened
        return total

    def open(self, survivors: Collection[str]) -> dict[str, bytes]:
        """Stage 4: for each neighbour that dealt, one share, of its seed or of its key.

        Args:
            survivors: clients whose vectors arrived.

        Raises:
            BelowThreshold: fewer than the threshold or the minimum cohort: no mask may come off.
            RejectedUpload: a survivor that never dealt.
            ReplayedUpload: asked a second time; both shares of one client would lay it open.
        """
        if self._opened:
            raise ReplayedUpload(f"{self.name!r} has opened its shares once, and never does again")
        left, group = set(survivors), self._group()
        dealt = set(self._shares)
        if stranger := sorted(left - set(self._roster) | (left & set(group)) - dealt):
            raise RejectedUpload(f"{stranger[0]!r} is named as a survivor, but dealt no shares")
        near, needed = len(left & dealt), self.session.threshold
        least = max(self.session.minimum_cohort, MINIMUM_COHORT)
        if near < needed or len(left) < least or self.name not in left:
            raise BelowThreshold(
                f"{len(left)} clients are left, {near} of them near {self.name!r}; "
                f"{least} and {needed} are needed"
            )
        self._opened = True
        return {
            name: text[SHARE_BYTES:] if name in left else text[:SHARE_BYTES]
            for name, text in self._shares.items()
        }

    # ------------------------------------------------------------------ keeping

    def to_bytes(self) -> bytes:
        """Everything, secrets included, for a process that ends between two stages; keep it."""
        held = {
            "name": self.name,
            "session": asdict(self.session),
            "secrets": [s.hex() for s in (self._channel, self._key, self._seed)],
            "roster": {n: [a.channel.hex(), a.masks.hex()] for n, a in self._roster.items()},
            "shares": {n: s.hex() for n, s in self._shares.items()},
            "done": [self._masked, self._opened],
        }
        return json.dumps(held).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> SecureSumClient:
        """The client that :meth:`to_bytes` kept.

        Raises:
            CorruptState: no such state.
        """
        try:
            held = json.loads(data)
            made = cls(held["name"], Session(**held["session"]))
            made._channel, made._key, made._seed = (bytes.fromhex(s) for s in held["secrets"])
            made._roster = {
                n: Advert(bytes.fromhex(c), bytes.fromhex(m))
                for n, (c, m) in held["roster"].items()
            }
            made._shares = {n: bytes.fromhex(s) for n, s in held["shares"].items()}
            made._masked, made._opened = (bool(flag) for flag in held["done"])
        except (LipogramError, KeyError, TypeError, ValueError, AttributeError):
            raise CorruptState("what was kept between two stages of a sum is damaged") from None
        return made

    # ------------------------------------------------------------------ inside

    def _group(self) -> list[str]:
        return neighbourhoods(self.session, self._roster).get(self.name, [])

    def _parcel_key(self, advert: Advert, sender: str, receiver: str) -> bytes:
        purpose = f"parcel {sender!r} to {receiver!r}"
        return shared_key(self._channel, advert.channel, purpose, self.session.name)
