"""The count of all that was ever run on a data set, kept so that it never counts too little.

A run is in the file, and on disk, before its first noise is drawn, with all the steps that it may
take; a run that fails, is killed or was only a trial stays in it. What it really took is written
when it is over. Each line holds the hash of the line before, so that no line can be changed or
taken out from between others; whoever puts an old copy back counts too little, and is found out by
comparing :attr:`PrivacyLedger.head` with what was noted elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lipogram.analytic.settings import positive, whole
from lipogram.errors import CorruptState, InvalidSetting, RunMismatch
from lipogram.files import locked, write_atomically
from rewardds.accounting import epsilon
from rewardds.data_key import state_folder
from rewardds.errors import BudgetSpent
from rewardds.privacy_loss import AnyRelease
from rewardds.privacy_statement import release_as_json, release_from_json

FORMAT = "rewardds-ledger/1"
ROUNDED = 1 + 1e-9  # a budget that is spent to its last digit is not passed


@dataclass(frozen=True)
class LedgerRow:
    """One run.

    Attributes:
        dataset: the keyed fingerprint of the records.
        run: its name, one for ever.
        release: what it may have cost: all steps that it was allowed, or those that it took.
        settled: whether it is over.
        time: when it began, in seconds since 1970.
    """

    dataset: str
    run: str
    release: AnyRelease
    settled: bool
    time: float


class PrivacyLedger:
    """All runs by data set; any number of processes may use one file.

    Args:
        path: of JSON lines, for this user alone; None for `ledger.jsonl` in the user's state
            folder. It is made when the first run begins.
        budget: (ε, δ) that the runs on one data set may reach together; None for any.

    Raises:
        CorruptState: a file that is no ledger, or in which a line was changed or is missing.
        InvalidSetting: a budget that is none, or a file that other users can reach.
    """

    def __init__(
        self, path: str | Path | None = None, budget: tuple[float, float] | None = None
    ) -> None:
        if budget is not None:
            positive("the budget's epsilon", budget[0])
            if not 0 < budget[1] < 1:
                raise InvalidSetting(f"the budget's δ is {budget[1]!r}: it lies between 0 and 1")
        self.path = state_folder() / "ledger.jsonl" if path is None else Path(path)
        self.budget = budget
        self._read()

    @property
    def head(self) -> str:
        """The hash of the last line, which stands for all before it; "" without a line."""
        return self._read()[1]

    def begin(self, dataset: str, run: str, release: AnyRelease) -> LedgerRow:
        """Count a run, if the budget allows; only then may it draw its first noise.

        A run that is taken up again begins under its old name and counts once.

        Args:
            dataset: the keyed fingerprint of the records.
            run: a name that no other run on them has, or will have.
            release: the mechanism with all the steps that it may take.

        Raises:
            BudgetSpent: with this run it would be passed; nothing was written.
            RunMismatch: the name belongs to a run with another mechanism, or one that is over.
            InvalidSetting: a name or fingerprint that is empty.
            CorruptState, FolderInUse, OSError: the file.
        """
        if not dataset or not run:
            raise InvalidSetting(
                f"the data set is {dataset!r} and the run {run!r}: each needs a name"
            )
        with self._writing():
            rows = self._read()[0]
            old = rows.get((dataset, run))
            if old is not None:
                if old.settled or old.release != release:
                    state = f"{old.release}{' and is over' if old.settled else ''}"
                    raise RunMismatch(
                        f"the ledger has a run {run!r} of these records already, which was {state}:"
                        " take another name"
                    )
                return old
            if self.budget is not None:
                self._check(dataset, release, [*rows.values()])
            row = LedgerRow(dataset, run, release, False, time.time())
            content = {"dataset": dataset, "run": run, "time": row.time}
            self._append(content | {"begins": release_as_json(release)})
            return row

    def settle(self, dataset: str, run: str, steps: int) -> LedgerRow:
        """Write down how often a run that is over has really added noise.

        More than it was allowed counts in full, whatever the budget is: it has happened.

        Raises:
            RunMismatch: no such run, or one that was settled with another count.
            InvalidSetting: no whole number from 0.
            CorruptState, FolderInUse, OSError: the file.
        """
        whole("steps", steps, least=0)
        with self._writing():
            old = self._read()[0].get((dataset, run))
            if old is None:
                raise RunMismatch(f"the ledger has no run {run!r} of these records: begin it")
            if old.settled:
                if old.release.steps != steps:
                    raise RunMismatch(
                        f"run {run!r} was over after {old.release.steps} steps, not {steps}"
                    )
                return old
            self._append({"dataset": dataset, "run": run, "time": time.time(), "took": steps})
            return replace(old, release=replace(old.release, steps=steps), settled=True)

    def rows(self, dataset: str | None = None) -> list[LedgerRow]:
        """The runs on a data set, or on all, in the order in which they began.

        Raises:
            CorruptState: a line that was changed or is missing.
        """
        rows = self._read()[0].values()
        return [each for each in rows if dataset is None or each.dataset == dataset]

    def releases(self, dataset: str) -> list[AnyRelease]:
        """What has read a data set: for a plan's `spent`, or to compute ε at another δ."""
        return [each.release for each in self.rows(dataset)]

    def epsilon(self, dataset: str, delta: float) -> float:
        """ε at δ of all runs on a data set together; one that is not over counts in full."""
        return epsilon(self.releases(dataset), delta)

    def _check(self, dataset: str, release: AnyRelease, rows: Sequence[LedgerRow]) -> None:
        assert self.budget is not None
        limit, delta = self.budget
        before = [each.release for each in rows if each.dataset == dataset]
        after = epsilon([*before, release], delta)
        if after > limit * ROUNDED:
            raise BudgetSpent(
                f"the budget of these records is ε {limit:g} at δ {delta:g}; {len(before)} runs "
                f"have spent {epsilon(before, delta):.4g}, and this one would make it {after:.4g}. "
                "Nothing was run: take more noise or fewer steps, or raise the budget"
            )

    def _writing(self) -> Any:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return locked(self.path)

    def _append(self, content: dict[str, Any]) -> None:
        if not self.path.exists():
            write_atomically(self.path, b"")
            self.path.chmod(0o600)
        lines, whole_bytes = self._lines()
        previous = _digest(lines[-1]) if lines else ""
        content = {"format": FORMAT, **content, "previous": previous}
        line = json.dumps(content, sort_keys=True, allow_nan=False).encode() + b"\n"
        with open(self.path, "r+b") as file:
            file.truncate(whole_bytes)  # what a killed process left of a line was never counted on
            file.seek(whole_bytes)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _lines(self) -> tuple[list[bytes], int]:
        """Whole lines without their ends, and how many bytes they take."""
        try:
            held = self.path.read_bytes()
        except FileNotFoundError:
            return [], 0
        whole_bytes = held.rfind(b"\n") + 1
        return held[:whole_bytes].split(b"\n")[:-1], whole_bytes

    def _read(self) -> tuple[dict[tuple[str, str], LedgerRow], str]:
        if os.name == "posix" and self.path.exists():
            if stat.S_IMODE(self.path.stat().st_mode) & 0o077:
                raise InvalidSetting(
                    f"{self.path} can be reached by other users: chmod 600 {self.path}"
                )
        rows: dict[tuple[str, str], LedgerRow] = {}
        previous = ""
        for number, line in enumerate(self._lines()[0], start=1):
            try:
                _apply(json.loads(line), previous, rows)
            except (InvalidSetting, KeyError, TypeError, ValueError, RecursionError) as error:
                raise CorruptState(
                    f"{self.path}, line {number}: not as it was written ({error}); put the file "
                    "back from a copy that is not older"
                ) from error
            previous = _digest(line)
        return rows, previous


def _apply(content: Any, previous: str, rows: dict[tuple[str, str], LedgerRow]) -> None:
    if content["format"] != FORMAT or content["previous"] != previous:
        raise ValueError("it does not follow the line before")
    at = (content["dataset"], content["run"])
    if not all(isinstance(each, str) for each in at):
        raise ValueError("a name is no text")
    if "begins" in content:
        if at in rows:
            raise ValueError("a run begins twice")
        release = release_from_json(content["begins"])
        rows[at] = LedgerRow(*at, release, False, float(content["time"]))
        return
    old = rows[at]
    rows[at] = replace(old, release=replace(old.release, steps=content["took"]), settled=True)


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
