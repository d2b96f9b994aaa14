"""The proxy's routes: a body is checked, cleaned and sent; the answer comes back as it is."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from lipogram.errors import CorruptState, FolderInUse, InvalidSetting, LipogramError
from privacyrestore.api_errors import ApiError
from privacyrestore.client import PrivacyClient
from privacyrestore.errors import (
    BankMismatch,
    BudgetSpent,
    Refused,
    SpanRemains,
    Unreachable,
    Unsendable,
    UnwritableState,
)
from privacyrestore.prepared import PreparedRequest
from privacyrestore.proxy_fields import Asked, chat_request, completion_request
from privacyrestore.proxy_guard import Guard
from privacyrestore.proxy_streams import CallerLeft, Pieces, unless_left
from privacyrestore.whole_answer import WholeAnswer

MAX_BODY = 4 << 20
MOST_AT_ONCE = 64
LEFT = 499
STATUSES: tuple[tuple[type[LipogramError], int, str], ...] = (
    (BudgetSpent, 402, "budget_spent"),
    (SpanRemains, 422, "span_remains"),
    (Unsendable, 422, "unsendable"),
    (BankMismatch, 502, "bank_mismatch"),
    (Unreachable, 502, "unreachable"),
    (CorruptState, 503, "ledger_unavailable"),
    (FolderInUse, 503, "ledger_unavailable"),
    (UnwritableState, 503, "ledger_unavailable"),
    (InvalidSetting, 400, "invalid_request"),
)
"""402 and not 429 for a spent budget: OpenAI's clients repeat a request after a 429."""

log = logging.getLogger(__name__)
Events = Generator[dict[str, Any], None, None]


def build_app(client: PrivacyClient, *, token: str | None) -> FastAPI:
    """The proxy; see :func:`privacyrestore.proxy.create_proxy`."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, token=token)
    app.add_exception_handler(LipogramError, _failed)
    app.add_exception_handler(CallerLeft, lambda _, __: Response(status_code=LEFT))
    app.add_exception_handler(404, _not_there)
    app.add_exception_handler(405, _not_there)
    proxy = _Proxy(client)
    app.add_api_route("/health", proxy.health, methods=["GET"])
    app.add_api_route("/v1/models", proxy.models, methods=["GET"])
    app.add_api_route("/v1/chat/completions", proxy.chat, methods=["POST"])
    app.add_api_route("/v1/completions", proxy.completions, methods=["POST"])
    return app


class _Proxy:
    def __init__(self, client: PrivacyClient):
        self.client, self.running = client, 0

    async def health(self) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def models(self) -> JSONResponse:
        return JSONResponse(await asyncio.to_thread(self.client.transport.get, "/v1/models"))

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, chat_request)

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, completion_request)

    async def _answer(self, request: Request, read: Callable[[bytes], Asked]) -> Response:
        asked = read(await _body(request))
        if self.running >= MOST_AT_ONCE:
            raise ApiError(429, f"{MOST_AT_ONCE} requests are running already", "too_many")
        pieces = Pieces(lambda: self._events(asked))
        self.running += 1
        handed_on = False
        try:
            if asked.stream:
                first = await unless_left(_first(pieces), request.receive)
                handed_on = True
                return _EventStream(pieces, first, self._ended)
            whole = WholeAnswer()
            await unless_left(_gather(pieces, whole), request.receive)
            return JSONResponse(whole.completion())
        finally:
            if not handed_on:
                self._ended(pieces)

    def _ended(self, pieces: Pieces[dict[str, Any]]) -> None:
        pieces.stop()
        self.running -= 1

    def _events(self, asked: Asked) -> Events:
        """The server's events; runs in a thread, and hangs up when it is closed."""
        self.client.check_server()
        for event in self.client.events(self._prepared(asked)):
            if "error" in event:  # what the server says of it could be anything
                raise Refused(500, "it failed in the middle of its answer")
            yield event

    def _prepared(self, asked: Asked) -> PreparedRequest:
        # A stream even where the app wants none: who waits for one long answer cannot hang up.
        options = dict(asked.options)
        if asked.include_usage or not asked.stream:
            options["stream_options"] = {"include_usage": True}
        if isinstance(asked.content, str):
            return self.client.prepare(asked.content, stream=True, **options)
        return self.client.prepare_chat(asked.content, stream=True, **options)


class _EventStream(Response):
    """The server's events as they come; ends the request behind them when the app has gone."""

    def __init__(
        self,
        pieces: Pieces[dict[str, Any]],
        first: dict[str, Any] | None,
        ended: Callable[[Pieces[dict[str, Any]]], None],
    ):
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self._pieces, self._first, self._ended = pieces, first, ended

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI; returns when the answer has ended, or the app has gone."""
        try:
            await unless_left(self._send(send), receive)
        except (CallerLeft, OSError):
            pass
        finally:
            self._ended(self._pieces)

    async def _send(self, send: Any) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        async for line in self._lines():
            body = f"data: {line}\n\n".encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _lines(self) -> AsyncIterator[str]:
        if self._first is not None:
            yield json.dumps(self._first)
        try:
            async for event in self._pieces:
                yield json.dumps(event)
        except Exception as error:
            yield json.dumps(_explained(error).content)
        else:
            yield "[DONE]"


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "the body must be application/json", "not_json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise ApiError(413, f"the body is larger than {MAX_BODY} bytes", "too_long")
    return bytes(body)


async def _first(pieces: Pieces[dict[str, Any]]) -> dict[str, Any] | None:
    return await anext(pieces, None)


async def _gather(pieces: Pieces[dict[str, Any]], whole: WholeAnswer) -> None:
    async for event in pieces:
        whole.add(event)


def _explained(error: Exception) -> ApiError:
    """What an app is told of an error; of one that is not of our own only that there was one."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Refused):
        status = error.status if 400 <= error.status < 600 else 502
        return ApiError(status, str(error), "upstream_refused")
    for kind, status, code in STATUSES:
        if isinstance(error, kind):
            return ApiError(status, str(error), code, param=getattr(error, "param", None))
    log.error("a request failed inside the proxy: %s", type(error).__name__)
    return ApiError(500, "the proxy failed", "proxy_failed")


async def _failed(_: Request, error: Exception) -> Response:
    told = _explained(error)
    return JSONResponse(told.content, told.status)


async def _not_there(_: Request, error: Exception) -> Response:
    status = int(getattr(error, "status_code", 404))
    told = ApiError(status, "the proxy has no such path or method", "not_found")
    return JSONResponse(told.content, told.status)
