"""The commands that read a test set: one policy, curves of many, and their pictures."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipogram.console import show
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
    both,
    numbers,
    sentences,
    spread,
)
from psfuture.cli_show import steps, tell_scores

if TYPE_CHECKING:
    from psfuture.sweep_report import Found

FAMILIES = ("psfuture:0.02,0.05,0.1,0.2,0.3,0.5", "wait:1,2,3,5,7,9", "agreement:2", "offline")

Timed = Annotated[
    bool, typer.Option("--timed", help="Run sentences one by one and count their computation.")
]
Analysis = Annotated[
    bool, typer.Option("--analysis", help="Allow futures that see what was not said (oracle).")
]
At = Annotated[str, typer.Option(help="Latencies, by commas, that policies are compared at.")]
Baseline = Annotated[
    str | None,
    typer.Option(help="Policy that the others are compared with; a sweep takes wait if it can."),
]


@spread
def simulate(
    source: Source,
    model: ModelOptions,
    decisions: DecisionOptions,
    calibrated: CalibrationOptions,
    refs: References = None,
    policy: PolicyText = POLICY,
    out: Annotated[
        Path | None, typer.Option(help="Folder for trace.jsonl and instances.log; resumes.")
    ] = None,
    first: First = None,
    timed: Timed = False,
    analysis: Analysis = False,
    tokenizer: Tokenizer = "13a",
    batch_size: Annotated[int, typer.Option(help="Sentences in lock-step.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Read a test set word by word, and say how good and how late its translation is."""
    from lipogram.progress import bar
    from psfuture.simulation_run import run_simulation

    lines, translations = sentences(source, refs, first)
    chosen = decisions.policy(policy, model) if calibrated.calibration is None else None
    backend = model.load()
    with bar("sentences", len(lines)) as advance:
        scored = run_simulation(
            out,
            backend,
            chosen or calibrated.policy(policy, decisions, model, backend),
            lines,
            translations,
            unit=decisions.unit,  # type: ignore[arg-type]
            tokenizer=tokenizer,
            timed=timed,
            analysis=analysis,
            batch_size=batch_size,
            progress=steps(advance),
        )
    tell_scores(scored, as_json)


@spread
def sweep(
    source: Source,
    out: Annotated[Path, typer.Option(help="Folder of the run; goes on with what it holds.")],
    model: ModelOptions,
    decisions: DecisionOptions,
    refs: References = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="A family with its knobs, psfuture:0.01,0.02 or wait:1,3; repeat it."),
    ] = None,
    both_prefixes: Annotated[
        bool, typer.Option("--both-prefixes", help="Every point with closed and open prefixes.")
    ] = False,
    first: First = None,
    timed: Timed = False,
    analysis: Analysis = False,
    baseline: Baseline = None,
    at: At = "2,3,4,5,6",
    resamples: Annotated[int, typer.Option(help="Of the sentences, for intervals.")] = 1000,
    tokenizer: Tokenizer = "13a",
    batch_size: Annotated[int, typer.Option(help="Sentences in lock-step.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Curves of several policies, compared at equal latency; torchrun shares the sentences."""
    from lipogram.errors import InvalidSetting
    from lipogram.progress import bar
    from psfuture.points import table
    from psfuture.sweep_report import comparison_table, points_table, write_sweep_report
    from psfuture.sweeps import Share, sweep_points

    where = numbers(at, "--at")
    lines, translations = both(source, refs, first)
    closed = [True, False] if both_prefixes else [decisions.prefix_eos]
    families = decisions.families(policy or FAMILIES, closed, model)
    if baseline is not None and baseline not in families:
        raise InvalidSetting(f"--baseline {baseline!r} is none of {', '.join(families)}")
    rival = baseline or ("wait" if "wait" in families and len(families) > 1 else None)
    unit: Any = decisions.unit
    share = Share.of_launcher()
    backend = model.load()
    with bar("sentences", len(range(share.rank, len(lines), share.world))) as advance:
        points = sweep_points(
            backend,
            families,
            lines,
            translations,
            folder=out,
            unit=unit,
            tokenizer=tokenizer,
            timed=timed,
            analysis=analysis,
            batch_size=batch_size,
            share=share,
            progress=steps(advance),
        )
    if share.rank:
        return
    page, found = write_sweep_report(
        out, baseline=rival, at=where, tokenizer=tokenizer, resamples=resamples
    )
    if as_json:
        rows = json.loads(table(points, unit=unit, tokenizer=tokenizer).to_json(orient="records"))
        typer.echo(json.dumps({"points": rows, "differences": _rows(found)}, indent=2))
        return
    show(points_table(points, unit=unit, tokenizer=tokenizer))
    if found:
        show(comparison_table(found))
    typer.echo(f"report: {page}")


def plot(
    folder: Annotated[Path, typer.Argument(help="That `psfuture sweep` filled.")],
    x: Annotated[str, typer.Option(help="Latencies by commas, a figure each.")] = "AL,LAAL,DAL",
    y: Annotated[str, typer.Option(help="BLEU or chrF.")] = "BLEU",
    baseline: Baseline = None,
    at: At = "2,3,4,5,6",
    resamples: Annotated[int, typer.Option(help="Of the sentences, for intervals.")] = 1000,
    tokenizer: Tokenizer = "13a",
    sentence: Annotated[
        int | None, typer.Option(help="Number of the sentence to show word by word.", min=1)
    ] = None,
) -> None:
    """Draw a sweep's curves and one sentence again, as SVG and as a page."""
    from psfuture.sweep_report import comparison_table, write_sweep_report

    page, found = write_sweep_report(
        folder,
        baseline=baseline,
        at=numbers(at, "--at"),
        latencies=x.split(","),
        quality=y,
        tokenizer=tokenizer,
        resamples=resamples,
        sentence=None if sentence is None else sentence - 1,
    )
    if found:
        show(comparison_table(found))
    typer.echo(f"report: {page}")


def _rows(found: Found) -> list[dict[str, Any]]:
    return [
        {"curve": name, "against": rival} | asdict(row) | {"verdict": row.verdict}
        for (name, rival), rows in found.items()
        for row in rows
    ]


def register(app: typer.Typer) -> None:
    """Add these commands to the command `psfuture`."""
    for command in (simulate, sweep, plot):
        app.command()(command)
