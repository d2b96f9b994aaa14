"""The command `privacyrestore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipogram.console import run_command, say
from privacyrestore import cli_client, cli_measure, cli_prepare, cli_serve

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Ask a hosted language model without sending chosen spans, and measure what still leaks.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from privacyrestore import __version__

        typer.echo(f"privacyrestore {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML with a table a command; goes before the command."),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; goes before the command.")
    ] = False,
) -> None:
    if config is not None:
        from privacyrestore.cli_config import defaults_in

        context.default_map = defaults_in(config, context.command)  # type: ignore[arg-type]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path(
        "runs/privacyrestore-demo"
    ),
    seed: Annotated[int, typer.Option(help="Of the world, its model and the bank.")] = 0,
) -> None:
    """A generated world, a real server and what its operator recovers: one page, offline."""
    from privacyrestore.demo import run_demo

    summary = run_demo(out, seed=seed, progress=say)
    for figure, value in summary["headline"].items():
        typer.echo(f"{figure}: {value:.3f}" if isinstance(value, float) else f"{figure}: {value}")
    typer.echo(f"report: {out / 'report.html'}")


for part in (cli_prepare, cli_serve, cli_client, cli_measure):
    for command in part.COMMANDS:
        app.command()(command)
for name, command in (cli_prepare.NAMED | cli_measure.NAMED).items():
    app.command(name)(command)


def main() -> None:
    """Entry point."""
    run_command(app)
