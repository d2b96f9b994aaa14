"""Who is in the sum, who left, and a proof that nobody rewrote the list.

Each entry carries the hash of the one before and of the exact total after it. Two federations with
the same total hash hold the same integers: a client that was removed is gone to the last bit.
Private releases and the terms of privacy are entries too, so that no cost is taken back unseen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lipogram.errors import CorruptState

START = "0" * 64


@dataclass(frozen=True)
class Entry:
    """One change of the total.

    Attributes:
        sequence: 1, 2, …
        action: ``"add"`` or ``"remove"``; ``"release"`` of something private, ``"terms"`` that hold
            from here on: these leave the total as it is and have no client.
        client: whose statistics, or the name of a masked cohort.
        round: the sender's number for them.
        rows: rows behind them.
        digest: SHA-256 of them.
        members: clients of a masked cohort; empty for one client.
        total: SHA-256 of the exact total afterwards.
        previous: hash of the entry before.
        hash: of all the others.
        claim: what added statistics say about their noise, what a release costs, or the terms.
    """

    sequence: int
    action: Literal["add", "remove", "release", "terms"]
    client: str
    round: int
    rows: int
    digest: str
    members: tuple[str, ...]
    total: str
    previous: str
    hash: str = ""
    claim: Mapping[str, Any] | None = None

    def sealed(self) -> Entry:
        """The entry with its hash."""
        content = {k: v for k, v in asdict(self).items() if k != "hash"}
        if self.claim is None:  # sealed as before there were claims
            del content["claim"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return replace(self, hash=hashlib.sha256(text.encode()).hexdigest())


class Ledger:
    """An append-only list of entries, each bound to the one before."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries: list[Entry] = []
        self._present: dict[tuple[str, int], Entry] = {}
        self._last_round: dict[str, int] = {}
        self._claims: dict[str, list[Mapping[str, Any]]] = {}
        for entry in entries:
            self._keep(entry)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def present(self) -> dict[tuple[str, int], Entry]:
        """Contributions that are in the total, by client and round."""
        return self._present

    def last_round(self, client: str) -> int | None:
        """The highest round that a client has ever used, or None."""
        return self._last_round.get(client)

    def append(self, **facts: Any) -> Entry:
        """Seal a further entry; ``facts`` are the other fields of :class:`Entry`."""
        previous = self.entries[-1].hash if self.entries else START
        entry = Entry(sequence=len(self.entries) + 1, previous=previous, **facts).sealed()
        self._keep(entry)
        return entry

    def note(self, action: str, claim: Mapping[str, Any]) -> Entry:
        """Seal an entry of a release or of terms; the total stays as it is."""
        return self.append(
            action=action,
            client="",
            round=0,
            rows=0,
            digest="",
            members=(),
            total=self.entries[-1].total if self.entries else "",
            claim=dict(claim),
        )

    def claims(self, action: str) -> list[Mapping[str, Any]]:
        """Claims of all entries with an action, in order."""
        return list(self._claims.get(action, ()))

    def _keep(self, entry: Entry) -> None:
        self.entries.append(entry)
        if entry.claim is not None:
            self._claims.setdefault(entry.action, []).append(entry.claim)
        if entry.action not in ("add", "remove"):
            return
        key = entry.client, entry.round
        if entry.action == "add":
            self._present[key] = entry
        else:
            self._present.pop(key, None)
        self._last_round[entry.client] = max(entry.round, self._last_round.get(entry.client, 0))

    def verify(self) -> None:
        """Raise CorruptState at the first entry that was changed, left out or put in."""
        previous = START
        for number, entry in enumerate(self.entries, start=1):
            if (entry.sequence, entry.previous, entry.hash) != (
                number,
                previous,
                entry.sealed().hash,
            ):
                raise CorruptState(f"entry {number} of the ledger is not the one that was written")
            previous = entry.hash

    def describe(self) -> list[dict[str, Any]]:
        """The entries as JSON values."""
        return [{**asdict(entry), "members": list(entry.members)} for entry in self.entries]

    @classmethod
    def restore(cls, described: Iterable[Mapping[str, Any]]) -> Ledger:
        """The ledger that :meth:`describe` described, verified.

        Raises:
            CorruptState: something in it was changed.
        """
        try:
            entries = [Entry(**{**e, "members": tuple(e["members"])}) for e in described]
        except (TypeError, KeyError) as error:
            raise CorruptState(f"the ledger does not fit together: {error}") from None
        ledger = cls(entries)
        ledger.verify()
        return ledger
