"""The routes of the server, over FastAPI; what fails raises, and :class:`Gate` tells the client."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any
from weakref import WeakSet

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from privacyrestore import api_schema, chat_api, completion_api
from privacyrestore.admission import Gate, Keys, Limits, read_body
from privacyrestore.api_errors import RETRY_AFTER, ApiError, api_error
from privacyrestore.batch_engine import BatchEngine
from privacyrestore.engine_request import Completion, Piece
from privacyrestore.event_stream import EventStream, LiveRow, unless_gone
from privacyrestore.request_reader import RequestReader
from privacyrestore.server_metrics import MEDIA_TYPE, Metrics

log = logging.getLogger(__name__)

CHUNK = 1 << 16
NOT_THERE = {
    404: ("there is nothing at this address", "not_found"),
    405: ("this address takes another method", "method_not_allowed"),
}


class HttpApi:
    """What the server does at each address.

    Args:
        engine: that answers; whoever made it closes it.
        model_name: what clients call the model.
        limits: of a client.
        debug: whether the content of requests is logged.
    """

    def __init__(self, engine: BatchEngine, *, model_name: str, limits: Limits, debug: bool):
        self.engine, self.model_name, self.debug = engine, model_name, debug
        self.limits, self.metrics = limits, Metrics()
        self.started = int(time.time())
        self._reader = RequestReader(engine, model_name, limits)
        self._banks = {sha256: bank.to_bytes() for sha256, bank in engine.steered.banks.items()}
        self._rows: WeakSet[LiveRow] = WeakSet()
        self._closing = False
        # Tokenising takes the interpreter's time: one request after the other.
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="request-reader")

    def app(self, keys: Keys) -> FastAPI:
        """The API as an ASGI app, whose `state.api` is this object."""

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            yield
            self._readers.shutdown(wait=False, cancel_futures=True)

        app = FastAPI(
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            redirect_slashes=False,
            lifespan=lifespan,
        )
        app.add_middleware(
            Gate, keys=keys, metrics=self.metrics, limits=self.limits, debug=self.debug
        )
        for status in NOT_THERE:
            app.add_exception_handler(status, _not_there(status))
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"])
        app.add_api_route("/v1/completions", self.complete, methods=["POST"])
        app.add_api_route("/v1/models", self.models, methods=["GET"])
        app.add_api_route("/v1/models/{name:path}", self.model, methods=["GET"])
        app.add_api_route("/v1/privacy/banks", self.banks, methods=["GET"])
        app.add_api_route("/v1/privacy/banks/{sha256}", self.bank, methods=["GET"])
        app.add_api_route("/health", self.health, methods=["GET"])
        app.add_api_route("/metrics", self.page, methods=["GET"])
        app.state.api = self
        return app

    def close(self) -> None:
        """Take no more rows."""
        self._closing = True

    def interrupt(self) -> None:
        """End the rows that are left; their clients are told."""
        self.close()
        for row in self._rows:
            row.interrupt(_stops())

    async def chat(self, request: Request) -> Response:
        """A chat completion."""
        return await self._answer(request, api_schema.chat_request, chat_api)

    async def complete(self, request: Request) -> Response:
        """A completion of a text."""
        return await self._answer(request, api_schema.completion_request, completion_api)

    async def models(self) -> Response:
        """The one model."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, name: str) -> Response:
        """The model of that name."""
        if name != self.model_name:
            raise ApiError(404, "no such model here: see /v1/models", "model_not_found")
        return JSONResponse(self._model())

    async def banks(self) -> Response:
        """What there is to be loaded."""
        banks = [
            {
                "object": "restoration_bank",
                "sha256": sha256,
                "bytes": len(self._banks[sha256]),
                "spans": len(bank.vocabulary),
                "groups": len(bank.vectors),
                "n": bank.n,
                "rank": bank.rank,
                "diameter": bank.diameter,
                "rule": bank.rule,
                "gamma": bank.gamma,
                "max_norm": self.limits.max_norm,
            }
            for sha256, bank in self.engine.steered.banks.items()
        ]
        return JSONResponse({"object": "list", "data": banks})

    async def bank(self, sha256: str) -> Response:
        """A bank, whole: which part a client asked for would say which span it has."""
        content = self._banks.get(sha256)
        if content is None:
            raise ApiError(404, "no such bank here: see /v1/privacy/banks", "bank_not_found")
        parts = (content[start : start + CHUNK] for start in range(0, len(content), CHUNK))
        return StreamingResponse(
            _each(parts),
            media_type="application/octet-stream",
            headers={"content-length": str(len(content)), "etag": f'"{sha256}"'},
        )

    async def health(self) -> Response:
        """200 while requests are taken."""
        if self._closing:
            raise _stops()
        if self.engine.closed:
            raise ApiError(503, "the model is not available", "unavailable", headers=RETRY_AFTER)
        return JSONResponse({"status": "ok"})

    async def page(self) -> Response:
        """Prometheus' page."""
        return Response(self.metrics.text(self.engine.stats()), media_type=MEDIA_TYPE)

    async def _answer(self, request: Request, check: Any, shape: ModuleType) -> Response:
        body = await read_body(request.headers, request.receive, self.limits)
        if self.debug:
            log.info("body: %r", body)
        loop = asyncio.get_running_loop()
        try:
            asked, fields = await loop.run_in_executor(
                self._readers, self._reader.read, body, check, shape.prompt_ids
            )
            if self._closing:
                raise _stops()
            row = LiveRow(self.engine, asked, self.metrics)
        except Exception as error:
            told = api_error(error)
            if told.status == 500:
                raise
            raise told from None
        answer = _Answer(shape, self.model_name, len(asked.prompt_ids), fields.include_usage)
        self._rows.add(row)
        if fields.stream:
            return EventStream(row, answer.events, answer.opening())
        try:
            completion = await unless_gone(row.completion(), request.receive)
        finally:
            row.leave()
        return JSONResponse(answer.whole(completion))

    def _model(self) -> dict[str, Any]:
        return {
            "id": self.model_name,
            "object": "model",
            "created": self.started,
            "owned_by": "privacyrestore",
        }


