"""What the commands have in common about privacy: options, budgets, and what they print."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from afl.budget import Budget
    from afl.client_stats import ClientStats
    from afl.federation import Federation
    from afl.head import LinearHead
    from afl.ledger import Entry
    from afl.privacy_unit import Unit
    from lipogram.analytic.labels import Label
    from lipogram.report import Table

Packed = TypeVar("Packed")

BudgetEpsilon = Annotated[
    float | None, typer.Option(help="Refuse private releases that pass this ε together.")
]
BudgetDelta = Annotated[float, typer.Option(help="δ of --budget-epsilon.")]
ClientBound = Annotated[
    float | None,
    typer.Option(help="Scale each client's sums down to this length, so heads can hide clients."),
]
UnitOption = Annotated[
    str, typer.Option(help="What --epsilon hides: each row, or all that the client has.")
]
BoundOption = Annotated[
    float | None,
    typer.Option(
        help="Largest length of the client's sums, for --unit client; n rows: n·√3·clip²."
    ),
]
SpentOption = Annotated[
    Path | None,
    typer.Option(help="File that counts what releases of these rows have cost; kept by you."),
]


def budget_of(epsilon: float | None, delta: float, unit: str) -> Budget | None:
    """The budget that options name, or None."""
    from afl.budget import Budget

    return None if epsilon is None else Budget(epsilon, delta, unit)  # type: ignore[arg-type]


def agree(
    federation: Federation, client_bound: float | None, epsilon: float | None, delta: float
) -> None:
    """Write the terms that options name into a federation; what they do not name stays."""
    bound = federation.privacy.client_bound if client_bound is None else client_bound
    budget = budget_of(epsilon, delta, "row" if bound is None else "client")
    federation.privacy.agree(bound, budget or federation.privacy.budget)


def released(
    stats: ClientStats,
    pack: Callable[[ClientStats], Packed],
    *,
    asked: Mapping[str, Any],
    classes: Sequence[Label],
    spent: Path | None,
    budget: Budget | None,
    note: Mapping[str, Any],
) -> Packed:
    """A packed release; where there is a file of costs, its cost is there before this returns.

    Args:
        stats: exact ones.
        pack: what becomes of noisy ones.
        asked: epsilon, delta, unit and bound.
        classes: labels that everybody knows.
        spent: the file, or None for no count.
        budget: not to be passed.
        note: what else to write down.

    Raises:
        InvalidSetting: a budget without a file: nobody would know what went before.
        BudgetSpent: more than the budget.
    """
    from afl.budget import cost_of, told_epsilon
    from afl.joint_vector import clip_of
    from afl.noisy_stats import release
    from afl.spent_file import spend
    from lipogram.errors import InvalidSetting

    def draw() -> Packed:
        return pack(release(stats, classes=classes, **asked))

    if spent is None:
        if budget is not None:
            raise InvalidSetting("--budget-epsilon needs --spent FILE, which counts the releases")
        return draw()
    check_folder(spent)
    cost = cost_of(clip=clip_of(stats), **asked)
    packed, held = spend(spent, cost, draw, budget=budget, note={**note, **asked})
    so_far = told_epsilon(held.account.of(asked["unit"]), asked["delta"])
    typer.echo(f"releases of these rows have cost a {asked['unit']} {so_far}: {spent}")
    return packed


def check_folder(out: Path) -> None:
    """Raise FileNotFoundError before anything is spent on a file that cannot be written."""
    if not out.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {out.parent}")


@contextmanager
def alone_with(path: Path | None) -> Iterator[None]:
    """Keep other commands off a sum while one changes it; two at once would lose a cost."""
    from lipogram.files import locked

    if path is None or not path.is_file():
        yield
        return
    with locked(path):
        yield


def private_head(
    federation: Federation, *, epsilon: float, delta: float, classes: Sequence[Label]
) -> LinearHead:
    """A head that hides what the federation can hide; prints what all of them have cost."""
    privacy = federation.privacy
    unit: Unit = "row" if privacy.client_bound is None else "client"
    head = federation.solve_private(epsilon=epsilon, delta=delta, classes=classes, unit=unit)
    line = (
        f"private heads of this sum have cost a {unit} ε {privacy.spent.epsilon(delta):.3g} "
        f"together at δ {delta:g}"
    )
    if privacy.budget is not None:
        left = privacy.budget.left(privacy.account, delta)
        line += f"; the budget leaves ε {left:.3g} for one more"
    typer.echo(line)
    return head


def ledger_table(entries: Sequence[Entry]) -> Table:
    """The ledger for a person, with a column on privacy where there is any."""
    from lipogram.report import Table

    columns = ["entry", "action", "client", "round", "rows", "statistics", "total"]
    rows: list[list[Any]] = [
        [e.sequence, e.action, e.client, e.round, e.rows, e.digest[:12], e.total[:12]]
        for e in entries
    ]
    if any(entry.claim is not None for entry in entries):
        columns.append("privacy")
        rows = [[*row, told(entry.claim)] for row, entry in zip(rows, entries, strict=True)]
    return Table(columns=columns, rows=rows)


def told(claim: Mapping[str, Any] | None) -> str:
    """An entry's claim, cost or terms in a few words."""
    if claim is None:
        return ""
    if "unit" in claim:
        return f"{claim['unit']}, ε {claim['epsilon']:g}, δ {claim['delta']:g}"
    words = []
    if claim["client_bound"] is not None:
        words.append(f"clients bounded by {claim['client_bound']:g}")
    if claim["budget"] is not None:
        words.append("budget " + told(claim["budget"]))
    return "; ".join(words) or "no budget"
