"""The command `rewardds`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipogram.console import run_command, say
from rewardds import cli_client, cli_measure, cli_server

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Synthetic training data from private records, differentially private as a whole.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from rewardds import __version__

        typer.echo(f"rewardds {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; goes before the command.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/rewardds-demo"),
    seed: Annotated[int, typer.Option(help="Of what is public: first weights, draws.")] = 0,
    full: Annotated[bool, typer.Option("--full", help="More steps, hours.")] = False,
) -> None:
    """Private posts in, synthetic ones out: proxies, reward, audit and what the data are worth."""
    from rewardds.demo import run_demo

    summary = run_demo(out, seed=seed, full=full, progress=say)
    for figure, value in summary["headline"].items():
        typer.echo(f"{figure}: {value:.3f}" if isinstance(value, float) else f"{figure}: {value}")
    typer.echo(f"report: {out / 'report.html'}")


app.add_typer(cli_client.app, name="client")
for part in (cli_client, cli_server, cli_measure):
    for command in part.COMMANDS:
        app.command()(command)
for name, command in (cli_server.NAMED | cli_measure.NAMED).items():
    app.command(name)(command)


def main() -> None:
    """Entry point."""
    run_command(app)
