"""The command ``afl``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, get_args

import typer

from afl import cli_flower, cli_study
from afl.cli_privacy import (
    BoundOption,
    BudgetDelta,
    BudgetEpsilon,
    ClientBound,
    SpentOption,
    UnitOption,
    agree,
    alone_with,
    budget_of,
    check_folder,
    ledger_table,
    private_head,
    released,
)
from afl.limits import Precision
from lipogram.console import run_command, say, show
from lipogram.options import choice

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One-round federated learning that equals pooling all data, without anybody sharing it.",
)

DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="Folder of images or features, an .npz (X, y), a .csv, or digits."
    ),
]
SumFile = Annotated[Path, typer.Argument(metavar="SUM", help="A sum that `afl merge` wrote.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def _version(wanted: bool) -> None:
    if wanted:
        from afl import __version__

        typer.echo(f"afl {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
]


@app.callback()
def _main(version: Version = False) -> None: ...


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/afl-demo"),
    dataset: Annotated[str, typer.Option(help="fashion-mnist or digits.")] = "fashion-mnist",
    as_json: AsJson = False,
) -> None:
    """A thousand clients, any split: one round, the pooled answer, and a client that leaves."""
    from afl.demo import run_demo

    summary = run_demo(out, dataset=dataset, progress=say)
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    for figure, value in summary["headline"].items():
        typer.echo(f"{figure}: {value:.4g}" if isinstance(value, float) else f"{figure}: {value}")
    typer.echo(f"report: {out / 'report.html'}")


@app.command()
def stats(
    data: DataArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the statistics go.")],
    client: Annotated[str, typer.Option(help="Your name in the federation.")] = "",
    round: Annotated[int, typer.Option(help="Higher than the last one you sent; 0 to begin.")] = 0,
    clip: Annotated[
        float | None, typer.Option(help="Largest norm of a row; the same for everybody.")
    ] = None,
    per_class: Annotated[
        bool, typer.Option(help="One second moment a class, for class weights.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="float64, float32 or bfloat16.")] = "float64",
    epsilon: Annotated[
        float | None, typer.Option(help="Hide rows by noise; needs --clip and --classes.")
    ] = None,
    delta: Annotated[float, typer.Option(help="Far below one over the number of rows.")] = 1e-5,
    classes: Annotated[
        str | None, typer.Option(help="By commas, the labels that everybody knows.")
    ] = None,
    unit: UnitOption = "row",
    bound: BoundOption = None,
    spent: SpentOption = None,
    budget_epsilon: BudgetEpsilon = None,
    budget_delta: BudgetDelta = 1e-5,
    backbone: Annotated[str, typer.Option(help="For images.")] = "effnet-lite0",
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 96,
) -> None:
    """A client's part: turn its rows into the sums that it may send."""
    from afl import wire
    from afl.client_rows import labelled_rows, public_labels
    from afl.client_stats import ClientStats
    from lipogram.errors import InvalidSetting
    from lipogram.files import write_atomically

    check_folder(out)
    if epsilon is None and (unit != "row" or bound or spent or budget_epsilon):
        raise InvalidSetting("--unit, --bound, --spent and --budget-epsilon go with --epsilon")
    name, precision = client or out.stem, choice("dtype", dtype, get_args(Precision))

    def pack(made: ClientStats) -> tuple[ClientStats, bytes]:
        return made, wire.to_bytes(made, client=name, round=round, dtype=precision)

    rows, labels, space = labelled_rows(data, backbone=backbone, image_size=image_size)
    exact = ClientStats.compute(rows, labels, clip=clip, per_class=per_class, space=space)
    if epsilon is None:
        made, message = pack(exact)
    else:
        made, message = released(
            exact,
            pack,
            asked={"epsilon": epsilon, "delta": delta, "unit": unit, "bound": bound},
            classes=public_labels(classes, labels.tolist()),
            spent=spent,
            budget=budget_of(budget_epsilon, budget_delta, unit),
            note={"client": name, "round": round},
        )
    write_atomically(out, message)
    typer.echo(
        f"{made.n_rows} rows, {len(made.classes)} classes, {made.n_features} features, "
        f"{out.stat().st_size:,} bytes as {name!r}: {out}"
    )


