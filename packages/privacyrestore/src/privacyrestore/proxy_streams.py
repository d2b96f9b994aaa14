"""Answers that come piece by piece from a thread, and end at once where nobody waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Receive = Callable[[], Awaitable[Any]]


class CallerLeft(Exception):
    """The app hung up before its answer began."""


class Pieces(Generic[T]):
    """What a blocking generator yields, for a coroutine; the generator runs in a thread of its own.

    :meth:`stop` lets the thread close the generator as soon as that yields again, which ends the
    request behind it. What the generator raises is raised here, after the pieces before it.

    Args:
        make: called in the thread; gives the generator.
    """

    def __init__(self, make: Callable[[], Generator[T, None, None]]):
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[T | _End] = asyncio.Queue()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, args=(make,), name="proxy-request", daemon=True).start()

    def stop(self) -> None:
        """No further piece is wanted."""
        self._stopped.set()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        item = await self._queue.get()
        if not isinstance(item, _End):
            return item
        self._queue.put_nowait(item)  # whoever asks again is told the same
        if item.error is not None:
            raise item.error
        raise StopAsyncIteration

    def _run(self, make: Callable[[], Generator[T, None, None]]) -> None:
        error: Exception | None = None
        try:
            with contextlib.closing(make()) as found:
                for piece in found:
                    if self._stopped.is_set():
                        break
                    self._put(piece)
        except Exception as raised:
            error = raised
        self._put(_End(error))

    def _put(self, item: T | _End) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the proxy has stopped
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)


class _End:
    def __init__(self, error: Exception | None):
        self.error = error


async def unless_left(work: Awaitable[T], receive: Receive) -> T:
    """The result of `work`, which is cancelled where the app hangs up first.

    Args:
        work: to wait for.
        receive: the request's ASGI channel, its body read.

    Raises:
        CallerLeft: it hung up.
    """
    wanted, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({wanted, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not wanted.done():
            raise CallerLeft
        return wanted.result()
    finally:
        for task in (wanted, gone):
            task.cancel()
        await asyncio.gather(wanted, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
