"""What a request has to pass before its content is read: sizes, times, keys, failures behind it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from lipogram.errors import InvalidSetting
from privacyrestore.api_errors import ApiError
from privacyrestore.server_metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)

OPEN = "/health"
"""The path that needs no key."""
CLIENT_LEFT = 499
LINGER_SECONDS = 1.0


@dataclass(frozen=True)
class Limits:
    """What one client may take.

    Attributes:
        head_seconds: for the head of a request to arrive.
        body_bytes: of a request.
        body_seconds: for the body to arrive.
        send_seconds: for a client to take what it is sent.
        answer_tokens: new tokens that a request may ask for.
        chat_tokens: new tokens of a chat completion that names no number.
        max_norm: the public bound on the norm of a vector.
        connections: open at once.

    Raises:
        InvalidSetting: one that is not above 0.
    """

    head_seconds: float = 10.0
    body_bytes: int = 1 << 20
    body_seconds: float = 20.0
    send_seconds: float = 60.0
    answer_tokens: int = 4096
    chat_tokens: int = 256
    max_norm: float = 1e5
    connections: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise InvalidSetting(f"{name} = {value} must be above 0")


class Keys:
    """API keys, of which only digests are kept.

    Args:
        keys: those that are accepted; none of them: everybody is.

    Raises:
        InvalidSetting: an empty key, or one that no header can carry.
    """

    def __init__(self, keys: Iterable[str] = ()):
        keys = [keys] if isinstance(keys, str) else list(keys)
        if not all(key and all("!" <= letter <= "~" for letter in key) for key in keys):
            raise InvalidSetting("an API key must be of visible ASCII letters, without spaces")
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def accept(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request's headers carry one; takes as long for any wrong key."""
        if not self._digests:
            return True
        given = [value for name, value in headers if name == b"authorization"]
        scheme, _, key = (given[0] if len(given) == 1 else b"").partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(found) and scheme.lower() == b"bearer"


class Gate:
    """ASGI middleware in front of the whole API.

    It asks for a key, gives every answer an id, counts it, and turns whatever goes wrong behind it
    into an error that says nothing of the request, neither to the client nor to the log. Where an
    answer comes before its request was read, the rest is read for a moment, so that the client sees
    the answer, and the connection is closed.

    Args:
        app: behind it.
        keys: that are accepted.
        metrics: told of every answer.
        limits: of a client.
        debug: whether failures are logged with their text and trace.
    """

    def __init__(self, app: App, *, keys: Keys, metrics: Metrics, limits: Limits, debug: bool):
        self.app, self.keys, self.metrics = app, keys, metrics
        self.limits, self.debug = limits, debug

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.monotonic()
        exchange = _Exchange(scope, receive, send, self.limits)
        try:
            if scope["path"] != OPEN and not self.keys.accept(scope["headers"]):
                raise ApiError(
                    401,
                    "this server needs an API key, as Authorization: Bearer KEY",
                    "invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
            await self.app(scope, exchange.receive, exchange.send)
        except Exception as error:
            failure = error if isinstance(error, ApiError) else None
            if failure is None:
                kind = type(error).__name__
                log.error(
                    "%s failed: %s", exchange.id, kind, exc_info=error if self.debug else None
                )
                failure = ApiError(500, "the server failed at this request", "internal_error")
            if exchange.status is None:
                await exchange.refuse(failure)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.monotonic() - begun
            status = exchange.status or CLIENT_LEFT
            self.metrics.answered(route, status, seconds)
            log.info("%s %s %d %.3fs", exchange.id, route, status, seconds)


class _Exchange:
    """One request and its answer, seen from the middle."""

    def __init__(self, scope: Message, receive: Receive, send: Send, limits: Limits):
        self.id = f"req_{secrets.token_hex(8)}"
        self.status: int | None = None
        self._receive, self._send, self._limits = receive, send, limits
        held = dict(scope["headers"])
        self._unread = b"transfer-encoding" in held or held.get(b"content-length", b"0") != b"0"

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
            if self._unread:
                headers.append((b"connection", b"close"))
            await self._send({**message, "headers": headers})
        elif self._unread and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            await self._send({"type": "http.response.body", "body": b""})
        else:
            await self._send(message)

    async def refuse(self, error: ApiError) -> None:
        headers = error.headers | {"content-type": "application/json"}
        headers["content-length"] = str(len(error.body))
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": error.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": error.body})

    async def _linger(self) -> None:
        """Read on for a moment: closing on unread bytes would make the client lose the answer."""
        size = 0
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while self._unread and size <= self._limits.body_bytes:
                    size += len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass


async def read_body(headers: Mapping[str, str], receive: Receive, limits: Limits) -> bytes:
    """The body of a request with JSON.

    Args:
        headers: of the request.
        receive: of ASGI.
        limits: of size and time.

    Raises:
        ApiError: 415 another type or a compressed one, 413 too large, of which no more than the
            limit is read, 408 too slow, 400 the client left.
    """
    kind = headers.get("content-type", "").partition(";")[0]
    if kind.strip().lower() != "application/json":
        raise ApiError(415, "the body must be application/json", "unsupported_media_type")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "the body must not be compressed", "unsupported_media_type")
    too_large = ApiError(
        413, f"the body is larger than {limits.body_bytes} bytes", "request_too_large"
    )
    size = headers.get("content-length", "0")
    if not size.isdecimal() or int(size) > limits.body_bytes:
        raise too_large
    parts, held = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ApiError(400, "the client left", "client_left")
                parts.append(message.get("body", b""))
                held += len(parts[-1])
                if held > limits.body_bytes:
                    raise too_large
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        told = f"the body did not arrive within {limits.body_seconds:g} s"
        raise ApiError(408, told, "request_too_slow") from None
