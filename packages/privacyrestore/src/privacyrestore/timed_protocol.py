"""HTTP connections that end when their client is too slow to ask or to read."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from privacyrestore.admission import Limits
from privacyrestore.api_errors import ApiError


def timed_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Uvicorn's protocol with `head_seconds` for the head of each request and `send_seconds`.

    The first counts from the connection's begin or the first byte of a further request, however
    many bytes come meanwhile; a client that overruns it is told 408. The second is how long a
    client may leave its side of the connection full; it is then hung up on.
    """

    class TimedProtocol(H11Protocol):
        _head: asyncio.TimerHandle | None = None
        _full: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._time_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._end_timer("_head")  # its head is here
            elif self._head is None:
                self._time_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end_timer("_head")
            self._end_timer("_full")
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._end_timer("_full")
            self._full = self.loop.call_later(limits.send_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            self._end_timer("_full")
            super().resume_writing()

        def _time_head(self) -> None:
            self._head = self.loop.call_later(limits.head_seconds, self._too_slow)

        def _end_timer(self, name: str) -> None:
            if (timer := getattr(self, name)) is not None:
                timer.cancel()
                setattr(self, name, None)

        def _too_slow(self) -> None:
            told = ApiError(
                408, f"no request came within {limits.head_seconds:g} s", "request_too_slow"
            )
            head = (
                "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\n"
                f"content-length: {len(told.body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + told.body)
            self.transport.close()

    return TimedProtocol
