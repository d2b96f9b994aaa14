"""Vectors that were sent, kept so that the same question never costs, or tells, a second time.

Whoever receives many draws of noise around one signal can average the noise away. So a vector is
drawn once for a subject, a bank, a mechanism with its ε and a set of spans, and sent again as it
is. Draw, count and keeping are one transaction of the ledger's database: of many processes that
ask at once, one draws.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from privacyrestore.accounting import Spent
from privacyrestore.guarantee import Guarantee
from privacyrestore.ledger import PrivacyLedger


@dataclass(frozen=True)
class HeldMessage:
    """A message for the wire.

    Attributes:
        message: its bytes.
        new_release: whether it was drawn just now.
        spent: what the subject's releases cost together.
    """

    message: bytes = field(repr=False)
    new_release: bool = field(repr=False)
    spent: Spent


class NoiseCache:
    """The messages of a ledger's releases, each encrypted, found by a keyed digest.

    The weights of the spans are no part of what a message is found by: a second text with the same
    spans gets the first one's message, and tells nothing new by its weights.

    Args:
        ledger: counts the releases; its database and key are used.
    """

    def __init__(self, ledger: PrivacyLedger):
        self.ledger = ledger

    def kept(
        self, subject: str, bank: str, guarantee: Guarantee, spans: Sequence[int]
    ) -> HeldMessage | None:
        """The message that was kept, or None; arguments and errors as of :meth:`message`."""
        with self.ledger.database.reading() as connection:
            held = self._held(connection, self._key(subject, bank, guarantee, spans))
        return None if held is None else HeldMessage(held, False, self.ledger.spent(subject))

    def message(
        self,
        subject: str,
        bank: str,
        guarantee: Guarantee,
        spans: Sequence[int],
        draw: Callable[[], bytes],
    ) -> HeldMessage:
        """The message that was kept, or a new one: counted, drawn and kept, or none of it.

        Args:
            subject: whom the text is about.
            bank: its SHA-256.
            guarantee: of the mechanism with this bank.
            spans: rows of the bank, in any order; none for a text without spans, which has a
                message like all others.
            draw: makes the new message; other processes wait meanwhile.

        Raises:
            BudgetSpent: a new one would pass the budget; nothing was drawn or written.
            CorruptState, FolderInUse, UnwritableState: the file.
        """
        if (kept := self.kept(subject, bank, guarantee, spans)) is not None:
            return kept
        key = self._key(subject, bank, guarantee, spans)
        with self.ledger.database.transaction() as connection:
            held = self._held(connection, key)  # another process may have been first
            if held is None:
                spent = self.ledger.spend_in(connection, subject, bank, guarantee)
                drawn = draw()
                sealed = self.ledger.key.seal(drawn, key)
                connection.execute("INSERT INTO noise VALUES (?, ?)", (key, sealed))
        if held is None:
            return HeldMessage(drawn, True, spent)
        return HeldMessage(held, False, self.ledger.spent(subject))

    def _held(self, connection: sqlite3.Connection, key: bytes) -> bytes | None:
        row = connection.execute("SELECT sealed FROM noise WHERE key = ?", (key,)).fetchone()
        return None if row is None else self.ledger.key.unseal(row[0], key)

    def _key(self, subject: str, bank: str, guarantee: Guarantee, spans: Sequence[int]) -> bytes:
        content = {
            "subject": subject,
            "bank": bank,
            "mechanism": guarantee.mechanism,
            "epsilon": repr(guarantee.metric_epsilon),
            "local_epsilon": repr(guarantee.local_epsilon),
            "delta": repr(guarantee.delta),
            "spans": sorted(set(spans)),
        }
        return self.ledger.key.lookup(json.dumps(content, sort_keys=True).encode())
