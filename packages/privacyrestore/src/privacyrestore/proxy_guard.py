"""Who may use the local proxy: programs of this machine, that name it so and hold its token."""

from __future__ import annotations

import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from privacyrestore.api_errors import ApiError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine and nothing else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(header: str) -> str:
    """The name or address in a Host header, without its port and brackets, in lower case."""
    name, colon, port = header.rpartition(":")
    name = name if colon and port.isdigit() else header
    return name.removeprefix("[").removesuffix("]").lower()


class Guard:
    """ASGI middleware in front of everything the proxy does.

    It refuses callers of other machines (403), hosts that are not this machine's loopback (421; a
    page elsewhere can point its own name here, but can't make a browser send another), anything
    that a web page sends (403: browsers name an origin, and no origin is allowed), and callers
    without the token (401). What the app behind it did not expect becomes a 500 that says nothing
    of the request: neither to the caller nor to the log.

    Args:
        app: behind it.
        token: that callers have to give as `Authorization: Bearer`; None asks for none. `/health`
            never needs it.
    """

    def __init__(self, app: App, *, token: str | None = None):
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        if refusal := self._refusal(scope):
            await _answer(send, refusal)
            return
        begun = False

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as error:
            log.error("a request failed inside the proxy: %s", type(error).__name__)
            if not begun:
                await _answer(send, ApiError(500, "the proxy failed", "proxy_failed"))

    def _refusal(self, scope: Scope) -> ApiError | None:
        held: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            held.setdefault(name, []).append(value.decode("latin-1"))
        caller, served = scope.get("client"), scope.get("server")
        for address in (caller, served):
            if address is not None and not is_loopback(str(address[0])):
                return ApiError(403, "this proxy serves its own machine only", "not_local")
        hosts = held.get(b"host", [])
        if len(hosts) != 1 or not is_loopback(host_name(hosts[0])):
            return ApiError(421, "this proxy answers as 127.0.0.1 or localhost only", "wrong_host")
        if b"origin" in held:
            return ApiError(403, "web pages may not use this proxy", "web_page")
        if self.token is not None and scope["path"] != "/health":
            given = held.get(b"authorization", [""])
            expected = f"Bearer {self.token}".encode()
            if len(given) != 1 or not hmac.compare_digest(given[0].encode("latin-1"), expected):
                return ApiError(401, "this proxy needs its token as the API key", "wrong_token")
        return None


async def _answer(send: Send, error: ApiError) -> None:
    body = error.body
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
