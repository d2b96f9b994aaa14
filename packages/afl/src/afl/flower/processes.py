"""Flower's processes, started so that they keep to themselves, and ended when they are done."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from afl.flower.app_template import write_app
from afl.flower.environment import (
    check_insecure,
    flower_command,
    safe_environment,
    split_address,
)
from afl.flower.plan import Plan
from lipogram.assets import cache_folder
from lipogram.errors import InvalidSetting, LipogramError

CONNECTION = "afl"
SIMULATION_LOG = "superlink.log"
STOP_SECONDS = 15.0


class RunFailed(LipogramError, RuntimeError):
    """A run over Flower that ended without a result."""


def serve_command(
    *,
    host: str,
    port: int,
    insecure: bool,
    certificates: Path | None = None,
    database: Path | None = None,
    authenticate: bool = False,
    simulation: bool = False,
) -> list[str]:
    """The SuperLink's command line.

    Args:
        host: address to listen at.
        port: of it.
        insecure: without TLS; loopback only.
        certificates: folder with ``ca.crt``, ``server.crt`` and ``server.key``.
        database: file that outlives the process; None keeps runs in memory.
        authenticate: let in only nodes whose public keys are registered.
        simulation: simulate the nodes.

    Raises:
        InvalidSetting: neither or both of the two, or insecure off loopback.
        FileNotFoundError: a certificate is missing.
    """
    command = [flower_command("flower-superlink"), "--host", host, "--port", str(port)]
    command.append("--disable-runtime-dependency-installation")
    if insecure == (certificates is not None):
        raise InvalidSetting("choose one of --certificates FOLDER and --insecure")
    if insecure:
        check_insecure(host)
        command.append("--insecure")
    else:
        assert certificates is not None
        for option, name in (
            ("--ssl-ca-certfile", "ca.crt"),
            ("--ssl-certfile", "server.crt"),
            ("--ssl-keyfile", "server.key"),
        ):
            command += [option, str(_existing(certificates / name))]
    if database is not None:
        command += ["--database", str(database.resolve())]
    if authenticate:
        command.append("--enable-supernode-auth")
    if simulation:
        command.append("--simulation")
    return command


def join_command(
    superlink: str,
    *,
    node: Mapping[str, str | int | float],
    insecure: bool,
    root_certificate: Path | None = None,
    private_key: Path | None = None,
    port: int = 0,
) -> list[str]:
    """The SuperNode's command line.

    Args:
        superlink: ``host:port`` of the server.
        node: the node's configuration, see :mod:`afl.flower.node_data`.
        insecure: without TLS; loopback only.
        root_certificate: of the authority that signed the server's certificate.
        private_key: of the node, where the server authenticates nodes.
        port: of the node's own local interface; 0 for a free one.

    Raises:
        InvalidSetting: see :func:`serve_command`; a value with both kinds of quotes.
        FileNotFoundError: a key or certificate is missing.
    """
    host, _ = split_address(superlink)
    command = [flower_command("flower-supernode"), "--superlink", superlink]
    command += ["--host", "127.0.0.1", "--port", str(port or free_port())]
    if insecure and root_certificate is not None:
        raise InvalidSetting("choose one of --root-certificate and --insecure")
    if insecure:
        check_insecure(host)
        command.append("--insecure")
    elif root_certificate is not None:
        command += ["--root-certificates", str(_existing(root_certificate))]
    if private_key is not None:
        command += ["--auth-supernode-private-key", str(_existing(private_key))]
    return [*command, "--node-config", " ".join(f"{k}={_toml(v)}" for k, v in node.items())]


def become(command: list[str]) -> None:
    """Replace this process by a command, in the safe environment."""
    sys.stdout.flush()
    os.execve(command[0], command, safe_environment())


def run_app(
    *,
    superlink: str = "",
    app: Path | None = None,
    settings: Mapping[str, Any],
    root_certificate: Path | None = None,
    insecure: bool = False,
    simulate: int = 0,
) -> None:
    """Submit a run and follow it to its end; Flower's log goes to stdout.

    Args:
        superlink: ``host:port`` of the server; of no use with ``simulate``.
        app: folder of an app; None runs the one that ``afl app init`` writes.
        settings: of the plan.
        root_certificate: of the authority that signed the server's certificate.
        insecure: without TLS; loopback only.
        simulate: nodes to simulate on this machine, by a server that ends with the run.

    Raises:
        InvalidSetting: an unknown setting or address.
        RunFailed: the run ended without a result; the log says why.
    """
    config = Plan.from_config(settings).to_config()
    if unknown := sorted(set(settings) - set(config)):
        raise InvalidSetting(f"there is no setting {unknown[0]!r}; `afl app init` lists them")
    given = {key: config[key] for key in settings}
    with tempfile.TemporaryDirectory(prefix="afl-flower-") as scratch, contextlib.ExitStack() as up:
        home = Path(scratch) / "home"
        if simulate:
            superlink, insecure = up.enter_context(simulation_server(home)), True
        host, _ = split_address(superlink)
        if insecure:
            check_insecure(host)
        write_connection(home, superlink, insecure=insecure, root_certificate=root_certificate)
        if app is None:
            app = Path(scratch) / "app"
            write_app(app, name="afl", plan=Plan())
        command = [flower_command("flwr"), "run", str(app), CONNECTION, "--stream"]
        if given:
            overrides = " ".join(f"{k}={_toml(v)}" for k, v in given.items())
            command += ["--run-config", overrides]
        if simulate:
            resources = f"num-supernodes={simulate} client-resources-num-cpus=1"
            command += ["--federation-config", resources]
        environment = safe_environment(home)
        done = subprocess.run(command, env=environment, check=False)
        if done.returncode:
            raise RunFailed(f"the run could not be followed: flwr ended with {done.returncode}")
        status = last_status(environment)
        if status != "finished:completed":
            log = home / SIMULATION_LOG
            why = f"\n{log_end(log)}" if simulate else " see the server's log"
            raise RunFailed(f"the run ended as {status}:{why}")


def admit_node(
    public_key: Path, *, superlink: str, insecure: bool, root_certificate: Path | None
) -> None:
    """Register a node's public key.

    Raises:
        FileNotFoundError: no such key.
        RunFailed: the server did not take it; Flower says why on stderr.
    """
    if insecure:
        check_insecure(split_address(superlink)[0])
    with tempfile.TemporaryDirectory(prefix="afl-flower-") as scratch:
        home = Path(scratch)
        write_connection(home, superlink, insecure=insecure, root_certificate=root_certificate)
        flwr = [flower_command("flwr"), "supernode", "register"]
        command = [*flwr, str(_existing(public_key)), CONNECTION, "--name", public_key.stem]
        done = subprocess.run(command, env=safe_environment(home), check=False)
    if done.returncode:
        raise RunFailed(f"the server did not register {public_key.name}")


def last_status(environment: Mapping[str, str]) -> str:
    """Status of the newest run that the connection's server knows."""
    command = [flower_command("flwr"), "list", CONNECTION, "--format", "json"]
    told = subprocess.run(
        command, env=dict(environment), capture_output=True, text=True, check=False
    )
    try:
        runs = json.loads(told.stdout)["runs"]
        return str(max(runs, key=lambda run: run["pending-at"])["status"])
    except (ValueError, KeyError):
        return "unknown"


