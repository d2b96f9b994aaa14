"""What every test runs under: no network, few threads, warnings of our own as errors."""

import ipaddress
import os
import socket
import sys
from pathlib import Path

import hypothesis
import pytest

HUB = os.environ.get("LIPOGRAM_TEST_HUB") == "1"
PACKAGES = sorted(
    path.parent.name for path in Path(__file__).parent.glob("packages/*/pyproject.toml")
)

# Read by torch when a test imports it, and by the commands that tests start.
threads = "1"  # two BLAS pools on busy cores spin against each other
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, threads)
if not HUB:
    os.environ["HF_HUB_OFFLINE"] = "1"
# Libraries beside ours report their use, or start services, unless told not to.
os.environ |= {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OTEL_SDK_DISABLED": "true",
    "WANDB_MODE": "disabled",
}

# A busy machine is no failure, and CI has to give the same answer twice.
hypothesis.settings.register_profile(
    "workspace", deadline=None, derandomize="CI" in os.environ, print_blob=True
)
hypothesis.settings.load_profile("workspace")


def is_local(host: object) -> bool:
    """Whether `host`, an address or a name as sockets take it, is this machine."""
    if isinstance(host, bytes):
        host = host.decode()
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def refuse_network(event: str, arguments: tuple[object, ...]) -> None:
    """Audit hook: end every attempt to look up or reach another machine."""
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if not isinstance(address, tuple):  # None, or the path of a Unix socket
            return
        host = address[0]
    else:
        return
    if not is_local(host):
        raise PermissionError(f"tests have no network: {event} {host!r}")


def pytest_configure(config: pytest.Config) -> None:
    """Close the network; let a warning raised from our own modules fail the test that saw it."""
    if not HUB:
        sys.addaudithook(refuse_network)
    for package in ("lipogram", *PACKAGES):
        config.addinivalue_line("filterwarnings", rf"error:::{package}(\.|$)")
    # Advice to the user, which many tests are bound to draw; those about it use pytest.warns.
    config.addinivalue_line("filterwarnings", "default::lipogram.errors.IllConditioned")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine cannot run."""
    if any("gpu" in item.keywords for item in items):
        import torch

        if not torch.cuda.is_available():
            skip(items, "gpu", "no CUDA device")
    if not HUB:
        skip(items, "hub", "needs the network: set LIPOGRAM_TEST_HUB=1")


def skip(items: list[pytest.Item], marker: str, reason: str) -> None:
    """Mark the tests that carry `marker` as skipped."""
    for item in items:
        if item.get_closest_marker(marker):
            item.add_marker(pytest.mark.skip(reason=reason))
