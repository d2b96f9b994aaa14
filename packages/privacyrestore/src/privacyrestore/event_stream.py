"""One row between the engine's thread and one connection: its text as it comes, or its end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from fastapi.responses import StreamingResponse

from lipogram.errors import NotFinite
from privacyrestore.admission import CLIENT_LEFT, Receive
from privacyrestore.api_errors import ApiError, api_error
from privacyrestore.batch_engine import BatchEngine
from privacyrestore.engine_request import Completion, Piece, Request
from privacyrestore.payload import FIELD
from privacyrestore.server_metrics import Metrics

Result = TypeVar("Result")
Events = Callable[[Piece | Completion], Iterable[dict[str, Any]]]

SIGN_OF_LIFE = 15.0
"""Seconds of silence after which a stream says that it is still there."""


class LiveRow:
    """A row that the engine has taken, for one client; used in one event loop.

    Args:
        engine: that runs it.
        request: what is asked.
        metrics: told of its beginning and its end.

    Raises:
        What `engine.submit` does.
    """

    def __init__(self, engine: BatchEngine, request: Request, metrics: Metrics):
        loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[Piece | Completion | ApiError] = asyncio.Queue()
        self._metrics, self._begun = metrics, time.monotonic()
        self._shown = False

        def tell(news: Piece | Completion | ApiError) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(self._news.put_nowait, news)

        self._handle = engine.submit(request, tell)
        self._handle.future.add_done_callback(lambda future: tell(_end(future, request)))
        metrics.accepted(len(request.prompt_ids), restored=request.meta is not None)

    def leave(self) -> None:
        """Let the row leave the batch, if it is still there."""
        self._handle.cancel()

    def interrupt(self, error: ApiError) -> None:
        """End it with an error in place of the rest."""
        self._news.put_nowait(error)
        self.leave()

    async def news(self, patience: float | None = None) -> AsyncIterator[Piece | Completion | None]:
        """Pieces, None where none came for `patience` seconds, and the whole at the end.

        Raises:
            ApiError: what it ended with.
        """
        while True:
            try:
                news = await asyncio.wait_for(self._news.get(), patience)
            except TimeoutError:
                yield None
                continue
            if isinstance(news, ApiError):
                raise news
            if not self._shown:
                self._shown = True
                self._metrics.first_piece(time.monotonic() - self._begun)
            if isinstance(news, Completion):
                self._metrics.finished(len(news.token_ids))
            yield news
            if isinstance(news, Completion):
                return

    async def completion(self) -> Completion:
        """The whole; errors as in :meth:`news`."""
        async for news in self.news():
            if isinstance(news, Completion):
                return news
        raise AssertionError("a row ends with its completion or an error")


def _end(future: Future[Completion], request: Request) -> Completion | ApiError:
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, NotFinite) and request.meta is not None:
        return ApiError(
            400, "with this vector the model's numbers overflow", "invalid_payload", param=FIELD
        )
    return api_error(error)


async def unless_gone(work: Coroutine[Any, Any, Result], receive: Receive) -> Result:
    """What the work gives, which is given up when the client leaves.

    Raises:
        ApiError: 499, the client has left.
    """
    working = asyncio.create_task(work)
    listening = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ApiError(CLIENT_LEFT, "the client left", "client_left")
    finally:
        working.cancel()
        listening.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """An answer of server-sent events: a row's news, each as JSON, and `[DONE]`.

    A row that fails ends the stream with an error's object in place of `[DONE]`. A client that
    leaves takes its row out of the batch.

    Args:
        row: that is streamed.
        events: the objects to send for each piece, and for the whole.
        opening: objects that are sent at once.
    """

    def __init__(self, row: LiveRow, events: Events, opening: Iterable[dict[str, Any]]):
        super().__init__(
            _lines(row, events, opening),
            media_type="text/event-stream",
            headers={"cache-control": "no-store"},
        )
        self._row = row

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI; returns when all is sent or the client has left."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._row.leave()


async def _lines(
    row: LiveRow, events: Events, opening: Iterable[dict[str, Any]]
) -> AsyncIterator[bytes]:
    yield b"".join(map(_event, opening))
    try:
        async for news in row.news(SIGN_OF_LIFE):
            if news is None:  # a client that vanished is noticed when it is written to
                yield b": still here\n\n"
            else:
                yield b"".join(map(_event, events(news)))
    except ApiError as error:
        yield _event(error.content)
    else:
        yield b"data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"
