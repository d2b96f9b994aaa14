"""What Flower's processes must be told so that they talk to nobody but each other."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import shutil
import sys
from pathlib import Path

from lipogram.errors import InvalidSetting, MissingExtra

SAFE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # seconds until a message's process begins
}


def safe_environment(home: Path | None = None) -> dict[str, str]:
    """This process's environment, with telemetry, update checks and run-time installs off.

    Args:
        home: Flower's folder for its connections and apps; None leaves it where it is.
    """
    here = str(Path(sys.executable).parent)  # Flower starts its helpers by their bare names
    made = os.environ | SAFE | {"PATH": os.pathsep.join([here, os.environ.get("PATH", "")])}
    return made if home is None else made | {"FLWR_HOME": str(home)}


def flower_command(name: str) -> str:
    """Path of one of Flower's commands, this environment's before any other.

    Raises:
        MissingExtra: Flower is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if importlib.util.find_spec("flwr") is None or found is None:
        raise MissingExtra(
            "Flower",
            "pip install 'packages/afl[flower]' in a checkout, [simulation] for --simulate",
        )
    return found


def is_loopback(host: str) -> bool:
    """Whether a name or address leads to this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port``.

    Raises:
        InvalidSetting: it is none.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InvalidSetting(f"{address!r} is no address: host:port is needed")
    return host, int(port)


def check_insecure(host: str) -> None:
    """Refuse a connection without TLS that leaves this machine.

    Raises:
        InvalidSetting: ``host`` is not the loopback.
    """
    if not is_loopback(host):
        raise InvalidSetting(
            f"--insecure is for this machine only, and {host!r} is not: make certificates with "
            "`afl keys`, or use your own"
        )