@app.command()
def merge(
    files: Annotated[list[Path], typer.Argument(metavar="STATS…", help="Clients' statistics.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the sum goes.")],
    into: Annotated[
        Path | None, typer.Option(help="Go on from this sum: clients may join late.")
    ] = None,
    minimum_rows: Annotated[
        int | None, typer.Option(help="Refuse clients with fewer rows; 20 to begin with.")
    ] = None,
    client_bound: ClientBound = None,
    budget_epsilon: BudgetEpsilon = None,
    budget_delta: BudgetDelta = 1e-5,
) -> None:
    """The server's part: add statistics up, all of the files or none."""
    from afl import wire
    from afl.federation import Federation
    from afl.limits import MINIMUM_ROWS

    with alone_with(into):
        if into is None:
            federation = Federation(minimum_rows=minimum_rows or MINIMUM_ROWS)
        else:
            federation = Federation.load(into)
            federation.minimum_rows = minimum_rows or federation.minimum_rows
        agree(federation, client_bound, budget_epsilon, budget_delta)
        for path in files:
            sent = wire.load(path)
            federation.add(sent.client, sent.stats, round=sent.round)
        federation.save(out)
    typer.echo(f"{len(federation.clients)} clients, {federation.n_rows} rows: {out}")
    typer.echo(f"total {federation.digest}")


@app.command()
def solve(
    sum_file: SumFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the head goes.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[STATS…]", help="Clients' statistics, for --gamma clients."),
    ] = None,
    gamma: Annotated[
        str,
        typer.Option(help="Ridge, 0 or more, gcv, or clients (STATS, left out in turn)."),
    ] = "1",
    fit_intercept: Annotated[bool, typer.Option("--intercept", help="Fit an intercept.")] = False,
    class_weight: Annotated[
        str | None, typer.Option(help="balanced; needs statistics with --per-class.")
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(help="Publish a head that hides rows, or clients; needs a --clip."),
    ] = None,
    delta: Annotated[float, typer.Option(help="Far below one over the number of rows.")] = 1e-5,
    classes: Annotated[
        str | None, typer.Option(help="With --epsilon: by commas, labels that everybody knows.")
    ] = None,
) -> None:
    """The head of ridge regression on everybody's rows."""
    from afl.client_rows import public_labels
    from afl.federation import Federation
    from lipogram.errors import InvalidSetting

    ridge = cli_study.gamma_of(gamma)
    if (ridge == "clients") != bool(files):
        raise InvalidSetting("--gamma clients and STATS… go together")
    if files and epsilon is not None:
        raise InvalidSetting("a private head chooses its gamma itself")
    check_folder(out)
    with alone_with(sum_file):
        federation = Federation.load(sum_file)
        if files:
            kept = cli_study.loaded(federation, files)
            how = {"fit_intercept": fit_intercept, "class_weight": class_weight}
            ridge = cli_study.chosen_gamma(federation, "clients", kept, **how)
        if epsilon is None:
            head = federation.solve(ridge, fit_intercept=fit_intercept, class_weight=class_weight)
        elif fit_intercept or class_weight is not None:
            raise InvalidSetting("a private head has neither intercept nor class weights")
        else:
            labels = public_labels(classes, federation.classes)
            head = private_head(federation, epsilon=epsilon, delta=delta, classes=labels)
        federation.save(sum_file)  # before the head: it knows now what was released
    head.save(out)
    typer.echo(
        f"{federation.n_rows} rows, {len(head.classes)} classes, gamma {head.gamma:g}, "
        f"condition {head.condition:.1e}: {out}"
    )


