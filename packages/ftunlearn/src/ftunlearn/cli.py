"""The command `ftunlearn`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftunlearn.options import SOURCES, as_yaml, expanded, folders_for, merged, probes_of
from lipogram.console import run_command, say, show

if TYPE_CHECKING:
    from ftunlearn.dissection_report import DissectionReport

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Unlearn facts in a language model, then find out whether they are gone or only hidden.",
)

Vanilla = Annotated[
    str | None, typer.Option(help="Model before: smollm2, a folder, a GGUF file or a hub id.")
]
Unlearned = Annotated[
    list[str] | None,
    typer.Option(help="Model or adapter after; may be repeated, or a pattern of folders."),
]
Probes = Annotated[str | None, typer.Option(help=f"{SOURCES}.")]
Reference = Annotated[
    str | None, typer.Option(help="A model that never knew, as control and for the depth.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …; default: the best there is.")]
Seed = Annotated[int | None, typer.Option(help="Of folds, controls and intervals.")]
Config = Annotated[
    Path | None, typer.Option(help="YAML with the names of the settings; options win over it.")
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the settings as YAML and stop.")
]
BinWeights = Annotated[
    bool, typer.Option("--bin-weights", help="Also read .bin checkpoints, as weights only.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first bad probe.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def _version(wanted: bool) -> None:
    if wanted:
        from ftunlearn import __version__

        typer.echo(f"ftunlearn {__version__}")
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
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/ftunlearn-demo"),
    seed: Annotated[int, typer.Option(help="Another seed forgets other facts.")] = 0,
) -> None:
    """Unlearn ten facts in SmolLM2 and dissect it: one page with the verdict, offline."""
    from ftunlearn.demo import run_demo

    summary = run_demo(out, seed=seed, progress=say)
    for figure, value in summary["headline"].items():
        typer.echo(f"{figure}: {value:.3f}" if isinstance(value, float) else f"{figure}: {value}")
    typer.echo(f"report: {out / 'report.html'}")


@app.command()
def unlearn(
    model: Annotated[
        str | None, typer.Option(help="smollm2, a folder, a GGUF file or a hub id.")
    ] = None,
    probes: Probes = None,
    forget: Annotated[
        Path | None, typer.Option(help="Texts to forget: a .txt, or a JSONL with `text`.")
    ] = None,
    retain: Annotated[Path | None, typer.Option(help="Texts to keep, the same.")] = None,
    method: Annotated[
        str | None, typer.Option(help="ga, graddiff, dpo, npo, simnpo, rmu, undial or idk.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Named settings: paper, smollm2-facts.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the model or adapter.")] = None,
    lora: Annotated[bool, typer.Option("--lora", help="Train an adapter only.")] = False,
    seed: Seed = None,
    device: Device = None,
    config: Config = None,
    print_config: PrintConfig = False,
) -> None:
    """Train a model to forget: GradDiff, NPO, RMU and others, all parameters or LoRA."""
    given = {
        "model": model,
        "probes": probes,
        "forget": forget,
        "retain": retain,
        "preset": preset,
        "method": method,
        "lora": lora or None,
        "seed": seed,
        "device": device,
    }
    settings = merged(config, given)
    if print_config:
        typer.echo(as_yaml(settings), nl=False)
        return
    from ftunlearn.unlearning_run import run_unlearning

    target = _needed(out, "--out")
    figures = run_unlearning(target, **settings, progress=say)
    for figure, value in figures.items():
        typer.echo(f"{figure}: {value:.4f}" if isinstance(value, float) else f"{figure}: {value}")
    typer.echo(f"model: {target}")


@app.command()
def dissect(
    vanilla: Vanilla = None,
    unlearned: Unlearned = None,
    probes: Probes = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/dissection"),
    reference: Reference = None,
    components: Annotated[
        str | None, typer.Option(help="By commas: coef,attn,coef+attn,values,keys,attn_weights.")
    ] = None,
    window: Annotated[int | None, typer.Option(help="Layers replaced together; 5.")] = None,
    stride: Annotated[int | None, typer.Option(help="Layers between windows; 1.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Headline rows: aligned, or paper; both are stored.")
    ] = None,
    relearn: Annotated[
        bool | None, typer.Option("--relearn/--no-relearn", help="Run the relearning attack.")
    ] = None,
    side_effects: Annotated[
        bool | None, typer.Option("--side-effects/--no-side-effects", help="Compare other probes.")
    ] = None,
    attacks: Annotated[
        str | None, typer.Option(help="By commas: logit_lens,direction_ablation.")
    ] = None,
    seed: Seed = None,
    device: Device = None,
    bin_weights: BinWeights = False,
    redact: Annotated[
        bool, typer.Option("--redact", help="Write hashes in place of prompts and answers.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what OUT holds.")] = False,
    strict: Strict = False,
    config: Config = None,
    print_config: PrintConfig = False,
) -> None:
    """Is the knowledge gone or hidden? Curves, reverse patch, relearning attack, verdict."""
    from ftunlearn.dissect_config import DissectConfig
    from ftunlearn.dissection import dissect as run_dissection
    from lipogram.options import configured

    given = {
        "components": None if components is None else [c for c in components.split(",") if c],
        "window": window,
        "stride": stride,
        "protocol": protocol,
        "side_effects": side_effects,
        "attacks": None if attacks is None else [a for a in attacks.split(",") if a],
        "seed": seed,
    }
    settings = merged(config, given)
    if relearn is False or (relearn is None and settings.get("relearn") is False):
        settings["relearn"] = None
    elif relearn or settings.get("relearn") is True:
        if not settings.get("relearn") or settings["relearn"] is True:
            settings.pop("relearn", None)
    chosen = configured(DissectConfig, settings)
    if print_config:
        from dataclasses import asdict

        typer.echo(as_yaml(asdict(chosen)), nl=False)
        return
    folders = folders_for(expanded(_needed(unlearned, "--unlearned")), out)
    _free(folders.values(), resume=resume)
    asked = probes_of(_needed(probes, "--probes"), strict=strict)
    for problem in asked.problems:
        typer.echo(f"left out: {problem}", err=True)
    first = _loaded(_needed(vanilla, "--vanilla"), device, bin_weights)
    third = None if reference is None else _loaded(reference, device, bin_weights)
    for name, folder in folders.items():
        pair = _pair(first, name, third, device, bin_weights)
        report = run_dissection(pair, asked, chosen, out=folder, redact=redact)
        _tell(report, folder, name if len(folders) > 1 else "")


@app.command()
def relearn(
    vanilla: Vanilla = None,
    unlearned: Annotated[str | None, typer.Option(help="Model or adapter after.")] = None,
    probes: Probes = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; that of the unlearning.")] = None,
    steps: Annotated[str | None, typer.Option(help="Steps to look at, by commas.")] = None,
    k: Annotated[int | None, typer.Option("--k", help="Step that the gain is taken at.")] = None,
    made_up: Annotated[
        bool, typer.Option("--made-up", help="Also learn facts that nobody can know.")
    ] = False,
    seed: Seed = None,
    device: Device = None,
    bin_weights: BinWeights = False,
    as_json: AsJson = False,
) -> None:
    """Train on some forgotten facts, ask for the others: do they come back?"""
    from ftunlearn.relearning import RelearnConfig
    from ftunlearn.relearning_table import attack, table
    from lipogram.options import configured

    given = {
        "lr": lr,
        "steps": None if steps is None else _whole_numbers(steps),
        "k": k,
        "made_up": made_up or None,
        "seed": seed,
    }
    chosen = configured(RelearnConfig, merged(None, given))
    asked = probes_of(_needed(probes, "--probes"))
    first = _loaded(_needed(vanilla, "--vanilla"), device, bin_weights)
    pair = _pair(first, _needed(unlearned, "--unlearned"), None, device, bin_weights)
    found = attack(pair, asked, chosen)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        show(table(found), f"gain {found['gain']:.3f} at {found['k']} steps")


@app.command("side-effects")
def side_effects(
    vanilla: Vanilla = None,
    unlearned: Annotated[str | None, typer.Option(help="Model or adapter after.")] = None,
    probes: Probes = "builtin:facts",
    seed: Annotated[int, typer.Option(help="Of intervals.")] = 0,
    device: Device = None,
    bin_weights: BinWeights = False,
    as_json: AsJson = False,
) -> None:
    """What else changed: probabilities, answers and texts on every group of probes."""
    from ftunlearn.collateral import side_effects as compare
    from ftunlearn.tables import tables
    from lipogram.settings import plain

    asked = probes_of(_needed(probes, "--probes"))
    first = _loaded(_needed(vanilla, "--vanilla"), device, bin_weights)
    pair = _pair(first, _needed(unlearned, "--unlearned"), None, device, bin_weights)

    found = plain(compare(pair, asked, seed=seed), "side effects")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for table in tables(found):
        show(table)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder that holds report.json.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the page goes; default: into FOLDER.")
    ] = None,
    redact: Annotated[
        bool, typer.Option("--redact", help="Show hashes in place of prompts and answers.")
    ] = False,
) -> None:
    """Draw the page of a finished dissection again."""
    from ftunlearn.dissection_report import DissectionReport

    held = DissectionReport.load(folder)
    shown = held.redacted() if redact else held
    typer.echo(held.verdict.sentence if not redact else shown.verdict.sentence)
    typer.echo(f"report: {shown.to_html(out or folder / 'report.html')}")


@app.command()
def models(as_json: AsJson = False) -> None:
    """Models by name: what they are, whether they are here, what they need."""
    from dataclasses import asdict

    from ftunlearn.released import named_models

    found = named_models()
    if as_json:
        typer.echo(json.dumps([asdict(model) for model in found], indent=2))
        return
    for kind in found:
        counted = f"{len(kind.found)} of {len(kind.names)} " if len(kind.names) > 1 else ""
        here = f"{counted}here" if kind.found else "not here"
        typer.echo(f"{kind.pattern}\n    {kind.what}; {here}; needs {kind.needs}")


def _needed(value: Any, option: str) -> Any:
    from lipogram.errors import InvalidSetting

    if not value:
        raise InvalidSetting(f"{option} is needed")
    return value


def _whole_numbers(text: str) -> list[int]:
    from lipogram.errors import InvalidSetting

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidSetting(f"--steps takes whole numbers by commas, not {text!r}") from None


def _free(folders: Any, *, resume: bool) -> None:
    """Refuse a folder that holds a run, unless it is to be resumed."""
    from lipogram.errors import InvalidSetting

    for folder in folders:
        if not resume and (folder / "config.json").exists():
            raise InvalidSetting(f"{folder} holds a run: --resume goes on with it")


def _loaded(spec: str, device: str | None, bin_weights: bool) -> Any:
    from lipogram.llm import load_model

    say(f"loading {spec}")
    return load_model(spec, dtype="float32", device=device, bin_weights=bin_weights)


def _pair(vanilla: Any, unlearned: str, reference: Any, device: Any, bin_weights: bool) -> Any:
    from ftunlearn.pair import ModelPair

    say(f"loading {unlearned}")
    return ModelPair.load(
        vanilla, unlearned, reference=reference, device=device, bin_weights=bin_weights
    )


def _tell(report: DissectionReport, folder: Path, name: str) -> None:
    typer.echo(f"{name}: {report.verdict.sentence}" if name else report.verdict.sentence)
    typer.echo(f"report: {folder / 'report.html'}")


def main() -> None:
    """Entry point of the command."""
    run_command(app)
