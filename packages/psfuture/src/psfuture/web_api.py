"""What the page asks of its server, as HTTP: requests in, server-sent events out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from psfuture.live_sessions import LiveSession, LiveSessions, Refused
from psfuture.web_page import MEDIA_TYPES, Guard, page_file

SIGN_OF_LIFE = 15.0
SWEEP = 5.0
NOT_THERE = {404: "there is nothing at this address", 405: "this address takes another method"}


def build_app(sessions: LiveSessions, about: dict[str, Any], *, remote: bool) -> FastAPI:
    """The page and its API.

    Args:
        sessions: closed when the app stops.
        about: what the page shows of the model and the policies, plain values.
        remote: see :func:`psfuture.web_page.is_own`.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweep = asyncio.create_task(_sweep(sessions))
        yield
        sweep.cancel()
        sessions.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(Guard, remote=remote)
    app.add_exception_handler(Refused, _refused)
    for status, reason in NOT_THERE.items():
        app.add_exception_handler(status, _not_there(status, reason))
    app.state.sessions = sessions
    for name, media_type in MEDIA_TYPES.items():
        path = "/" if name == "index.html" else f"/{name}"
        app.add_api_route(path, _file(name, media_type), methods=["GET"])
    app.add_api_route("/api/about", _about(about), methods=["GET"])
    app.add_api_route("/api/sessions", _begin, methods=["POST"])
    app.add_api_route("/api/sessions/{session}", _change, methods=["PATCH"])
    app.add_api_route("/api/sessions/{session}", _end, methods=["DELETE"])
    app.add_api_route("/api/sessions/{session}/words", _push, methods=["POST"])
    app.add_api_route("/api/sessions/{session}/finish", _finish, methods=["POST"])
    app.add_api_route("/api/sessions/{session}/events", _events, methods=["GET"])
    return app


class Events(StreamingResponse):
    """A session's messages as server-sent events; the session ends with the connection."""

    def __init__(self, live: LiveSession, sessions: LiveSessions):
        super().__init__(_lines(live), media_type="text/event-stream")
        self._live, self._sessions = live, sessions

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI; returns when the visitor is gone, or the session has ended."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._sessions.free(self._live.id)


async def _lines(live: LiveSession) -> AsyncIterator[str]:
    yield ": listening\n\n"
    while True:
        try:
            message = await asyncio.wait_for(live.outbox.get(), SIGN_OF_LIFE)
        except TimeoutError:
            # A client that vanished without a word is noticed when it cannot be written to.
            yield ": still here\n\n"
            continue
        if message is None:
            return
        yield f"data: {json.dumps(message)}\n\n"


async def _begin(request: Request) -> JSONResponse:
    sessions = _sessions(request)
    asked = await _fields(request, {"threshold": float, "k": int})
    live = sessions.begin(asked.get("threshold"), asked.get("k"))
    return JSONResponse({"session": live.id}, 201)


async def _push(request: Request, session: str) -> JSONResponse:
    live = _sessions(request).get(session)
    asked = await _fields(request, {"text": str}, needed=True)
    return JSONResponse({"words": live.push(asked["text"])}, 202)


async def _finish(request: Request, session: str) -> JSONResponse:
    _sessions(request).get(session).finish()
    return JSONResponse({}, 202)


async def _change(request: Request, session: str) -> JSONResponse:
    sessions = _sessions(request)
    live = sessions.get(session)
    asked = await _fields(request, {"threshold": float, "k": int})
    live.decide_by(sessions.policies(asked.get("threshold"), asked.get("k")))
    return JSONResponse({}, 202)


async def _end(request: Request, session: str) -> Response:
    sessions = _sessions(request)
    sessions.get(session)
    sessions.free(session)
    return Response(status_code=204)


async def _events(request: Request, session: str) -> Response:
    sessions = _sessions(request)
    live = sessions.get(session)
    if live.heard:
        raise Refused(409, "somebody listens to this session already")
    live.heard = True
    return Events(live, sessions)


async def _fields(
    request: Request, kinds: dict[str, type], *, needed: bool = False
) -> dict[str, Any]:
    """The fields of a JSON body.

    Raises:
        Refused: 413 for a body too large, 415 for another kind, 422 for other fields than `kinds`.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "the body must be application/json")
    most = _sessions(request).limits.body_bytes
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise Refused(413, f"the body is larger than {most} bytes")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(422, "the body is not JSON") from None
    if not isinstance(found, dict) or found.keys() - kinds.keys():
        raise Refused(422, f"the body must be an object of {', '.join(kinds)}")
    for name, kind in kinds.items():
        if name not in found:
            if needed:
                raise Refused(422, f"{name} is missing")
            continue
        value = found[name]
        whole = kind is float and type(value) is int and abs(value) <= 1
        if not whole and type(value) is not kind:
            raise Refused(422, f"{name} must be {'a number' if kind is float else kind.__name__}")
        if kind is float and not math.isfinite(value):
            raise Refused(422, f"{name} must be finite")
    return found


async def _sweep(sessions: LiveSessions) -> None:
    while True:
        await asyncio.sleep(SWEEP)
        sessions.free_idle()


def _sessions(request: Request) -> LiveSessions:
    sessions: LiveSessions = request.app.state.sessions
    return sessions


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    again = {"retry-after": "1"} if error.status in (429, 503) else None
    return JSONResponse({"error": str(error)}, error.status, again)


def _not_there(status: int, reason: str) -> Callable[[Request, Exception], JSONResponse]:
    return lambda _, __: JSONResponse({"error": reason}, status)


def _file(name: str, media_type: str) -> Callable[[], Response]:
    body = page_file(name)
    return lambda: Response(body, media_type=media_type)


def _about(about: dict[str, Any]) -> Callable[[], JSONResponse]:
    return lambda: JSONResponse(about)
