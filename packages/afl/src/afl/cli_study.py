"""The commands that look at a federation: simulate one, and see who moves its head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from afl.cli_privacy import alone_with
from afl.limits import Precision
from lipogram.console import say, show
from lipogram.options import choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from afl.client_stats import ClientStats
    from afl.federation import Federation
    from afl.study import Lived

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def simulate(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="What the clients share; as for `afl stats`.")
    ] = "digits",
    clients: Annotated[int, typer.Option(help="Clients K.")] = 100,
    split: Annotated[str, typer.Option(help="dirichlet, shards or iid.")] = "dirichlet",
    alpha: Annotated[float, typer.Option(help="Of the Dirichlet split; small is skewed.")] = 0.1,
    shards: Annotated[int, typer.Option(help="Classes of a client, for shards.")] = 2,
    gamma: Annotated[
        str, typer.Option(help="Ridge, above 0, gcv, or clients (by clients left out).")
    ] = "1",
    drop_out: Annotated[float, typer.Option(help="Share of clients that never answers.")] = 0.0,
    late: Annotated[float, typer.Option(help="Share that joins after the others.")] = 0.0,
    leave: Annotated[float, typer.Option(help="Share that leaves at the end.")] = 0.0,
    test: Annotated[
        str | None, typer.Option(help="Rows to test on; default: a fifth of each class of DATA.")
    ] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of a row.")] = None,
    dtype: Annotated[str, typer.Option(help="float64, float32 or bfloat16.")] = "float64",
    seed: Annotated[int, typer.Option(help="Of split, life and held-out rows.")] = 0,
    backbone: Annotated[str, typer.Option(help="For images.")] = "effnet-lite0",
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 96,
    as_json: AsJson = False,
) -> None:
    """A federation in this process, by the bytes that real clients would send."""
    from afl.client_rows import labelled_rows
    from afl.study import Life, held_out_fifth, live, split_rows
    from lipogram.errors import IncompatibleFeatures
    from lipogram.report import Table

    ridge = gamma_of(gamma)
    precision = choice("dtype", dtype, get_args(Precision))
    life = Life(drop_out=drop_out, late=late, leave=leave, seed=seed)
    X, y, space = labelled_rows(data, backbone=backbone, image_size=image_size)
    if test is None:
        held = held_out_fifth(y, seed=seed)
        X, y, X_test, y_test = X[~held], y[~held], X[held], y[held]
    else:
        X_test, y_test, other = labelled_rows(test, backbone=backbone, image_size=image_size)
        if other != space:
            raise IncompatibleFeatures(
                f"{data} holds features {space[:12] or 'without a name'}, {test} "
                f"{other[:12] or 'without a name'}: use the same backbone"
            )
    parts = split_rows(y, clients, split, alpha=alpha, shards=shards, seed=seed)
    say(f"{clients} clients, {split}")
    lived = live(
        X, y, parts, life, gamma=ridge, clip=clip, space=space, dtype=precision, progress=True
    )
    told = _told(lived, X_test, y_test)
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    shown = [[k, f"{v:.4g}" if isinstance(v, float) else str(v)[:16]] for k, v in told.items()]
    show(Table(columns=["", f"{clients} clients, {split}"], rows=shown))


def leverage(
    sum_file: Annotated[Path, typer.Argument(metavar="SUM", help="A sum that `afl merge` wrote.")],
    files: Annotated[
        list[Path], typer.Argument(metavar="STATS…", help="Statistics of clients in it.")
    ],
    gamma: Annotated[str, typer.Option(help="Ridge, above 0, gcv, or clients.")] = "1",
    as_json: AsJson = False,
) -> None:
    """Who moves the head how far; impossible for clients under masks."""
    from dataclasses import asdict

    from afl.federation import Federation
    from afl.leverage import leverage_of, leverage_table

    ridge = gamma_of(gamma)
    with alone_with(sum_file):
        federation = Federation.load(sum_file)
        kept = loaded(federation, files)
        total = federation.total()
        if isinstance(ridge, str):
            ridge = chosen_gamma(federation, ridge, kept)
        found = leverage_of(total, kept, gamma=ridge)
        federation.save(sum_file)  # it knows now what was looked at
    if as_json:
        typer.echo(json.dumps({"gamma": ridge, "clients": [asdict(e) for e in found]}, indent=2))
        return
    show(leverage_table(found))
    flagged = sum(bool(each.flags) for each in found)
    typer.echo(f"{len(found)} clients with rows, {flagged} flagged, gamma {ridge:g}")


def gamma_of(text: str) -> float | str:
    """γ as a number, or the word for how it is chosen.

    Raises:
        InvalidSetting: neither.
    """
    from lipogram.errors import InvalidSetting

    if text in ("gcv", "clients"):
        return text
    try:
        return float(text)
    except ValueError:
        raise InvalidSetting(f"gamma is {text!r}, it must be a number, gcv or clients") from None


def chosen_gamma(
    federation: Federation, how: str, kept: dict[str, ClientStats], **settings: Any
) -> float:
    """γ by generalised cross-validation, or by clients left out; says which clients.

    Args:
        federation: with the sum.
        how: gcv or clients.
        kept: statistics of clients in it.
        settings: ``fit_intercept`` and ``class_weight`` of the head.

    Raises:
        TooFewClients: fewer than two clients to leave out.
    """
    if how == "gcv":
        return federation.solve("gcv", **settings).gamma
    from afl.client_folds import leave_clients_out

    folds = leave_clients_out(federation.total(), kept, **settings)
    at = int(folds.loss.argmin())
    names = sum(len(fold) for fold in folds.members)
    typer.echo(
        f"gamma {folds.best:g} loses {folds.loss[at]:.4g} ± {folds.standard_error[at]:.2g} a row "
        f"on {names} clients left out in {len(folds.members)} folds",
        err=True,
    )
    return folds.best


def loaded(federation: Federation, files: list[Path]) -> dict[str, ClientStats]:
    """Statistics by client, checked against the ledger of a sum.

    Raises:
        FileNotFoundError, RejectedUpload: a file that cannot be read.
        RevealsOneClient, NotSeen, ReplayedUpload, BudgetSpent: see
            :func:`afl.kept_statistics.kept_statistics`.
    """
    from afl import wire
    from afl.kept_statistics import kept_statistics

    return kept_statistics(federation, (wire.load(path) for path in files))


def register(app: typer.Typer) -> None:
    """Add these commands to the command ``afl``."""
    for command in (simulate, leverage):
        app.command()(command)


def _told(lived: Lived, X_test: NDArray[Any], y_test: NDArray[Any]) -> dict[str, Any]:
    done, head = lived.done, lived.done.head
    different = head.predict(X_test) != lived.pooled.predict(X_test)
    return {
        "clients in the sum": len(done.federation.clients),
        "rows in the sum": lived.rows,
        "empty clients": lived.empty,
        "dropped out": lived.dropped,
        "came late": lived.late,
        "left": lived.left,
        "gamma": head.gamma,
        "test accuracy": head.accuracy(X_test, y_test),
        "test rows": len(y_test),
        "predictions that differ from the pooled head's": int(different.sum()),
        "largest difference from the pooled head": lived.off_pooled,
        "MB sent": done.uploaded / 1e6,
        "seconds at clients": done.client_seconds,
        "seconds at the server": done.server_seconds,
        "total": done.federation.digest,
    }
