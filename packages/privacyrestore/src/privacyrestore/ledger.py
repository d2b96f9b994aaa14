"""The count of what has been released about whom, kept so that it never counts too little.

A release is written down, and on disk, before anything of it is sent: a client that is killed in
between has counted one that nobody saw, and never the other way round.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lipogram.errors import CorruptState, InvalidSetting
from privacyrestore.accounting import Release, Spent, spent
from privacyrestore.client_key import ClientKey, state_folder
from privacyrestore.errors import BudgetSpent
from privacyrestore.guarantee import Guarantee
from privacyrestore.state_database import StateDatabase

ROUNDED = 1 + 1e-12
"""A budget that is spent to its last digit is not passed."""


@dataclass(frozen=True)
class LedgerRow:
    """One release.

    Attributes:
        time: when, in seconds since 1970.
        bank: its SHA-256.
        mechanism: its name.
        epsilon: ε of metric privacy; None where the mechanism has none.
        delta: δ.
        diameter: Δ of the bank.
        local_epsilon: ε·Δ, or what else bounds the worst case; infinite without noise.
    """

    time: float
    bank: str
    mechanism: str
    epsilon: float | None
    delta: float
    diameter: float
    local_epsilon: float


class PrivacyLedger:
    """All releases of this user, by subject; any number of processes may use one file.

    Who puts an old copy of the file back counts too little: releases since then are not in it.

    Args:
        path: an SQLite file; None for `ledger.db` in the user's state folder. It and its folder
            are for the user alone, and each row is encrypted with `key`.
        budget: the worst-case local ε that a subject's releases may reach together; None for any.
        key: None for the key in the file `key` beside it.

    Raises:
        CorruptState: a file that is no ledger, is damaged, or belongs to another key; it is left
            as it is.
        InvalidSetting: a budget that is none, or files that other users can reach.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        budget: float | None = None,
        *,
        key: ClientKey | None = None,
    ):
        if budget is not None and not 0 < budget < math.inf:
            raise InvalidSetting(f"the budget is {budget!r}: it must be finite and above 0")
        self.budget = budget
        self.database = StateDatabase(path or state_folder() / "ledger.db", key)
        self.releases()  # each row opens, or it is told now

    @property
    def key(self) -> ClientKey:
        """What the rows are sealed with."""
        return self.database.key

    def spend(self, subject: str, bank: str, guarantee: Guarantee) -> Spent:
        """Count one release, if the budget allows; only then may it be drawn and sent.

        Returns:
            What the subject's releases cost together, this one included.

        Raises:
            BudgetSpent: it does not; nothing was written.
            CorruptState, FolderInUse, UnwritableState: the file.
        """
        with self.database.transaction() as connection:
            return self.spend_in(connection, subject, bank, guarantee)

    def spend_in(
        self, connection: sqlite3.Connection, subject: str, bank: str, guarantee: Guarantee
    ) -> Spent:
        """:meth:`spend` as a part of a transaction of the ledger's database."""
        name = self.key.subject(subject)
        row = LedgerRow(
            time.time(),
            bank,
            guarantee.mechanism,
            guarantee.metric_epsilon,
            guarantee.delta,
            guarantee.diameter,
            guarantee.local_epsilon,
        )
        rows = self._rows(connection, name)
        after = spent([_release(each) for each in (*rows, row)])
        if self.budget is not None and after.local_epsilon > self.budget * ROUNDED:
            before = spent([_release(each) for each in rows])
            raise BudgetSpent(
                f"the budget is a worst-case local ε of {self.budget:g} a subject; "
                f"{before.local_epsilon:g} are spent, and this release would make it "
                f"{after.local_epsilon:g}. Nothing was sent: questions about spans that were sent "
                "before cost nothing, others need a larger budget"
            )
        (number,) = connection.execute(
            "SELECT COALESCE(MAX(number), 0) + 1 FROM releases"
        ).fetchone()
        # As text: JSON knows no infinity.
        content = json.dumps(asdict(row) | {"local_epsilon": repr(row.local_epsilon)}).encode()
        sealed = self.key.seal(content, _place(number, name))
        connection.execute("INSERT INTO releases VALUES (?, ?, ?)", (number, name, sealed))
        return after

    def releases(self, subject: str | None = None) -> list[LedgerRow]:
        """The releases about a subject, or all, oldest first.

        Raises:
            CorruptState: a row that was changed or removed.
        """
        name = None if subject is None else self.key.subject(subject)
        with self.database.reading() as connection:
            return self._rows(connection, name)

    def spent(self, subject: str | None = None) -> Spent:
        """What the releases about a subject cost together, or all of them; errors as above."""
        return spent([_release(row) for row in self.releases(subject)])

    def _rows(self, connection: sqlite3.Connection, name: bytes | None) -> list[LedgerRow]:
        last, count = connection.execute("SELECT MAX(number), COUNT(*) FROM releases").fetchone()
        if (last or 0) != count:
            raise CorruptState(
                f"releases are missing from {self.database.path}: put it back from a copy"
            )
        found: Sequence[tuple[int, bytes, bytes]] = connection.execute(
            "SELECT number, subject, sealed FROM releases "
            "WHERE ?1 IS NULL OR subject = ?1 ORDER BY number",
            (name,),
        ).fetchall()
        rows = []
        for number, of, sealed in found:
            told: dict[str, Any] = json.loads(self.key.unseal(sealed, _place(number, of)))
            told["local_epsilon"] = float(told["local_epsilon"])
            rows.append(LedgerRow(**told))
        return rows


def _release(row: LedgerRow) -> Release:
    return Release(row.local_epsilon, row.delta, row.epsilon)


def _place(number: int, subject: bytes) -> bytes:
    return b"release %d of " % number + subject
