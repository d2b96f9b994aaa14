"""The commands that run a federation over Flower."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app_commands = typer.Typer(no_args_is_help=True, help="Write a Flower app.")

Insecure = Annotated[
    bool, typer.Option("--insecure", help="Without TLS; refused for anything but this machine.")
]
Superlink = Annotated[str, typer.Option(help="The server, host:port.")]
RootCertificate = Annotated[
    Path | None, typer.Option(help="ca.crt of the federation; default: the system's authorities.")
]


def serve(
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of it.")] = 8000,
    insecure: Insecure = False,
    certificates: Annotated[
        Path | None, typer.Option(help="Folder with ca.crt, server.crt, server.key (`afl keys`).")
    ] = None,
    database: Annotated[
        Path | None, typer.Option(help="File by which nodes and runs outlive a restart.")
    ] = None,
    authenticate: Annotated[
        bool, typer.Option("--authenticate", help="Let in only nodes that `afl admit` registered.")
    ] = False,
) -> None:
    """Run the federation's server (a Flower SuperLink), in the safe environment."""
    from afl.flower.processes import become, serve_command

    become(
        serve_command(
            host=host,
            port=port,
            insecure=insecure,
            certificates=certificates,
            database=database,
            authenticate=authenticate,
        )
    )


def join(
    superlink: Annotated[str, typer.Argument(help="The server, host:port.")],
    name: Annotated[str, typer.Option(help="Your name in the federation.")],
    data: Annotated[str, typer.Option(help="Your rows, as for `afl stats`; they stay here.")],
    test: Annotated[
        str | None, typer.Option(help="Rows held out, on which heads are counted.")
    ] = None,
    release: Annotated[
        str, typer.Option(help="The least protection you accept: sums, noisy or masked.")
    ] = "sums",
    most_epsilon: Annotated[
        float | None, typer.Option(help="The largest ε you accept for noisy sums.")
    ] = None,
    minimum_cohort: Annotated[
        int | None, typer.Option(help="The smallest masked cohort you take part in.")
    ] = None,
    insecure: Insecure = False,
    root_certificate: RootCertificate = None,
    key: Annotated[
        Path | None, typer.Option(help="Your private key, where the server authenticates nodes.")
    ] = None,
    backbone: Annotated[str, typer.Option(help="For images.")] = "effnet-lite0",
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 96,
    port: Annotated[int, typer.Option(help="Local port of the node; 0 for a free one.")] = 0,
) -> None:
    """Take part with the rows of this machine (a Flower SuperNode), in the safe environment."""
    from afl.flower.node_data import RELEASES
    from afl.flower.processes import become, join_command
    from lipogram.options import choice

    node: dict[str, Any] = {"name": name, "data": _absolute(data)}
    if test is not None:
        node["test"] = _absolute(test)
    node |= {"release": choice("release", release, RELEASES)}
    node |= {"backbone": backbone, "image-size": image_size}
    if most_epsilon is not None:
        node["most-epsilon"] = most_epsilon
    if minimum_cohort is not None:
        node["minimum-cohort"] = minimum_cohort
    become(
        join_command(
            superlink,
            node=node,
            insecure=insecure,
            root_certificate=root_certificate,
            private_key=key,
            port=port,
        )
    )


def run(
    app: Annotated[
        Path | None, typer.Argument(help="Folder of an app; default: what `afl app init` writes.")
    ] = None,
    superlink: Superlink = "127.0.0.1:8000",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the round, key=value; may be repeated."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the result, at the server.")] = Path(
        "runs/afl"
    ),
    insecure: Insecure = False,
    root_certificate: RootCertificate = None,
    simulate: Annotated[
        int, typer.Option(help="Simulate so many nodes on this machine instead.")
    ] = 0,
) -> None:
    """Start a round, and follow it to its end."""
    from afl.flower.processes import run_app

    given = {"out": str(out.resolve())} | dict(_setting(text) for text in settings or [])
    run_app(
        superlink=superlink,
        app=app,
        settings=given,
        root_certificate=root_certificate,
        insecure=insecure,
        simulate=simulate,
    )


def keys(
    folder: Annotated[Path, typer.Argument(help="Where they go.")],
    host: Annotated[
        list[str] | None,
        typer.Option(help="Make the server's certificate, for this name or address; repeatable."),
    ] = None,
    node: Annotated[
        list[str] | None, typer.Option(help="Make the key of a node of this name; repeatable.")
    ] = None,
) -> None:
    """Make certificates for a server and keys for nodes, for a federation that has none."""
    from afl.flower.keys import node_keys, server_keys
    from lipogram.errors import InvalidSetting

    if not host and not node:
        raise InvalidSetting("say --host for a server's certificate, or --node for a node's key")
    made = server_keys(folder, host) if host else []
    for name in node or []:
        made += node_keys(folder, name)
    for path in made:
        typer.echo(path)


def admit(
    public_key: Annotated[Path, typer.Argument(help="NAME.pub of the node.")],
    superlink: Superlink = "127.0.0.1:8000",
    insecure: Insecure = False,
    root_certificate: RootCertificate = None,
) -> None:
    """Register a node's public key at a server that authenticates its nodes."""
    from afl.flower.processes import admit_node

    admit_node(
        public_key, superlink=superlink, insecure=insecure, root_certificate=root_certificate
    )


@app_commands.callback()
def _app() -> None: ...


@app_commands.command("init")
def app_init(
    folder: Annotated[Path, typer.Argument(help="Where the app goes.")],
    name: Annotated[str, typer.Option(help="Its name; default: the folder's.")] = "",
) -> None:
    """Write a ready Flower app, to run as it is or to change."""
    from afl.flower.app_template import write_app

    for path in write_app(folder, name=name):
        typer.echo(path)


def register(app: typer.Typer) -> None:
    """Add these commands to the command ``afl``."""
    for command in (serve, join, run, keys, admit):
        app.command()(command)
    app.add_typer(app_commands, name="app")


def _absolute(path: str) -> str:
    """Where a node finds its rows, from wherever Flower runs it."""
    from lipogram.errors import InvalidSetting

    if path == "digits":
        return path
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no {path}")
    if any(sign in path for sign in "\"'\\"):
        raise InvalidSetting(f"{path!r} has quotes, which Flower's settings cannot carry")
    return str(Path(path).resolve())


def _setting(text: str) -> tuple[str, Any]:
    import tomllib

    from lipogram.errors import InvalidSetting

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidSetting(f"{text!r} is no setting: key=value is needed")
    try:
        read = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        read = value
    return key, read if isinstance(read, bool | int | float | str) else value
