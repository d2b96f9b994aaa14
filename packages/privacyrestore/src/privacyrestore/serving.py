"""Runs the server's app: one address, TLS, time limits on connections, an orderly end."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from lipogram.errors import InvalidSetting, MissingAsset
from privacyrestore.proxy_guard import is_loopback

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

__all__ = ["create_server", "serve"]


def create_server(
    app: FastAPI,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
    allow_http: bool = False,
    grace: float = 10.0,
    ready: Callable[[str], None] = lambda url: None,
) -> uvicorn.Server:
    """A server for an app of `create_app`; its `run()` blocks, `should_exit = True` ends it.

    At its end it takes no more requests, lets answers finish for `grace` seconds and ends those
    that are left with an error that says so.

    Args:
        app: of :func:`privacyrestore.server.create_app`.
        host: an address of this machine.
        port: 0 takes a free one.
        certificate: a file in PEM with the certificate and its chain; with `key`, for TLS.
        key: a file in PEM with its private key.
        allow_http: needed for a host that other machines can reach, without TLS.
        grace: seconds.
        ready: told the server's address once it is served.

    Raises:
        InvalidSetting: a host that other machines can reach, without TLS and `allow_http`; a
            certificate without a key; an address that cannot be had; files that are no pair.
        MissingAsset: a file that is not there.
    """
    import uvicorn

    from privacyrestore.timed_protocol import timed_protocol

    if (certificate is None) != (key is None):
        raise InvalidSetting("a certificate and its key go together; one of them is missing")
    for file in (certificate, key):
        if file is not None and not Path(file).is_file():
            raise MissingAsset(f"{file} is not a file")
    if certificate is None and not is_loopback(host) and not allow_http:
        raise InvalidSetting(
            f"{host} can be reached from other machines, and everybody on the way could read along:"
            " give a certificate and its key, or allow plain http if the way there is safe"
        )
    api = app.state.api

    class Server(uvicorn.Server):
        def run(self, sockets: list[socket.socket] | None = None) -> None:
            super().run(sockets or [listening])

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready(url)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            import asyncio

            api.close()
            asyncio.get_running_loop().call_later(grace, api.interrupt)
            await super().shutdown(sockets)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            # Not as uvicorn, which raises the signal again: the caller has an engine to close.
            self.force_exit = self.should_exit and sig == signal.SIGINT
            self.should_exit = True

    config = uvicorn.Config(
        app,
        http=timed_protocol(api.limits),
        ws="none",
        access_log=False,
        log_config=None,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        limit_concurrency=api.limits.connections + 1,  # it counts the one that asks
        timeout_graceful_shutdown=int(grace) + 2,
        ssl_certfile=certificate,
        ssl_keyfile=None if key is None else str(key),
    )
    try:
        config.load()
    except (OSError, ValueError) as error:  # of ssl
        raise InvalidSetting(f"{certificate} and {key} are no pair for TLS: {error}") from error
    if not 0 <= port <= 65_535:  # getaddrinfo takes the rest of a division
        raise InvalidSetting(f"port {port} is none: they go from 0 (a free one) to 65535")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address, family=family)
    except (OSError, OverflowError) as error:
        raise InvalidSetting(f"port {port} of {host} cannot be had: {error}") from error
    scheme, shown = "http" if certificate is None else "https", f"[{host}]" if ":" in host else host
    url = f"{scheme}://{shown}:{listening.getsockname()[1]}"
    return Server(config)


def serve(
    app: FastAPI,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
    allow_http: bool = False,
    grace: float = 10.0,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve an app until SIGINT or SIGTERM; arguments and errors as in :func:`create_server`."""
    server = create_server(
        app,
        host=host,
        port=port,
        certificate=certificate,
        key=key,
        allow_http=allow_http,
        grace=grace,
        ready=ready,
    )
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
