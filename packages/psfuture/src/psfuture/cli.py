"""The command `psfuture`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lipogram.console import run_command, say, show
from psfuture import cli_data, cli_model, cli_sweep
from psfuture.cli_options import (
    POLICY,
    AsJson,
    CalibrationOptions,
    DecisionOptions,
    First,
    ModelOptions,
    PolicyText,
    References,
    Source,
    Tokenizer,
    numbers,
    sentences,
    spread,
)
from psfuture.cli_show import reporter, show_trace, tell_scores

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Any translation model made simultaneous, without training.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from psfuture import __version__

        typer.echo(f"psfuture {__version__}")
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
) -> None: ...


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/psfuture-demo"),
) -> None:
    """Curves of all policies on real text, and one sentence word by word: one page, offline."""
    from psfuture.demo import run_demo
    from psfuture.trace import Trace

    summary = run_demo(out, progress=say)
    show_trace(Trace.from_json(summary["sentence"]))
    for figure, value in summary["headline"].items():
        typer.echo(f"{figure}: {value:.2f}" if isinstance(value, float) else f"{figure}: {value}")
    typer.echo(f"report: {out / summary['page']}")


@app.command()
@spread
def translate(
    model: ModelOptions,
    decisions: DecisionOptions,
    calibrated: CalibrationOptions,
    policy: PolicyText = POLICY,
    as_json: Annotated[bool, typer.Option("--json", help="Print events, one a line.")] = False,
) -> None:
    """Translate standard input while it comes: words as they are typed, a line a sentence."""
    import os
    import sys

    from psfuture.session import Session
    from psfuture.typed_text import typed_words

    backend = model.load()
    chosen = calibrated.policy(policy, decisions, model, backend)
    unit: Any = decisions.unit
    tell = reporter(as_json=as_json, unit=unit)
    number, session = 1, None
    for word in typed_words(lambda: os.read(sys.stdin.fileno(), 65536), unit):
        session = session or Session(backend, chosen, unit=unit)
        if word is not None:
            tell.events(number, session.push(word))
            continue
        tell.events(number, session.finish())
        tell.end(number, session)
        number, session = number + 1, None


@app.command()
@spread
def calibrate(
    source: Source,
    model: ModelOptions,
    decisions: DecisionOptions,
    refs: References = None,
    targets: Annotated[str, typer.Option(help="Latencies, by commas.")] = "3,5,7",
    metric: Annotated[str, typer.Option(help="AL, LAAL or DAL.")] = "AL",
    out: Annotated[Path, typer.Option(help="Where the thresholds go.")] = Path(
        "psfuture_policy.json"
    ),
    first: First = None,
) -> None:
    """Find the thresholds that give the latencies you want, on sentences of their own."""
    from lipogram.report import Table
    from psfuture.calibration import calibrate as find

    wanted = numbers(targets, "--targets")
    lines, translations = sentences(source, refs, first)
    policy: Any = decisions.policy(POLICY, model)
    backend = model.load()
    say(f"bisecting on {len(lines)} sentences")
    found = find(
        backend,
        policy,
        lines,
        wanted,
        references=translations,
        metric=metric,  # type: ignore[arg-type]
        unit=decisions.unit,  # type: ignore[arg-type]
        future=decisions.future or model.future,
    )
    found.write(out)
    rows: list[list[Any]] = [
        [name, f"{level.threshold:.4g}", level.target, level.latency]
        for name, level in found.levels.items()
    ]
    show(Table(["level", "threshold", f"{metric} wanted", f"{metric} found"], rows, digits=2))
    typer.echo(f"thresholds: {out}")


@app.command()
def score(
    log: Annotated[Path, typer.Argument(help="SimulEval's instances.log, or a trace.jsonl.")],
    refs: Annotated[
        Path | None, typer.Option(help="Translations in place of the log's, one a line.")
    ] = None,
    unit: Annotated[str, typer.Option(help="word or char.")] = "word",
    tokenizer: Tokenizer = "13a",
    as_json: AsJson = False,
) -> None:
    """Score any log of SimulEval again: quality, and every latency as SimulEval measures it."""
    from lipogram.errors import InvalidSetting
    from psfuture.metrics import score as scores
    from psfuture.parallel_text import read_lines
    from psfuture.trace_log import read_instances, read_traces

    chosen: Any = unit
    held = read_traces(log) if log.suffix == ".jsonl" else read_instances(log, unit=chosen)
    traces = [held[at] for at in sorted(held)]
    if refs is not None:
        lines = read_lines(refs)
        if len(lines) != len(traces):
            raise InvalidSetting(f"{log} has {len(traces)} sentences, {refs} has {len(lines)}")
        traces = [trace.with_reference(line) for trace, line in zip(traces, lines, strict=True)]
    tell_scores(scores(traces, unit=chosen, tokenizer=tokenizer), as_json)


cli_sweep.register(app)
cli_model.register(app)
app.add_typer(cli_data.app, name="data")


def main() -> None:
    """Entry point of the command."""
    run_command(app)
