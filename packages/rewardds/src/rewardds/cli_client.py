"""Commands of the client, who has the private records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lipogram.console import say

app = typer.Typer(no_args_is_help=True, help="What runs where the private records are.")

Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="FIELD=COLUMN: instruction, response, id, group. Repeatable."),
]
Epsilon = Annotated[float, typer.Option(help="Budget of all that leaves, together.")]
Delta = Annotated[float | None, typer.Option(help="Default: the lesser of 1e-5 and n^-1.1.")]
Batch = Annotated[int, typer.Option(help="Records in a batch, on average.")]
Epochs = Annotated[float, typer.Option(help="Passes over the records, on average.")]
RewardBatch = Annotated[int | None, typer.Option(help="Of the reward's training; as --batch.")]
Split = Annotated[
    float | None, typer.Option(help="The generator's part of both sigmas; equal by default.")
]
RewardEpochs = Annotated[float | None, typer.Option(help="Of that; as --epochs.")]


def plan(
    n: Annotated[int, typer.Option(help="Records, or a public bound on their number.")],
    epsilon: Epsilon = 8.0,
    delta: Delta = None,
    batch: Batch = 64,
    epochs: Epochs = 3.0,
    reward_batch: RewardBatch = None,
    reward_epochs: RewardEpochs = None,
    split: Split = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How much noise both trainings need so that together they keep one budget."""
    from rewardds.pipeline import PipelineSettings

    settings = PipelineSettings(
        epsilon=epsilon,
        delta=delta,
        batch=batch,
        epochs=epochs,
        reward_batch=reward_batch,
        reward_epochs=reward_epochs,
        split="equal-sigma" if split is None else split,
    )
    found = settings.plan(n)
    if not as_json:
        typer.echo(found.sentence())
        return
    runs = {
        name: {"sigma": r.sigma, "sample_rate": r.sample_rate, "steps": r.steps}
        for name, r in zip(("generator", "reward"), found.releases, strict=True)
    }
    typer.echo(json.dumps({"epsilon": found.total, "delta": found.delta, "n": n, "runs": runs}))


@app.command()
def fit(
    records: Annotated[str, typer.Argument(help="JSONL, CSV or a Hugging Face data set.")],
    out: Annotated[Path, typer.Option(help="Folder; bundle/ in it is what leaves.")] = Path(
        "rewardds-client"
    ),
    base: Annotated[str, typer.Option(help="Base model of both proxies.")] = "smollm2",
    epsilon: Epsilon = 8.0,
    delta: Delta = None,
    batch: Batch = 64,
    epochs: Epochs = 3.0,
    reward_batch: RewardBatch = None,
    reward_epochs: RewardEpochs = None,
    column: Columns = None,
    public_seeds: Annotated[
        str | None, typer.Option(help="Public or synthetic records, shown as examples.")
    ] = None,
    domain: Annotated[str, typer.Option(help='What the records are about: "medicine".')] = "",
    unit: Annotated[str, typer.Option(help="What is protected: record or group.")] = "record",
    weak_source: Annotated[
        list[str] | None, typer.Option(help="init, fewshot, dp, dp_early, corrupt, offtopic.")
    ] = None,
    clip: Annotated[float, typer.Option(help="Largest norm of a record's gradient.")] = 0.5,
    lr: Annotated[float, typer.Option(help="Of AdamW.")] = 1e-3,
    reward: Annotated[
        str, typer.Option(help="tuned, or head: a linear one on the frozen base, for few records.")
    ] = "tuned",
    reward_clip: Annotated[float | None, typer.Option(help="Of its training; as --clip.")] = None,
    reward_lr: Annotated[float | None, typer.Option(help="Of that; as --lr.")] = None,
    public_responses: Annotated[
        bool, typer.Option(help="The responses are public texts, such as the names of labels.")
    ] = False,
    task: Annotated[
        list[str] | None, typer.Option(help="answer, question, posed: what the generator learns.")
    ] = None,
    split: Split = None,
    full: Annotated[
        bool, typer.Option("--full", help="All weights, ghost clipping; no adapters.")
    ] = False,
    max_length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 512,
    physical_batch: Annotated[int, typer.Option(help="Rows at once.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda …")] = "auto",
    allow_nonprivate_weak_source: Annotated[
        bool, typer.Option(help="The paper's 'sft' source; epsilon is infinite then.")
    ] = False,
) -> None:
    """Train the generation and the reward proxy and write the bundle; a killed run goes on."""
    from rewardds.client import RewardDSClient
    from rewardds.pipeline import PipelineSettings
    from rewardds.privacy_units import privacy_units
    from rewardds.prompts import Prompts
    from rewardds.records import read_records
    from rewardds.verification import verify

    columns = columns_of(column)
    private = read_records(records, columns=columns)
    public = read_records(public_seeds, private=False) if public_seeds else ()
    settings: dict[str, Any] = {
        "clip": clip,
        "lr": lr,
        "tune": "full" if full else "lora",
        "reward": reward,
        "reward_clip": reward_clip,
        "reward_lr": reward_lr,
        "public_responses": public_responses,
        "unit": unit,
        "max_length": max_length,
        "physical_batch": physical_batch,
        "allow_nonprivate_weak_source": allow_nonprivate_weak_source,
    }
    if weak_source:
        settings["weak_sources"] = tuple(weak_source)
    if task:
        settings["tasks"] = tuple(task)
    if domain:
        settings["prompts"] = Prompts.of_domain(domain)
    asked = PipelineSettings(
        epsilon=epsilon,
        delta=delta,
        batch=batch,
        epochs=epochs,
        reward_batch=reward_batch,
        reward_epochs=reward_epochs,
        split="equal-sigma" if split is None else split,
    )
    n = len(privacy_units(private, unit, per_group=4))  # type: ignore[arg-type]  # checked there
    client = RewardDSClient(
        base,
        asked.plan(n),
        folder=out,
        device=None if device == "auto" else device,
        **settings,
    )
    say(client.plan.sentence())
    bundle = client.fit(private, public)
    typer.echo(verify(bundle.folder).sentence())
    typer.echo(f"bundle: {bundle.folder}")


@app.command()
def spent(
    records: Annotated[str, typer.Argument(help="The private records.")],
    column: Columns = None,
    delta: Annotated[float | None, typer.Option(help="At which epsilon is told.")] = None,
) -> None:
    """What this user's ledger says was ever spent on these records."""
    from rewardds.ledger import PrivacyLedger
    from rewardds.plan import default_delta
    from rewardds.records import read_records

    private = read_records(records, columns=columns_of(column))
    ledger = PrivacyLedger()
    rows = ledger.rows(private.fingerprint)
    at = default_delta(private.n) if delta is None else delta
    total = ledger.epsilon(private.fingerprint, at)
    typer.echo(f"{len(rows)} runs, together ε {total:.4g} at δ {at:.3g}")


def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recompute a bundle's hashes and epsilon from its files alone."""
    from rewardds.verification import verify as verified

    found = verified(bundle)
    typer.echo(json.dumps(found.statement.as_json()) if as_json else found.sentence())


def columns_of(told: list[str] | None) -> dict[str, str] | None:
    """`FIELD=COLUMN` options as a mapping.

    Raises:
        InvalidSetting: one without its equals sign.
    """
    from lipogram.errors import InvalidSetting

    if not told:
        return None
    for each in told:
        if "=" not in each:
            raise InvalidSetting(f"--column {each}: it must be FIELD=COLUMN")
    return dict(each.split("=", 1) for each in told)


COMMANDS = (plan, verify)