class _Answer:
    """OpenAI's objects of one answer."""

    def __init__(self, shape: ModuleType, model_name: str, n_prompt: int, include_usage: bool):
        self._shape, self._n_prompt, self._include_usage = shape, n_prompt, include_usage
        self._head = {
            "id": f"{shape.PREFIX}{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model_name,
        }

    def whole(self, completion: Completion) -> dict[str, Any]:
        choice = self._shape.whole(completion.text, completion.finish_reason)
        return {
            **self._head,
            "object": self._shape.WHOLE,
            "choices": [choice],
            "usage": self._usage(completion),
        }

    def opening(self) -> list[dict[str, Any]]:
        choice = self._shape.opening()
        return [] if choice is None else [self._chunk([choice])]

    def events(self, news: Piece | Completion) -> Iterator[dict[str, Any]]:
        if isinstance(news, Piece):
            yield self._chunk([self._shape.piece(news.text)])
            return
        yield self._chunk([self._shape.closing(news.finish_reason)])
        if self._include_usage:
            yield self._chunk([]) | {"usage": self._usage(news)}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = {**self._head, "object": self._shape.CHUNK, "choices": choices}
        return chunk | {"usage": None} if self._include_usage else chunk

    def _usage(self, completion: Completion) -> dict[str, int]:
        n_new = len(completion.token_ids)
        return {
            "prompt_tokens": self._n_prompt,
            "completion_tokens": n_new,
            "total_tokens": self._n_prompt + n_new,
        }


async def _each(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def _not_there(status: int) -> Callable[[Request, Exception], Response]:
    told = ApiError(status, *NOT_THERE[status])

    def answer(_: Request, error: Exception) -> Response:
        return JSONResponse(told.content, status, getattr(error, "headers", None))

    return answer


def _stops() -> ApiError:
    return ApiError(503, "the server is stopping", "stopping", headers=RETRY_AFTER)
