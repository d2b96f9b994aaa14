"""The command ``air``."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from air.options import typed
from lipogram.analytic.head_commands import (
    AsJson,
    DataFile,
    add_extract,
    add_forget,
    add_inspect,
    add_merge,
    add_predict,
    labelled_rows,
)
from lipogram.console import run_command, say, show
from lipogram.options import choice, number, settings_in

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A closed-form classifier head for streams with rare classes.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from air import __version__

        typer.echo(f"air {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
]


@app.callback()
def _main(version: Version = False) -> None: ...


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/air-demo"),
    dataset: Annotated[
        str, typer.Option(help="openclipart, fashion-mnist or digits.")
    ] = "openclipart",
    as_json: AsJson = False,
) -> None:
    """AIR against its baselines on real long-tailed images, in three class orders and blurred."""
    from air.comparison_report import tables
    from air.demo import run_demo

    done = run_demo(out, dataset=dataset, progress=say)
    if done.fallback:
        typer.echo(f"note: {done.fallback}", err=True)
    if as_json:
        typer.echo(json.dumps({name: run.result for name, run in done.runs.items()}, indent=2))
        return
    for run in done.runs.values():
        assert run.result is not None
        for order, table in tables(run.result).items():
            show(table, f"{run.config['dataset']}, {order} order")
    for report in done.reports.values():
        typer.echo(f"report: {report}")


add_extract(app)


@app.command()
def run(
    out: Annotated[
        Path, typer.Option(help="Folder of the run; an unfinished one is resumed.")
    ] = Path("runs/air"),
    preset: Annotated[str | None, typer.Option(help="Named settings: gacl, acl-defaults.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML with the same names as these options.")
    ] = None,
    scenario: Annotated[str | None, typer.Option(help="cil, lt-cil or gcil.")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="digits, synthetic, openclipart, fashion-mnist, cifar100, folder:PATH, store:PATH"
        ),
    ] = None,
    rho: Annotated[
        float | None, typer.Option(help="Largest class over smallest; 0 keeps the data's.")
    ] = None,
    orders: Annotated[
        list[str] | None,
        typer.Option("--order", help="descending, ascending, shuffled; may be repeated."),
    ] = None,
    tasks: Annotated[int | None, typer.Option(help="Number of tasks.")] = None,
    base: Annotated[int | None, typer.Option(help="Classes of the first task.")] = None,
    r_d: Annotated[
        float | None, typer.Option("--r-d", help="Share of disjoint classes (gcil).")
    ] = None,
    r_b: Annotated[
        float | None, typer.Option("--r-b", help="Share of blurred samples (gcil).")
    ] = None,
    gamma: Annotated[str | None, typer.Option(help="Ridge, or cv.")] = None,
    buffer_size: Annotated[
        int | None, typer.Option("--buffer", help="Width of the random buffer; 0 for none.")
    ] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="May be repeated.")] = None,
    methods: Annotated[
        str | None,
        typer.Option("--compare", help="Baselines, by commas: ridge,ncm,slda,ranpac,oversampling."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows to a batch.")] = None,
    every: Annotated[
        int | None, typer.Option(help="Rows between evaluations inside a task.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="For image sets.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of a set that is not fetched.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare AIR with its baselines on a stream; options win over --config, that over --preset."""
    from air.comparison_report import tables, write_comparison
    from air.experiment import PRESETS, Experiment, run_experiment
    from lipogram.errors import InvalidSetting

    given: dict[str, Any] = {
        "scenario": scenario,
        "dataset": dataset,
        "rho": rho,
        "orders": orders or None,
        "tasks": tasks,
        "base": base,
        "r_d": r_d,
        "r_b": r_b,
        "gamma": gamma,
        "buffer_size": buffer_size,
        "seeds": seeds or None,
        "methods": None if methods is None else ["air", *filter(None, methods.split(","))],
        "batch_size": batch_size,
        "every": every,
        "backbone": backbone,
        "image_size": image_size,
        "data": data,
    }
    settings = {} if preset is None else dict(PRESETS[choice("preset", preset, tuple(PRESETS))])
    if config is not None:
        settings |= settings_in(config)
    settings |= {name: value for name, value in given.items() if value is not None}
    unknown = set(settings) - {field.name for field in fields(Experiment)}
    if unknown:
        raise InvalidSetting(f"{config}: unknown setting {sorted(unknown)[0]!r}")
    finished = run_experiment(Experiment(**typed(settings)), out, progress=say)
    report = write_comparison(
        finished, title=f"AIR on {finished.config['dataset']}", lead="One pass, no stored sample."
    )
    assert finished.result is not None
    if as_json:
        typer.echo(json.dumps(finished.result, indent=2))
        return
    for order, table in tables(finished.result).items():
        show(table, f"{finished.config['dataset']}, {order} order")
    typer.echo(f"report: {report}")


