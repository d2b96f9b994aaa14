"""What every command line shares: errors told plainly, tables, and exit codes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lipogram.report import Table

FAILED, USAGE, NOTHING = 1, 2, 3


def run_command(app: Callable[..., Any]) -> None:
    """Run a Typer app; a typed error becomes one line on stderr and an exit code.

    Exit codes: 0 done, 1 failed, 2 wrong usage, setting or input, 3 a model, data set or library is
    missing or there is nothing to measure, 130 interrupted. An app that has an option `--debug`
    gets the traceback of what it raises instead.
    """
    warnings.showwarning = _warn
    try:
        app()
    except KeyboardInterrupt:
        _fail("interrupted; what was saved is whole", 130)
    except Exception as error:
        code = _exit_code(error)
        if code is None or "--debug" in sys.argv[1:]:
            raise
        _fail(" ".join(str(error).split()), code)


def _exit_code(error: Exception) -> int | None:
    """What an error ends the command with; None for one that is a bug of ours."""
    from lipogram import errors

    absent = (errors.MissingAsset, errors.ModelNotFound, errors.MissingExtra)
    unmeasurable = (errors.NothingMeasurable, errors.IdenticalModels)
    if isinstance(error, (*absent, *unmeasurable)):
        return NOTHING
    if isinstance(error, (errors.InvalidSetting, errors.InvalidProbes, errors.IncompatiblePair)):
        return USAGE
    return FAILED if isinstance(error, (errors.LipogramError, OSError)) else None


def show(table: Table, title: str = "") -> None:
    """Print a report's table on stdout."""
    from rich.console import Console
    from rich.table import Table as Drawn

    drawn = Drawn(title=title or None, caption=table.caption or None, title_justify="left")
    for i, column in enumerate(table.columns):
        numeric = all(isinstance(row[i], (int, float)) for row in table.rows)
        drawn.add_column(
            column, justify="right" if numeric else "left", overflow="fold", no_wrap=i == 0
        )
    for number, row in enumerate(table.rows):
        cells = [f"{c:.{table.digits}f}" if isinstance(c, float) else str(c) for c in row]
        drawn.add_row(*cells, style="bold" if number in table.highlight else None)
    Console(soft_wrap=False).print(drawn, markup=False)


def say(line: str) -> None:
    """A line of progress on stderr; nothing where stderr is no terminal."""
    if sys.stderr.isatty():
        print(line, file=sys.stderr)


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)
