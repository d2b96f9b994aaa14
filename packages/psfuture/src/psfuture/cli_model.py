"""The commands around models: training on prefixes, conversion, the page, SimulEval's agent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

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
    both,
    spread,
)


@spread
def train_p2f(
    source: Source,
    out: Annotated[Path, typer.Option(help="Folder of the run; the model is OUT/model.")],
    model: ModelOptions,
    refs: References = None,
    first: First = None,
    objective: Annotated[
        str | None, typer.Option(help="p2f; ce, its control; multipath, for wait-k.")
    ] = None,
    targets: Annotated[
        str | None, typer.Option(help="model: its own translations; reference: yours.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of the optimiser.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At its peak.")] = None,
    weight: Annotated[float | None, typer.Option(help="Of the cut sentences.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Of the target, a step.")] = None,
    prefix_eos: Annotated[
        bool | None,
        typer.Option("--prefix-eos/--no-prefix-eos", help="Close cut sources."),
    ] = None,
    held_out: Annotated[int | None, typer.Option(help="Pairs to measure on.")] = None,
    threads: Annotated[int | None, typer.Option(help="Of the CPU.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of batches and cuts.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML with names of the settings; options win over it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Teach a model to translate prefixes, Prefix-to-Full; goes on where it was stopped."""
    from lipogram.options import configured, settings_in
    from lipogram.settings import plain
    from psfuture.p2f_settings import P2FSettings

    given = {
        "objective": objective,
        "targets": targets,
        "steps": steps,
        "learning_rate": learning_rate,
        "weight": weight,
        "tokens": tokens,
        "prefix_eos": prefix_eos,
        "held_out": held_out,
        "threads": threads,
        "seed": seed,
    }
    held = {} if config is None else settings_in(config)
    held |= {name: value for name, value in given.items() if value is not None}
    settings = configured(P2FSettings, held)
    lines, translations = both(source, refs, first)
    pairs = list(zip(lines, translations, strict=True))
    from psfuture.p2f_training import train_p2f as train  # seconds, so after what may be wrong

    found = plain(train(model.load(), pairs, out, settings), "summary")
    if as_json:
        import json

        typer.echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        typer.echo(f"{name}: {value}")
    typer.echo(f"model: {out / 'model'}")


@spread
def convert(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that is not there.")],
    model: ModelOptions,
) -> None:
    """Write a fairseq or Bergamot model as a folder of safetensors."""
    from lipogram.errors import InvalidSetting

    kind, _, place = model.model.partition(":")
    path = Path(place).expanduser()
    if kind == "fairseq" and place:
        from psfuture.fairseq_files import convert_fairseq

        dictionaries: Any = {"src_dict": model.src_dict, "tgt_dict": model.tgt_dict}
        convert_fairseq(path, out, **dictionaries, bpe=model.bpe)
    elif kind == "bergamot" and place:
        from psfuture.bergamot import convert_bergamot

        convert_bergamot(path, out)
    else:
        raise InvalidSetting(
            f"--model {model.model!r}: what is converted is fairseq:FILE or bergamot:DIR"
        )
    typer.echo(f"model: {kind}:{out}")


@spread
def serve(
    model: ModelOptions,
    decisions: DecisionOptions,
    calibrated: CalibrationOptions,
    policy: PolicyText = POLICY,
    k: Annotated[int, typer.Option(help="Where the second lane, wait-k, starts.")] = 3,
    host: Annotated[str, typer.Option(help="An address of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8765,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let other machines in.")
    ] = False,
    sessions: Annotated[int, typer.Option(help="Sentences at the same time.")] = 16,
) -> None:
    """A page where a sentence is translated while it is typed, beside wait-k."""
    from lipogram.errors import InvalidSetting
    from psfuture.policies import PsFuture
    from psfuture.server import ServerLimits
    from psfuture.server import serve as run

    limits = ServerLimits(sessions=sessions)
    backend = model.load()
    chosen = calibrated.policy(policy, decisions, model, backend)
    if not isinstance(chosen, PsFuture):
        raise InvalidSetting(f"the first lane is psfuture's, --policy cannot be {policy!r}")
    run(
        backend,
        host=host,
        port=port,
        policy=chosen,
        k=k,
        future=decisions.future or model.future,
        limits=limits,
        allow_remote=allow_remote,
        ready=lambda url: typer.echo(f"serving {url} (Ctrl-C ends it)"),
    )


def agent() -> None:
    """Print the path for SimulEval: simuleval --agent $(psfuture agent) --model enpt …."""
    from importlib.util import find_spec

    found = find_spec("psfuture.simuleval_agent")
    assert found is not None
    typer.echo(found.origin)


def register(app: typer.Typer) -> None:
    """Add these commands to the command `psfuture`."""
    app.command("train-p2f")(train_p2f)
    for command in (convert, serve, agent):
        app.command()(command)
