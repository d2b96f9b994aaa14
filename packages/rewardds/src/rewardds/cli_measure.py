"""Commands that measure: audits of what was released, and what the tuned model is worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lipogram.console import say
from rewardds.cli_client import Columns, columns_of
from rewardds.cli_server import Base, ngrams_beside

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda …")]


def plant(
    records: Annotated[str, typer.Argument(help="The private records.")],
    out: Annotated[Path, typer.Option(help="The set to train on, JSON lines; private.")] = Path(
        "planted.jsonl"
    ),
    canaries: Annotated[Path, typer.Option(help="Which were planted; secret.")] = Path(
        "canaries.json"
    ),
    size: Annotated[int, typer.Option(help="Canaries; about half of them are planted.")] = 200,
    column: Columns = None,
) -> None:
    """Add made-up records by tossed coins, so that a training on the result can be audited."""
    from dataclasses import asdict

    from lipogram.errors import FolderInUse
    from lipogram.files import write_atomically
    from rewardds.canaries import make_canaries
    from rewardds.records import read_records

    private = read_records(records, columns=columns_of(column))
    made = make_canaries(size)
    planted = made.planted(private)
    for path in (out, canaries):
        if path.exists():
            raise FolderInUse(
                f"{path} is there already: a set that was trained on cannot be audited without its "
                "canaries; name another file, or remove that one"
            )
    made.save(canaries)
    write_atomically(out, "".join(json.dumps(asdict(r)) + "\n" for r in planted).encode())
    out.chmod(0o600)
    typer.echo(f"{planted.n} records, {sum(made.included)} of {size} canaries among them: {out}")


def audit(
    bundle: Annotated[Path, typer.Argument(help="Of a training on a planted set.")],
    canaries: Annotated[Path, typer.Argument(help="canaries.json of `rewardds plant`.")],
    base: Base = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """What the canaries prove about epsilon at least, beside the epsilon that is claimed."""
    from rewardds.bundle_audit import audit_bundle
    from rewardds.canaries import Canaries
    from rewardds.canary_check import check_planted

    held = Canaries.read(canaries)
    ngrams = ngrams_beside(bundle)
    if ngrams is None:
        say(f"no private/ beside {bundle}: whether it was trained on these canaries is not checked")
    else:
        check_planted(held, ngrams)
    found = audit_bundle(bundle, held, base=base, device=None if device == "auto" else device)
    typer.echo(found.to_json() if as_json else found.sentence())


def scan(
    folder: Annotated[Path, typer.Argument(help="A bundle, or a folder of synthetic rows.")],
    records: Annotated[str, typer.Argument(help="The private records.")],
    words: Annotated[int, typer.Option(help="Of a run that counts.")] = 8,
    column: Columns = None,
) -> None:
    """Look for runs of private words in everything that a folder's files hold."""
    from rewardds.records import read_records
    from rewardds.text_overlap import PrivateGrams

    private = read_records(records, columns=columns_of(column))
    found = PrivateGrams(private, n=words).scan_folder(folder)
    typer.echo(found.sentence())
    for hit in found.hits:
        typer.echo(f"{hit.place}: {hit.grams} runs of records {', '.join(hit.records[:5])}")
    if not found.clean:
        raise typer.Exit(1)


def evaluate(
    model: Annotated[str, typer.Argument(help="A folder, an adapter or a name.")],
    domain: Annotated[str, typer.Argument(help="medical, financial or code.")],
    data: Annotated[Path, typer.Option(help="Folder of the domain's files.")],
    n: Annotated[int | None, typer.Option(help="Test records; all by default.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Of an answer.")] = 512,
    run_code: Annotated[
        bool, typer.Option(help="Run what the model wrote, locked in a child process.")
    ] = False,
    perplexity: Annotated[bool, typer.Option(help="Of its own answers.")] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Answer a domain's test questions and score them, with and without those also trained on."""
    from lipogram.llm.loading import load_model
    from rewardds.domains import read_domain
    from rewardds.evaluation import CodeTests, evaluation_table
    from rewardds.evaluation import evaluate as evaluated
    from rewardds.hf_backend import HFBackend

    held = read_domain(domain, data)  # type: ignore[arg-type]  # checked there
    how: dict[str, Any] = {"dtype": "fast", "device": None if device == "auto" else device}
    loaded = load_model(model, **how)
    records = list(held.test)[:n]
    found = evaluated(
        HFBackend(loaded),
        records,
        held.prompts,
        max_new_tokens=max_new_tokens,
        own_model=loaded if perplexity else None,
        code_tests=CodeTests(held.asserts) if run_code else None,
    )
    tables = {"all": found}
    if {record.id for record in records} - held.overlap:
        tables["without those also trained on"] = found.without(held.overlap)
    if as_json:
        typer.echo(json.dumps({name: each.summary() for name, each in tables.items()}))
    else:
        typer.echo(evaluation_table(tables))


COMMANDS = (plant, audit, scan)
NAMED = {"eval": evaluate}
