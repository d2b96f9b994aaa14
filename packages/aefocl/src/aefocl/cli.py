"""The command ``aefocl``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipogram.analytic.head_commands import (
    AsJson,
    DataFile,
    HeadFile,
    LabelFile,
    add_extract,
    add_forget,
    add_inspect,
    add_merge,
    labelled_rows,
    predict_rows,
)
from lipogram.console import run_command, say, show
from lipogram.options import choice, configured, settings_in

if TYPE_CHECKING:
    from lipogram.report import Table

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A closed-form head for streams with rare classes, balanced by pseudo-features.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from aefocl import __version__

        typer.echo(f"aefocl {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
]


@app.callback()
def _main(version: Version = False) -> None: ...


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/aefocl-demo"),
    stream: Annotated[
        list[str] | None,
        typer.Option(help="openclipart, emoji or digits; may be repeated. Default: the first two."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Pseudo-features against plain ridge, AIR, streaming LDA and class means on real streams."""
    from aefocl.comparison_report import table_of
    from aefocl.demo import STREAMS, run_demo

    done = run_demo(out, streams=tuple(stream or STREAMS), progress=say)
    if done.fallback:
        typer.echo(f"note: {done.fallback}", err=True)
    if as_json:
        typer.echo(json.dumps({name: run.result for name, run in done.runs.items()}, indent=2))
        return
    for name, run in done.runs.items():
        assert run.result is not None
        show(table_of(run.result), name)
    for report in done.reports.values():
        typer.echo(f"report: {report}")