def log_end(path: Path, lines: int = 30) -> str:
    """The last lines of a log whose folder will be gone."""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def write_connection(
    home: Path, superlink: str, *, insecure: bool, root_certificate: Path | None = None
) -> None:
    """Flower's ``config.toml`` with one connection."""
    lines = [
        "[superlink]",
        f'default = "{CONNECTION}"',
        "",
        f"[superlink.{CONNECTION}]",
        f"address = {_toml(superlink)}",
    ]
    if insecure:
        lines.append("insecure = true")
    if root_certificate is not None:
        lines.append(f"root-certificates = {_toml(str(_existing(root_certificate)))}")
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


@contextlib.contextmanager
def simulation_server(home: Path) -> Iterator[str]:
    """Address of a server that simulates nodes, ended with the block."""
    port = free_port()
    command = serve_command(host="127.0.0.1", port=port, insecure=True, simulation=True)
    home.mkdir(parents=True, exist_ok=True)
    # Ray looks here for where it runs; without this file it asks the network.
    (home / "ray_bootstrap_config.yaml").write_text("{}\n", encoding="utf-8")
    environment = safe_environment(home) | {
        "HOME": str(home),
        "LIPOGRAM_CACHE": str(cache_folder()),
    }
    with open(home / SIMULATION_LOG, "wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for_port("127.0.0.1", port, alive=lambda: server.poll() is None)
        yield f"127.0.0.1:{port}"
    finally:
        stop(server)


def wait_for_port(host: str, port: int, *, alive: Any = lambda: True, seconds: float = 60) -> None:
    """Return once something listens there.

    Raises:
        RunFailed: nothing does in time, or the process ended.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end and alive():
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        time.sleep(0.2)
    raise RunFailed(f"the server at {host}:{port} did not come up")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process politely, and not politely if it must be."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port of the loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return path.resolve()


def _toml(value: str | int | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return str(value)
    if '"' in value or "'" in value or "\\" in value or not value.isprintable():
        raise InvalidSetting(f"{value!r} has quotes or signs that Flower's settings cannot carry")
    return f'"{value}"'