@app.command()
def fit(
    data: DataFile,
    out: Annotated[Path, typer.Option(help="Where the head goes.")] = Path("head.safetensors"),
    into: Annotated[
        Path | None, typer.Option(help="Go on from this head instead of beginning.")
    ] = None,
    gamma: Annotated[str, typer.Option(help="Ridge, or cv.")] = "0.1",
    buffer_size: Annotated[
        int, typer.Option("--buffer", help="Width of the random buffer; 0 for none.")
    ] = 2048,
    class_weight: Annotated[
        str, typer.Option(help="balanced, none, effective:0.999, or β for N^-β.")
    ] = "balanced",
    min_count: Annotated[float, typer.Option(help="Class sizes below it count as it.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the buffer.")] = 0,
) -> None:
    """Learn a head from features and labels."""
    from air.classifier import AIRClassifier
    from lipogram.analytic.sources import check_space

    rows, labels, space = labelled_rows(data)
    if into is not None:
        head = AIRClassifier.load(into)
        check_space(head.space, space, data)
    else:
        head = AIRClassifier(
            gamma=number(gamma),
            buffer_size=buffer_size or None,
            class_weight=number(class_weight),
            min_count=min_count,
            seed=seed,
            space=space,
        )
    head.partial_fit(rows, labels)
    head.save(out)
    typer.echo(
        f"{head.n_samples_seen_} rows, {len(head.classes_)} classes, "
        f"condition {head.condition_:.1e}: {out}"
    )


def _load(path: Path) -> Any:
    from air.classifier import AIRClassifier

    return AIRClassifier.load(path)


def _describe(head: Any) -> tuple[dict[str, Any], Any]:
    from lipogram.report import Table

    by_class: list[list[str | int | float | None]] = [
        [str(label), int(n), float(weight)]
        for label, n, weight in zip(
            head.classes_, head.class_count_, head.class_weight_, strict=True
        )
    ]
    facts = {"gamma_effective": head.gamma_effective_, "policy": head.policy}
    return facts, Table(columns=["class", "rows", "weight"], rows=by_class, digits=4)


add_predict(app, _load)
add_merge(app, _load)
add_forget(app, _load)
add_inspect(app, _load, _describe)


@app.command()
def bench(
    width: Annotated[int, typer.Option(help="Features D.")] = 2000,
    classes: Annotated[int, typer.Option(help="Classes K.")] = 50,
    rows: Annotated[int, typer.Option(help="Rows.")] = 5000,
    as_json: AsJson = False,
) -> None:
    """Time AIR against a dense per-class loop and a naive recursion, one thread, in one run."""
    from air.benchmark import run_benchmark

    measured = run_benchmark(width=width, classes=classes, rows=rows, progress=say)
    if as_json:
        typer.echo(json.dumps(measured.as_dict(), indent=2))
    else:
        show(measured.table(), measured.setting)
    for failure in measured.failures():
        typer.echo(f"below its floor: {failure}", err=True)
    raise typer.Exit(1 if measured.failures() else 0)


def main() -> None:
    """Entry point of the command."""
    run_command(app)
