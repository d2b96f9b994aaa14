"""The commands that look at a federation: simulate one, and see who moves its head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from afl.limits import Precision
from lipogram.console import say, show
from lipogram.options import choice

if TYPE_CHECKING:
    from afl.client_stats import ClientStats
    from afl.federation import Federation

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
    drop_out: Annotated[float, typer.Option(help="Share that never answers.")] = 0.0,
    late: Annotated[float, typer.Option(help="Share that joins late.")] = 0.0,
    leave: Annotated[float, typer.Option(help="Share that leaves at the end.")] = 0.0,
    test: Annotated[
        str | None, typer.Option(help="Rows to test on; default: every fifth of DATA.")
    ] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of a row.")] = None,
    dtype: Annotated[str, typer.Option(help="float64, float32 or bfloat16.")] = "float64",
    seed: Annotated[int, typer.Option(help="Of split and life.")] = 0,
    as_json: AsJson = False,
) -> None:
    """A federation in this process, by the bytes that real clients would send."""
    import numpy as np

    from afl.client_rows import labelled_rows
    from afl.study import Life, live, split_rows
    from lipogram.report import Table

    ridge = gamma_of(gamma)
    precision = choice("dtype", dtype, get_args(Precision))
    life = Life(drop_out=drop_out, late=late, leave=leave, seed=seed)
    rows, labels, space = labelled_rows(data)
    if test is None:
        held = np.zeros(len(labels), dtype=bool)
        held[np.random.default_rng(seed).permutation(len(labels))[::5]] = True
        X, y, X_test, y_test = rows[~held], labels[~held], rows[held], labels[held]
    else:
        X, y = rows, labels
        X_test, y_test, _ = labelled_rows(test)
    parts = split_rows(y, clients, split, alpha=alpha, shards=shards, seed=seed)
    say(f"{clients} clients, {split}")
    lived = live(
        X, y, parts, life, gamma=ridge, clip=clip, space=space, dtype=precision, progress=True
    )
    done, head = lived.done, lived.done.head
    told = {
        "clients in the sum": len(done.federation.clients),
        "rows in the sum": lived.rows,
        "empty clients": lived.empty,
        "dropped out": lived.dropped,
        "came late": lived.late,
        "left": lived.left,
        "gamma": head.gamma,
        "test accuracy": head.accuracy(X_test, y_test),
        "test rows": len(y_test),
        "predictions that differ from the pooled head's": int(
            (head.predict(X_test) != lived.pooled.predict(X_test)).sum()
        ),
        "largest difference from the pooled head": lived.off_pooled,
        "MB sent": done.uploaded / 1e6,
        "seconds at clients": done.client_seconds,
        "seconds at the server": done.server_seconds,
        "total": done.federation.digest,
    }
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    shown = [[k, f"{v:.4g}" if isinstance(v, float) else str(v)[:16]] for k, v in told.items()]
    show(Table(columns=["", f"{clients} clients, {split}"], rows=shown))


def leverage(
    files: Annotated[list[Path], typer.Argument(metavar="STATS…", help="Clients' statistics.")],
    gamma: Annotated[float, typer.Option(help="Ridge, above 0.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Who moves the head how far; impossible under masks."""
    from dataclasses import asdict

    from afl.leverage import leverage_of, leverage_table

    found = leverage_of(loaded(files), gamma=gamma)
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], indent=2))
    else:
        show(leverage_table(found))


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


def gamma_by_clients(
    federation: Federation, stats: dict[str, ClientStats], fit_intercept: bool
) -> float:
    """γ by clients left out; the files must be those in the sum, all of them.

    Raises:
        NotSeen: they are others.
    """
    from afl.client_folds import leave_clients_out
    from lipogram.errors import NotSeen

    inside = {entry.digest for entry in federation.ledger.present.values()}
    given = {each.digest for each in stats.values()}
    if inside != given:
        raise NotSeen(
            f"--with names {len(given - inside)} statistics that are not in the sum, and misses "
            f"{len(inside - given)} that are"
        )
    return leave_clients_out(stats, fit_intercept=fit_intercept).best


def loaded(files: list[Path]) -> dict[str, ClientStats]:
    """Statistics by client.

    Raises:
        ReplayedUpload: two files of one client.
    """
    from afl import wire
    from afl.errors import ReplayedUpload

    found: dict[str, ClientStats] = {}
    for path in files:
        sent = wire.load(path)
        if sent.client in found:
            raise ReplayedUpload(f"{path}: client {sent.client!r} is there twice")
        found[sent.client] = sent.stats
    return found


def register(app: typer.Typer) -> None:
    """Add these commands to the command ``afl``."""
    for command in (simulate, leverage):
        app.command()(command)
