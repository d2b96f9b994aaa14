"""The command ``dpcr``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpcr import cli_vectors
from lipogram.analytic.head_commands import add_extract
from lipogram.console import run_command, say, show

if TYPE_CHECKING:
    from lipogram.runs import Run

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="New classes without old images, while the network itself drifts.",
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Methods = Annotated[
    str | None,
    typer.Option(
        help="By commas: dpcr, dpcr-published, lwf, stale, frozen, ncm, ncm+shift, adc, fetril, "
        "oracle."
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        from dpcr import __version__

        typer.echo(f"dpcr {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
]


@app.callback()
def _main(version: Version = False) -> None: ...


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/dpcr-demo"),
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="openclipart, fashion-mnist or digits; may be repeated. Default: the first two."
        ),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train the last stages of a real network class after class, and see what it still knows."""
    from dpcr.demo import run_demo
    from dpcr.study_report import study_table

    chosen = tuple(dataset or ("openclipart", "fashion-mnist"))
    done = run_demo(out, datasets=chosen, seeds=tuple(seed or (0,)), progress=say)
    if done.fallback:
        typer.echo(f"note: {done.fallback}", err=True)
    if as_json:
        typer.echo(json.dumps({name: run.result for name, run in done.runs.items()}, indent=2))
        return
    for name, run in done.runs.items():
        assert run.result is not None
        show(study_table(run.result), name)
    for report in done.reports.values():
        typer.echo(f"report: {report}")


@app.command()
def run(
    out: Annotated[
        Path, typer.Option(help="Folder of the run; an unfinished one is resumed.")
    ] = Path("runs/dpcr"),
    dataset: Annotated[
        str | None, typer.Option(help="openclipart, fashion-mnist or digits, on a laptop.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="A run of the paper, see `dpcr presets`; needs --data.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings file of PyCIL or PILOT (JSON); needs --data.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the image set.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    methods: Methods = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
    resume_from: Annotated[
        Path | None, typer.Option(help="Backbone (.safetensors) that the first task starts from.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train on a stream of classes, and compare classifiers over the one drifting network."""
    from dpcr.study_report import study_table
    from lipogram.errors import InvalidSetting

    given = [name for name in (dataset, preset, config) if name is not None]
    if len(given) > 1:
        raise InvalidSetting("name one of --dataset, --preset and --config")
    names = tuple(filter(None, methods.split(","))) if methods is not None else None
    where = _device(device)
    if preset is None and config is None:
        if resume_from is not None or data is not None:
            raise InvalidSetting("--data and --resume-from go with --preset or --config")
        runs = [_small(dataset or "digits", tuple(seed or (0,)), names, out, where)]
    else:
        runs = _large(preset, config, data, seed, names, out, where, resume_from)
    for made in runs:
        assert made.result is not None
        if as_json:
            typer.echo(json.dumps(made.result, indent=2))
        else:
            show(study_table(made.result), str(made.folder))
            typer.echo(f"report: {made.folder / 'report.html'}")


def _small(
    name: str, seeds: tuple[int, ...], names: tuple[str, ...] | None, out: Path, device: str
) -> Run:
    from dpcr.demo import LEAD, TITLES
    from dpcr.real_images import METHODS, data_of, study_of
    from dpcr.study import run_study
    from dpcr.study_report import write_study

    study = study_of(name, seeds=seeds, methods=names or METHODS)
    finished = run_study(study, data_of(name), out, device=device, progress=say)
    write_study(finished, title=TITLES[name], lead=LEAD)
    return finished


def _large(
    preset: str | None,
    config: Path | None,
    data: Path | None,
    seeds: list[int] | None,
    names: tuple[str, ...] | None,
    out: Path,
    device: str,
    resume_from: Path | None,
) -> list[Run]:
    from dpcr.demo import LEAD
    from dpcr.image_runs import ImageRun
    from dpcr.methods import METHODS
    from dpcr.presets import preset as preset_of
    from dpcr.pycil_config import read_pycil, top1_curve
    from dpcr.study import run_study
    from dpcr.study_report import write_study

    if config is not None:
        found = read_pycil(config)
        for key, value in found.ignored.items():
            typer.echo(f"{key} = {value!r} in {config} changes nothing here", err=True)
        wanted, names = ImageRun.of_pycil(found, seeds), names or (found.method,)
    else:
        assert preset is not None
        wanted = ImageRun.of_preset(preset_of(preset), seeds or (1993,))
    runs = []
    for seed in wanted.seeds:
        folder = out if len(wanted.seeds) == 1 else out / f"seed-{seed}"
        study = wanted.study(wanted.n_classes(data), seed, names or METHODS)
        images = wanted.data(data, seed, resume_from=resume_from)
        finished = run_study(study, images, folder, device=device, progress=say)
        write_study(finished, title=f"{wanted.dataset}, class after class", lead=LEAD)
        for method in study.methods:
            curve = [e["methods"][method]["accuracy"] for e in finished.events("task")]
            typer.echo(f"{method}: {top1_curve(curve)}")
        runs.append(finished)
    return runs


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="One preset, in full.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the paper's settings, and where the released code does something else."""
    from dataclasses import asdict

    from dpcr.presets import deviations_table, presets_table
    from dpcr.presets import preset as preset_of

    if name is not None:
        typer.echo(json.dumps(asdict(preset_of(name)), indent=2))
        return
    tables = {"presets": presets_table(), "deviations": deviations_table()}
    if as_json:
        plain = {
            title: [dict(zip(table.columns, row, strict=True)) for row in table.rows]
            for title, table in tables.items()
        }
        typer.echo(json.dumps(plain, indent=2))
        return
    for title, table in tables.items():
        show(table, title)


@app.command()
def bench(as_json: AsJson = False) -> None:
    """Time one task's calibration against the released algorithm, one thread, in one run."""
    from dpcr.benchmark import run_benchmark

    measured = run_benchmark(progress=say)
    if as_json:
        typer.echo(json.dumps(measured.as_dict(), indent=2))
    else:
        show(measured.table(), measured.setting)
    for failure in measured.failures():
        typer.echo(f"below its floor: {failure}", err=True)
    raise typer.Exit(1 if measured.failures() else 0)


add_extract(app)
app.command()(cli_vectors.calibrate)
app.command()(cli_vectors.move)
app.command(name="eval")(cli_vectors.evaluate)


def _device(name: str) -> str:
    import torch

    from lipogram.errors import InvalidSetting

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind: Any = torch.device(name).type
    except RuntimeError:
        raise InvalidSetting(f"device {name!r} is none: auto, cpu, cuda, cuda:1, …") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise InvalidSetting(f"device {name!r}: this machine or this PyTorch has no CUDA")
    return name


def main() -> None:
    """Entry point of the command."""
    run_command(app)
