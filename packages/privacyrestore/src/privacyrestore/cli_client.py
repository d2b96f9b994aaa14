"""Commands of those who ask: ask, and ledger."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipogram.console import show

if TYPE_CHECKING:
    from privacyrestore.client import PrivacyClient
    from privacyrestore.mechanisms import Mechanism
    from privacyrestore.restoration_bank import RestorationBank

Server = Annotated[str, typer.Option(help="https://HOST[:PORT]; plain http to this machine only.")]
Bank = Annotated[
    str, typer.Option(help="Folder of the bank, or its SHA-256, to load it from the server.")
]
MechanismName = Annotated[str, typer.Option(help="subspace, full, gaussian.")]
Epsilon = Annotated[float | None, typer.Option(help="Metric ε; local ε for gaussian.")]
Delta = Annotated[float | None, typer.Option(help="δ, for gaussian.")]
Weights = Annotated[
    str, typer.Option(help="uniform, or a BERT-like encoder whose attention weighs spans.")
]
Budget = Annotated[float | None, typer.Option(help="Worst-case local ε a subject may reach.")]
Ledger = Annotated[Path | None, typer.Option(help="Its file; in the state folder if not given.")]
Subject = Annotated[str, typer.Option(help="Whom the text is about; budgets are each one's own.")]
Served = Annotated[str | None, typer.Option(help="The model to ask for; the bank's if not given.")]
Audit = Annotated[
    Path | None, typer.Option(help="What `audit --out` wrote for this bank, mechanism and ε.")
]
KeyFile = Annotated[Path | None, typer.Option(help="File with the server's API key.")]


def ask(
    text: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    server: Server,
    bank: Bank,
    mechanism: MechanismName = "subspace",
    epsilon: Epsilon = None,
    delta: Delta = None,
    weights: Weights = "uniform",
    budget: Budget = None,
    ledger: Ledger = None,
    subject: Subject = "default",
    model: Served = None,
    api_key_file: KeyFile = None,
    audit: Audit = None,
    max_tokens: Annotated[int, typer.Option(help="Of the answer.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest.")] = 0.0,
    show_wire: Annotated[
        bool, typer.Option("--show-wire", help="Print the body as it leaves this machine.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing; the release is counted, and kept.")
    ] = False,
) -> None:
    """Ask a question whose spans stay here, and say what asking it gave away."""
    client = make_client(
        server, bank, mechanism, epsilon, delta, weights, budget, ledger, subject, model,
        api_key_file, audit,
    )  # fmt: skip
    question = sys.stdin.read() if text == "-" else text
    messages = [{"role": "user", "content": question}]
    if not dry_run:
        client.check_server()
    options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
    prepared = client.prepare_chat(messages, **options)
    if show_wire or dry_run:
        typer.echo(prepared.body.decode())
    if not dry_run:
        typer.echo(client.send(prepared).text)
    typer.echo(prepared.report.sentence(), err=True)


def ledger(
    path: Annotated[
        Path | None, typer.Option("--ledger", help="Its file; in the state folder if not given.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Only releases about this one.")] = None,
) -> None:
    """List what was released, and what it cost together."""
    from datetime import datetime

    from lipogram.report import Table
    from privacyrestore.ledger import PrivacyLedger

    held = PrivacyLedger(path)
    rows: list[list[Any]] = [
        [
            datetime.fromtimestamp(row.time).isoformat(" ", "seconds"),
            row.bank[:12],
            row.mechanism,
            "" if row.epsilon is None else f"{row.epsilon:g}",
            f"{row.local_epsilon:.4g}",
            f"{row.delta:g}",
        ]
        for row in held.releases(subject)
    ]
    show(Table(["time", "bank", "mechanism", "metric ε", "worst-case local ε", "δ"], rows))
    typer.echo(f"together: {held.spent(subject).sentence()}")


COMMANDS = (ask, ledger)


def make_client(
    server: str,
    bank: str,
    mechanism: str,
    epsilon: float | None,
    delta: float | None,
    weights: str,
    budget: float | None,
    ledger: Path | None,
    subject: str,
    model: str | None,
    api_key_file: Path | None,
    audit: Path | None,
) -> PrivacyClient:
    """A client as the options of a command say."""
    from privacyrestore.attention_weights import AwaWeigher, UniformWeigher
    from privacyrestore.client import PrivacyClient
    from privacyrestore.ledger import PrivacyLedger
    from privacyrestore.mechanisms import make_mechanism
    from privacyrestore.restoration_bank import RestorationBank
    from privacyrestore.span_detector import SpanDetector
    from privacyrestore.transport import Http

    chosen = make_mechanism(mechanism, epsilon, delta)
    api_key = None if api_key_file is None else api_key_file.read_text(encoding="utf-8").strip()
    transport = Http(server, api_key=api_key)
    digest = len(bank) == 64 and not Path(bank).exists()
    held = transport.bank(bank) if digest else RestorationBank.load(bank)
    return PrivacyClient(
        held,
        SpanDetector(held.vocabulary, held.aliases),
        chosen,
        UniformWeigher() if weights == "uniform" else AwaWeigher(weights),
        PrivacyLedger(ledger, budget),
        transport,
        subject,
        model=model,
        audited=None if audit is None else _audited(audit, held, chosen),
    )


def _audited(path: Path, bank: RestorationBank, mechanism: Mechanism) -> float:
    """The share of spans that an audit of this very bank and mechanism recovered."""
    import json

    from lipogram.errors import InvalidSetting

    try:
        held = json.loads(path.read_bytes())
        same = held["bank"] == bank.sha256
        same &= held["guarantee"] == mechanism.guarantee(bank).as_json()
        recovered = float(held["attacks"][held["strongest"]]["recall"]["value"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InvalidSetting(f"{path} is no report of `audit --out`") from None
    if not same:
        raise InvalidSetting(f"{path} is about another bank, mechanism or ε than the one asked for")
    return recovered
