"""The command `rewardds`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from lipogram.errors import LipogramError

app = typer.Typer(add_completion=False, no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        from rewardds import __version__

        typer.echo(f"rewardds {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    """One sentence: what rewardds does, and what it does without."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/rewardds-demo"),
) -> None:
    """Run the smallest real example."""
    from rewardds.demo import run_demo

    for figure, value in run_demo(out)["headline"].items():
        typer.echo(f"{figure}: {value}")


def main() -> None:
    """Entry point: what Lipogram raises on purpose becomes one line and exit code 1."""
    try:
        app()
    except LipogramError as error:
        typer.echo(f"rewardds: {error}", err=True)
        sys.exit(1)
