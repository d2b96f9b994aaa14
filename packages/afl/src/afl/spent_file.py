"""A client's own count of what its releases have cost: a JSON file that it keeps beside its rows.

One file is for one set of rows. Who releases rows of another set through it counts too much, which
is safe; who keeps two files for the same rows counts too little.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from afl.budget import Account, Budget
from lipogram.errors import CorruptState, InvalidSetting, LipogramError
from lipogram.files import locked, write_atomically
from lipogram.gaussian_mechanism import mu_of

FORMAT = "lipogram-afl-spent/1"
Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class SpentFile:
    """What a file of releases holds.

    Attributes:
        budget: the tightest that was ever asked for, or None.
        releases: each with what it cost and whatever else was noted.
    """

    budget: Budget | None = None
    releases: tuple[Mapping[str, Any], ...] = ()

    @property
    def account(self) -> Account:
        """All releases together."""
        return Account.composed(self.releases)


def spend(
    path: str | Path,
    cost: Account,
    draw: Callable[[], Drawn],
    *,
    budget: Budget | None = None,
    note: Mapping[str, Any] | None = None,
) -> tuple[Drawn, SpentFile]:
    """Draw a release, and hand it out only once its cost is on disk.

    Killed at any instant, the file counts every release that was handed out. One that was drawn and
    not used counts as well, because nobody can prove that it was not.

    Args:
        path: the file; made where there is none.
        cost: of the release.
        draw: draws it.
        budget: what may be spent; the file keeps the tightest of all that were ever given.
        note: what else to write down.

    Returns:
        What was drawn, and the file as it is now.

    Raises:
        BudgetSpent: more than the budget; nothing was drawn or written.
        InvalidSetting: a budget for another unit than the one that the file keeps, or a folder.
        CorruptState: a file that was damaged or changed.
        FolderInUse: another process is using the file.
    """
    target = Path(path)
    if target.is_dir():
        raise InvalidSetting(f"{target} is a folder: name a file for what releases have cost")
    with locked(target):
        held = read_spent(target)
        tightest = _tightest(held.budget, budget)
        if tightest is not None:
            tightest.check(held.account, cost)
        drawn = draw()
        entry = {**(note or {}), **cost.describe()}
        after = SpentFile(tightest, (*held.releases, entry))
        write_atomically(target, _text(after))
    return drawn, after


def read_spent(path: str | Path) -> SpentFile:
    """What a file holds; a missing one holds nothing.

    Raises:
        CorruptState: a file that :func:`spend` did not write, or that was changed.
    """
    source = Path(path)
    if not source.exists():
        return SpentFile()
    try:
        told = json.loads(source.read_bytes())
        held = SpentFile(Budget.of(told["budget"]), tuple(dict(each) for each in told["releases"]))
        held.account  # noqa: B018 - the costs are numbers, or it raises
        if told["format"] != FORMAT or _text(held) != _text(held, told["sha256"]):
            raise ValueError("sha256")
    except (LipogramError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise CorruptState(
            f"{source} is no count of releases, or was changed: restore it from a copy; what the "
            "rows have cost cannot be known without it"
        ) from None
    return held


def _tightest(kept: Budget | None, asked: Budget | None) -> Budget | None:
    if kept is None or asked is None:
        return kept or asked
    if kept.unit != asked.unit:
        raise InvalidSetting(f"the budget of this file is for a {kept.unit}, not a {asked.unit}")
    return min(kept, asked, key=lambda each: mu_of(each.epsilon, each.delta))


def _text(held: SpentFile, digest: str | None = None) -> bytes:
    content: dict[str, Any] = {
        "format": FORMAT,
        "budget": None if held.budget is None else held.budget.describe(),
        "releases": list(held.releases),
    }
    own = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    content["sha256"] = own if digest is None else digest
    return json.dumps(content, indent=2, allow_nan=False).encode() + b"\n"
