"""Commands that answer others: serve, and the proxy that apps of this machine speak to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privacyrestore.cli_client import (
    Audit,
    Bank,
    Budget,
    Delta,
    Epsilon,
    KeyFile,
    Ledger,
    MechanismName,
    Served,
    Server,
    Subject,
    Weights,
    make_client,
)


def serve(
    model: Annotated[str, typer.Option(help="smollm2, a folder, a GGUF file or a hub id.")],
    bank: Annotated[
        list[Path] | None, typer.Option(help="Folder of a bank for it; may be repeated.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What clients call the model.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    certificate: Annotated[Path | None, typer.Option(help="PEM, for TLS; with --key.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM of its private key.")] = None,
    allow_http: Annotated[
        bool, typer.Option("--allow-http", help="Other machines, without TLS.")
    ] = False,
    api_keys: Annotated[
        Path | None, typer.Option(help="File with a key a line, one of which clients need.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the weights: auto, float32, bfloat16, …")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …")] = None,
    max_rows: Annotated[int, typer.Option(help="Requests in one forward pass.")] = 8,
    max_tokens: Annotated[int, typer.Option(help="Cells of the cache: rows × longest.")] = 32_768,
    max_queue: Annotated[int, typer.Option(help="Requests that may wait.")] = 64,
) -> None:
    """Serve a model over OpenAI's API; requests may carry a vector to restore with."""
    from privacyrestore.batch_engine import BatchEngine
    from privacyrestore.restoration_bank import RestorationBank
    from privacyrestore.server import create_app
    from privacyrestore.serving import serve as run
    from privacyrestore.steered_model import SteeredModel

    banks = [RestorationBank.load(folder) for folder in bank or []]
    keys = [] if api_keys is None else api_keys.read_text(encoding="utf-8").split()
    called = name or (banks[0].model.name if banks else None)
    steered = SteeredModel.from_pretrained(model, banks, dtype=dtype, device=device)
    engine = BatchEngine(steered, max_rows=max_rows, max_tokens=max_tokens, max_queue=max_queue)
    with engine:
        run(
            create_app(engine, model_name=called, api_keys=keys),
            host=host,
            port=port,
            certificate=certificate,
            key=key,
            allow_http=allow_http,
            ready=lambda url: typer.echo(f"serving at {url}"),
        )


def proxy(
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
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8001,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the key that local apps must give.")
    ] = None,
) -> None:
    """Run a local endpoint of OpenAI's API: apps change their base URL, spans stay here."""
    from privacyrestore.proxy import serve_proxy

    client = make_client(
        server, bank, mechanism, epsilon, delta, weights, budget, ledger, subject, model,
        api_key_file, audit,
    )  # fmt: skip
    typer.echo(client.guarantee.sentence())
    token = None if token_file is None else token_file.read_text(encoding="utf-8").strip()
    serve_proxy(
        client,
        port=port,
        local_token=token,
        ready=lambda url: typer.echo(f"base URL for apps of this machine: {url}"),
    )


COMMANDS = (serve, proxy)