@app.command("eval")
def evaluate(
    head_file: Annotated[Path, typer.Argument(metavar="HEAD", help="What `afl solve` wrote.")],
    data: DataArgument,
    backbone: Annotated[str, typer.Option(help="For images.")] = "effnet-lite0",
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 96,
) -> None:
    """How many labels a head gets right."""
    from afl.client_rows import labelled_rows
    from afl.head import LinearHead
    from lipogram.errors import IncompatibleFeatures

    head = LinearHead.load(head_file)
    rows, labels, space = labelled_rows(data, backbone=backbone, image_size=image_size)
    if space != head.space:
        raise IncompatibleFeatures(
            f"the head reads features {head.space[:12] or 'without a name'}, {data} holds "
            f"{space[:12] or 'features without a name'}: use the same backbone"
        )
    typer.echo(f"accuracy {head.accuracy(rows, labels):.4f} on {len(labels)} rows")


@app.command()
def unlearn(
    sum_file: SumFile,
    file: Annotated[Path, typer.Argument(metavar="STATS", help="The leaving client's statistics.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where the sum goes; default: over SUM.")
    ] = None,
) -> None:
    """Take a client out; the total is, to the last bit, that of never having had it."""
    from afl import wire
    from afl.federation import Federation

    with alone_with(sum_file):
        federation, sent = Federation.load(sum_file), wire.load(file)
        entry = federation.remove(sent.client, sent.stats, round=sent.round)
        federation.save(out or sum_file)
    typer.echo(
        f"{sent.client!r} is out: {len(federation.clients)} clients, {federation.n_rows} rows "
        f"left: {out or sum_file}"
    )
    typer.echo(f"ledger entry {entry.sequence}, {entry.hash}")
    typer.echo(f"total {federation.digest} (what merging the others alone prints)")


@app.command()
def ledger(sum_file: SumFile, as_json: AsJson = False) -> None:
    """Who joined and left, with the hashes that prove it; the file is checked against them."""
    from afl.federation import Federation

    federation = Federation.load(sum_file)
    if as_json:
        typer.echo(json.dumps(federation.ledger.describe(), indent=2))
    else:
        show(ledger_table(federation.ledger.entries))


@app.command("dp-plan")
def dp_plan(
    dataset: Annotated[
        str, typer.Argument(help="digits, fashion-mnist, store:PATH or folder:PATH.")
    ] = "digits",
    delta: Annotated[float, typer.Option(help="Far below one over the number of rows.")] = 1e-5,
    as_json: AsJson = False,
) -> None:
    """What differential privacy would cost, tried on rows at hand before anything is sent."""
    from afl.dp_plan import plan
    from lipogram.analytic.sources import features_of

    per_class = (600, 150) if dataset == "fashion-mnist" else None
    table = plan(features_of(dataset, image_size=64, per_class=per_class), delta=delta)
    if as_json:
        typer.echo(json.dumps([dict(zip(table.columns, row, strict=True)) for row in table.rows]))
    else:
        show(table)


@app.command()
def bench(
    clients: Annotated[int, typer.Option(help="Clients K.")] = 1000,
    width: Annotated[int, typer.Option(help="Features d.")] = 512,
    classes: Annotated[int, typer.Option(help="Classes.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Time the sum of clients against the published pairwise law, one thread, in one run."""
    from dataclasses import asdict

    from afl.benchmark import run_benchmark

    measured = run_benchmark(clients=clients, width=width, classes=classes, progress=say)
    if as_json:
        typer.echo(json.dumps(asdict(measured), indent=2))
    else:
        show(measured.table())
    for failure in measured.failures():
        typer.echo(f"below its floor: {failure}", err=True)
    raise typer.Exit(1 if measured.failures() else 0)


cli_study.register(app)
cli_flower.register(app)


def main() -> None:
    """Entry point of the command."""
    run_command(app)
