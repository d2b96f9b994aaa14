"""The files of the web page, and what guards them: a strict policy, own hosts and origins only."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from importlib.resources import files
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MEDIA_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "sentence.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def page_file(name: str) -> bytes:
    """A file of the page, one of :data:`MEDIA_TYPES`."""
    return files("psfuture").joinpath("web", name).read_bytes()


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine and nothing else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_own(host: str, *, remote: bool) -> bool:
    """Whether a browser that was sent to this host meant this server.

    A page of somebody else's can point its own name at this machine (DNS rebinding); it can never
    make a browser send an address, or this machine's name, as the host.

    Args:
        host: as in the request's header, its port included.
        remote: other machines are served, too.
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.removeprefix("[").removesuffix("]").lower()
    if is_loopback(name):
        return True
    if not remote:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in (socket.gethostname().lower(), socket.getfqdn().lower())
    return True


class Guard:
    """ASGI middleware: refuses foreign hosts and origins, and sets :data:`HEADERS` on every answer.

    Args:
        app: behind it.
        remote: see :func:`is_own`.
    """

    def __init__(self, app: App, *, remote: bool = False):
        self.app, self.remote = app, remote

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        origins = [value for name, value in headers if name == b"origin"]

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        if len(hosts) != 1 or not is_own(hosts[0], remote=self.remote):
            await _refuse(guarded, 421, "this server answers for its own address only")
        elif any(origin.partition("://")[2] != hosts[0] for origin in origins):
            await _refuse(guarded, 403, "only this server's own page may ask it")
        else:
            await self.app(scope, receive, guarded)


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
