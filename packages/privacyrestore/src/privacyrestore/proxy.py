"""A local endpoint of OpenAI's API: what passes through it leaves the machine without its spans.

An app that speaks to a hosted model changes its base URL, and nothing else.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from lipogram.errors import InvalidSetting

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from privacyrestore.client import PrivacyClient

__all__ = ["create_proxy", "create_proxy_server", "serve_proxy"]


def create_proxy(client: PrivacyClient, *, local_token: str | None = None) -> FastAPI:
    """The proxy as an ASGI app, for this machine only.

    POST `/v1/chat/completions` and `/v1/completions`, streamed or not, are cleaned and sent by
    `client`; GET `/v1/models` is asked of its server; GET `/health` says that the proxy runs.

    Of a request only the fields of :mod:`privacyrestore.proxy_fields` are sent on; others are
    refused. No header is: the server's API key is the one of the client's transport. The answers'
    words, usage and reasons to end are the server's. Errors have OpenAI's shape and never repeat
    the request: 402 `budget_spent`, 422 `span_remains`, 400 `invalid_request`, 502 `unreachable`,
    503 `ledger_unavailable`, or the server's own status as `upstream_refused`. An app that hangs up
    ends its request at the server, too, at the next token.

    Callers of other machines, other Host headers than this machine's and web pages are refused: see
    :class:`privacyrestore.proxy_guard.Guard`.

    Args:
        client: does the cleaning, sending and counting.
        local_token: what apps must give as their API key, so that other users of this machine
            cannot spend the budget; visible ASCII letters. None lets every local program in.

    Raises:
        InvalidSetting: an empty token, or one that no header can hold.
    """
    from privacyrestore.proxy_app import build_app

    if local_token is not None and (
        not local_token or not all("!" <= letter <= "~" for letter in local_token)
    ):
        raise InvalidSetting("the proxy's token must be visible ASCII letters, without spaces")
    return build_app(client, token=local_token)


def create_proxy_server(
    app: FastAPI,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    ready: Callable[[str], None] = lambda url: None,
) -> uvicorn.Server:
    """A server of :func:`create_proxy`'s app, whose `run()` blocks; `should_exit = True` stops it.

    Args:
        app: of :func:`create_proxy`.
        host: a loopback address; other machines are never served.
        port: 0 takes a free one.
        ready: told the base URL for apps, ending in `/v1`, once it is served.

    Raises:
        InvalidSetting: a host that is not loopback, or an address that cannot be had.
    """
    import uvicorn

    from privacyrestore.proxy_guard import is_loopback

    if not is_loopback(host):
        raise InvalidSetting(
            f"{host} can be reached from other machines, and what comes to the proxy is not "
            "cleaned yet: use 127.0.0.1, and one proxy on each machine"
        )
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address, family=family)
    except (OSError, OverflowError) as error:
        raise InvalidSetting(f"port {port} of {host} cannot be had: {error}") from error
    url = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/v1"

    class Server(uvicorn.Server):
        def run(self, sockets: list[socket.socket] | None = None) -> None:
            super().run(sockets or [listening])

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready(url)

    settings = uvicorn.Config(
        app,
        ws="none",
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # else a header could say that a caller is local
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    return Server(settings)


def serve_proxy(
    client: PrivacyClient,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    local_token: str | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve the proxy until Ctrl-C; see :func:`create_proxy` and :func:`create_proxy_server`."""
    app = create_proxy(client, local_token=local_token)
    server = create_proxy_server(app, host=host, port=port, ready=ready)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again, after it has stopped
        server.run()
