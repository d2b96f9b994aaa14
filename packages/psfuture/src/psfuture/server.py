"""The web demo: a page where a sentence is translated while it is typed."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lipogram.errors import InvalidSetting, MissingExtra
from psfuture.backend import Backend
from psfuture.futures import Fixed
from psfuture.live_sessions import LiveSessions, ServerLimits
from psfuture.policies import PsFuture
from psfuture.web_page import is_loopback

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

__all__ = ["ServerLimits", "create_app", "create_server", "serve"]

COMMAND = "pip install 'lipogram-psfuture[serve]'"


def create_app(
    backend: Backend,
    *,
    policy: PsFuture | None = None,
    k: int = 3,
    future: str | None = None,
    limits: ServerLimits | None = None,
    allow_remote: bool = False,
) -> FastAPI:
    """The page and its API as an ASGI app.

    The API: POST `/api/sessions` {threshold, k} begins a sentence; POST `.../ID/words` {text} and
    `.../ID/finish` give it words and its end; PATCH `.../ID` {threshold, k} holds from the next
    decision on; DELETE ends it. GET `.../ID/events` is a stream of server-sent events, one a step
    of a lane; the sentence ends with that connection. What is refused is JSON, {error}, with a
    status of 4xx, or 503 for too many sentences.

    Args:
        backend: the model.
        policy: of the first lane; its threshold is where the page's slider starts. PsFuture as it
            is by default, for None.
        k: where the second lane, wait-k, starts.
        future: what the page calls the policy's future; its class's name for None.
        limits: see :class:`ServerLimits`; its defaults for None.
        allow_remote: answer requests that name an address of this machine, not its loopback alone.

    Raises:
        InvalidSetting: a future that sees words which have not been said, or a k below 1.
        MissingExtra: FastAPI is not installed.
    """
    try:
        from psfuture.web_api import build_app
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), COMMAND) from error
    policy, limits = policy or PsFuture(), limits or ServerLimits()
    about = _about(backend, policy, k, future, limits)
    return build_app(LiveSessions(backend, policy, k, limits), about, remote=allow_remote)


def create_server(
    app: FastAPI,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    allow_remote: bool = False,
    ready: Callable[[str], None] = lambda url: None,
) -> uvicorn.Server:
    """A server for :func:`create_app`'s app, whose `run()` blocks; `should_exit = True` stops it.

    Args:
        app: of :func:`create_app`.
        host: an address of this machine.
        port: 0 takes a free one.
        allow_remote: needed where `host` is not loopback.
        ready: told the page's address, once it is served.

    Raises:
        InvalidSetting: a host that other machines can reach, without `allow_remote`, or an address
            that cannot be had.
        MissingExtra: uvicorn is not installed.
    """
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), COMMAND) from error
    if not allow_remote and not is_loopback(host):
        raise InvalidSetting(
            f"{host} can be reached from other machines, and anybody there could use the model: "
            "serve 127.0.0.1, or allow remote visitors on purpose"
        )
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address, family=family)
    except (OSError, OverflowError) as error:
        raise InvalidSetting(f"port {port} of {host} cannot be had: {error}") from error
    url = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"

    class Server(uvicorn.Server):
        def run(self, sockets: list[socket.socket] | None = None) -> None:
            super().run(sockets or [listening])

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready(url)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.state.sessions.end_all()  # else open streams of events would keep it up
            await super().shutdown(sockets)

    return Server(uvicorn.Config(app, ws="none", log_level="warning", timeout_graceful_shutdown=2))


def serve(
    backend: Backend,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    policy: PsFuture | None = None,
    k: int = 3,
    future: str | None = None,
    limits: ServerLimits | None = None,
    allow_remote: bool = False,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve the page until Ctrl-C; see :func:`create_app` and :func:`create_server`."""
    app = create_app(
        backend, policy=policy, k=k, future=future, limits=limits, allow_remote=allow_remote
    )
    server = create_server(app, host=host, port=port, allow_remote=allow_remote, ready=ready)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again, after it has stopped
        server.run()


def _about(
    backend: Backend, policy: PsFuture, k: int, future: str | None, limits: ServerLimits
) -> dict[str, Any]:
    """What the page shows of the model and the policies."""
    own = policy.future
    named = f"“{' '.join(own.words)}”" if isinstance(own, Fixed) else type(own).__name__.lower()
    return {
        "model": backend.name,
        "policy": "PsFuture",
        "future": future or named,
        "divergence": policy.divergence if isinstance(policy.divergence, str) else "own divergence",
        "prefix_eos": policy.prefix_eos,
        "threshold": policy.threshold,
        "k": k,
        "words": limits.words,
    }