@app.command()
def run(
    out: Annotated[
        Path, typer.Option(help="Folder of the run; an unfinished one is resumed.")
    ] = Path("runs/aefocl"),
    preset: Annotated[str | None, typer.Option(help="Named settings: paper.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML with the same names as these options.")
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option(
            help="openclipart, emoji, digits, synthetic, clad:FOLDER, chronological:CSV, "
            "folder:PATH"
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Rows a batch; CLAD-C allows 10.")] = None,
    methods: Annotated[
        str | None,
        typer.Option("--compare", help="By commas: aefocl-shared,plain,slda,ncm,air."),
    ] = None,
    segments: Annotated[
        int | None, typer.Option(help="Test points of a stream without its own.")
    ] = None,
    boundaries: Annotated[
        list[str] | None,
        typer.Option("--boundary", help="Time at which a segment begins; may be repeated."),
    ] = None,
    skip_malformed: Annotated[
        bool | None, typer.Option("--skip-malformed", help="Leave malformed rows of a table out.")
    ] = None,
    gamma: Annotated[float | None, typer.Option(help="Ridge.")] = None,
    buffer_size: Annotated[
        int | None,
        typer.Option("--buffer-size", "--buffer", help="Width of the random buffer; 0 for none."),
    ] = None,
    noise: Annotated[float | None, typer.Option(help="Spread of pseudo-features.")] = None,
    budget: Annotated[
        int | None, typer.Option(help="Most pseudo-features of a class; 0 for all.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="iid, antithetic, sobol; expected without a buffer.")
    ] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="May be repeated.")] = None,
    backbone: Annotated[str | None, typer.Option(help="For pictures.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare on a stream; options win over --config, that over --preset."""
    from aefocl.comparison_report import table_of, write_comparison
    from aefocl.experiment import PRESETS, Experiment, run_experiment

    compared = None
    if methods is not None:
        compared = list(dict.fromkeys(["aefocl", *filter(None, methods.split(","))]))
    given: dict[str, Any] = {
        "stream": stream,
        "batch": batch,
        "methods": compared,
        "segments": segments,
        "boundaries": boundaries or None,
        "skip_malformed": skip_malformed,
        "gamma": gamma,
        "buffer_size": buffer_size,
        "noise": noise,
        "budget": budget,
        "sampler": sampler,
        "seeds": seeds or None,
        "backbone": backbone,
        "image_size": image_size,
    }
    settings = {} if preset is None else dict(PRESETS[choice("preset", preset, tuple(PRESETS))])
    if config is not None:
        settings |= settings_in(config)
    settings |= {name: value for name, value in given.items() if value is not None}
    for name in ("buffer_size", "budget"):
        if settings.get(name) == 0:
            settings[name] = None
    finished = run_experiment(configured(Experiment, settings), out, progress=say)
    assert finished.result is not None
    report = write_comparison(
        finished,
        title=f"AEF-OCL on {finished.result['stream']}",
        lead="One pass in small batches, no stored sample, every class tested after each segment.",
    )
    if as_json:
        typer.echo(json.dumps(finished.result, indent=2))
        return
    show(table_of(finished.result), finished.result["stream"])
    typer.echo(f"report: {report}")


@app.command(name="prepare-clad")
def prepare_clad(
    root: Annotated[Path, typer.Argument(help="Folder of SODA10M's labelled part.")],
    out: Annotated[Path, typer.Option(help="Folder for features and the list of objects.")] = Path(
        "clad"
    ),
    backbone: Annotated[
        str, typer.Option(help="effnet-lite0, pixels, torchvision:…, timm:…, hf:…")
    ] = "effnet-lite0",
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 128,
    as_json: AsJson = False,
) -> None:
    """Cut CLAD-C's objects out of their pictures and extract features, once."""
    from aefocl.clad_features import prepare_clad as prepare

    told = prepare(root, out, backbone=backbone, image_size=image_size, progress=say)
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    show(_objects(told), str(out))
    for repair in told["repairs"]:
        typer.echo("repaired: " + ", ".join(f"{name} {value}" for name, value in repair.items()))
    for part, reasons in told["left_out"].items():
        for reason, n in reasons.items():
            typer.echo(f"left out of {part}: {n} ({reason})")
    for part, skipped in told["skipped"].items():
        if skipped:
            typer.echo(f"not decoded: {len(skipped)} objects of {part}", err=True)
    for line in told["missing"]:
        typer.echo(f"note: {line}", err=True)


@app.command()
def fit(
    data: DataFile,
    out: Annotated[Path, typer.Option(help="Where the head goes.")] = Path("head.safetensors"),
    into: Annotated[
        Path | None, typer.Option(help="Go on from this head, with its settings.")
    ] = None,
    gamma: Annotated[float, typer.Option(help="Ridge.")] = 0.1,
    buffer_size: Annotated[
        int,
        typer.Option("--buffer-size", "--buffer", help="Width of the random buffer; 0 for none."),
    ] = 2048,
    noise: Annotated[float, typer.Option(help="Spread of pseudo-features.")] = 1.0,
    budget: Annotated[int, typer.Option(help="Most pseudo-features of a class; 0 for all.")] = 0,
    sampler: Annotated[
        str, typer.Option(help="iid, antithetic, sobol; expected without a buffer.")
    ] = "iid",
    covariance: Annotated[str, typer.Option(help="diag, shared, diag+shared, lowrank:R.")] = "diag",
    seed: Annotated[int, typer.Option(help="Seed of buffer and draws.")] = 0,
) -> None:
    """Learn a head from features and labels."""
    from aefocl.classifier import AEFOCLClassifier
    from lipogram.analytic.sources import check_space

    rows, labels, space = labelled_rows(data)
    if into is not None:
        head = AEFOCLClassifier.load(into)
        check_space(head.space, space, data)
    else:
        settings: dict[str, Any] = {"sampler": sampler, "covariance": covariance, "seed": seed}
        head = AEFOCLClassifier(
            gamma=gamma,
            buffer_size=buffer_size or None,
            noise=noise,
            budget=budget or None,
            space=space,
            **settings,
        )
    head.partial_fit(rows, labels)
    head.save(out)
    typer.echo(
        f"{head.n_samples_seen_} rows, {len(head.classes_)} classes, "
        f"{int(head.pseudo_count_.sum())} pseudo-features to balance them: {out}"
    )


@app.command()
def predict(
    head: HeadFile,
    data: DataFile,
    out: LabelFile = None,
    plain: Annotated[bool, typer.Option("--plain", help="The head without balancing.")] = False,
) -> None:
    """Label rows; where the data have labels, say how many were right."""
    predict_rows(_load(head), data, out, balanced=not plain)


@app.command()
def bench(
    width: Annotated[int, typer.Option(help="Features D.")] = 2000,
    as_json: AsJson = False,
) -> None:
    """Time learning and balancing against the published recursion, one thread, in one run."""
    from aefocl.benchmark import run_benchmark

    measured = run_benchmark(width=width, progress=say)
    if as_json:
        typer.echo(json.dumps(measured.as_dict(), indent=2))
    else:
        show(measured.table(), measured.setting)
    for failure in measured.failures():
        typer.echo(f"below its floor: {failure}", err=True)
    raise typer.Exit(1 if measured.failures() else 0)


def _load(path: Path) -> Any:
    from aefocl.classifier import AEFOCLClassifier

    return AEFOCLClassifier.load(path)


def _described(head: Any) -> tuple[dict[str, Any], Table]:
    """What :func:`add_inspect` shows: how the head balances, and each class's share in it."""
    from lipogram.report import Table

    facts = {
        name: getattr(head, name)
        for name in ("balance", "balance_to", "noise", "budget", "sampler", "covariance", "solver")
    }
    classes = zip(
        head.classes_, head.class_count_, head.pseudo_count_, head.drawn_count_, strict=True
    )
    rows: list[list[str | int | float | None]] = [
        [str(label), *map(int, counts)] for label, *counts in classes
    ]
    return facts, Table(columns=["class", "rows", "pseudo-features", "drawn"], rows=rows)


def _objects(told: dict[str, Any]) -> Table:
    from lipogram.report import Table

    counts = told["counts"]
    rows = [[name, *(counts[part][name] for part in counts)] for name in told["class_names"]]
    return Table(columns=["class", *counts], rows=rows)


add_extract(app)
add_merge(app, _load)
add_forget(app, _load)
add_inspect(app, _load, _described)


def main() -> None:
    """Entry point of the command."""
    run_command(app)
