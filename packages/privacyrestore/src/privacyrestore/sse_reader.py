"""Answers as a server sends them, read on the assumption that the server means harm.

Events follow the WHATWG's rules for `text/event-stream`, objects RFC 8259; sizes and time are
bounded, and what breaks the rules ends in `Unreachable`, whose text repeats nothing that came.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lipogram.errors import InvalidSetting
from privacyrestore.errors import Unreachable
from privacyrestore.strict_json import read_object

END = "[DONE]"


@dataclass(frozen=True)
class Limits:
    """What an answer may take.

    Attributes:
        line: bytes of one line of a stream.
        total: bytes of a whole answer.
        seconds: from the request to the answer's end.
    """

    line: int = 1 << 20
    total: int = 64 << 20
    seconds: float = 600.0


def within(chunks: Iterable[bytes], limits: Limits) -> Iterator[bytes]:
    """The chunks, for as long as they stay within the limits.

    Raises:
        Unreachable: they do not.
    """
    end, size = time.monotonic() + limits.seconds, 0
    for chunk in chunks:
        size += len(chunk)
        if size > limits.total:
            raise Unreachable(f"the answer is longer than {limits.total} bytes: given up")
        if time.monotonic() > end:
            raise Unreachable(f"the answer took longer than {limits.seconds:g} s: given up")
        yield chunk


def events(chunks: Iterable[bytes], limits: Limits) -> Iterator[dict[str, Any]]:
    """The objects of a stream of events, up to its `[DONE]`.

    Args:
        chunks: the stream's bytes, cut anywhere.
        limits: what it may take.

    Raises:
        Unreachable: past a limit, no object, or an end without `[DONE]`; events that came before
            have been handed out.
    """
    data: list[bytes] = []
    held = 0
    for line in _lines(within(chunks, limits), limits.line):
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
                held += len(value) + 1
                if held > limits.line:
                    raise Unreachable(f"an event is longer than {limits.line} bytes: given up")
            continue
        event, data, held = b"\n".join(data), [], 0
        if event.strip() == END.encode():
            return
        if event:
            yield json_object(event)
    raise Unreachable("the answer broke off before its end")


def json_object(content: bytes) -> dict[str, Any]:
    """The object that a server's JSON holds.

    Raises:
        Unreachable: anything else, a name twice in an object, NaN or endless nesting.
    """
    try:
        return read_object(content)
    except InvalidSetting:
        pass
    raise Unreachable("the server's answer is no JSON object")


def _lines(chunks: Iterable[bytes], longest: int) -> Iterator[bytes]:
    """Lines without their ends: LF, CR or CR LF; what follows the last end is no line."""
    begun: list[bytes] = []  # joined once: a line that comes byte by byte must cost no square
    held, first, after_cr = 0, True, False
    for chunk in chunks:
        if after_cr and chunk:
            chunk, after_cr = chunk.removeprefix(b"\n"), False
        if chunk.endswith(b"\r"):
            after_cr = True  # its LF may come with the next chunk
        *ended, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for piece in ended:
            line, begun, held = b"".join((*begun, piece)), [], 0
            if len(line) > longest:
                raise Unreachable(f"a line of the answer is longer than {longest} bytes: given up")
            yield line.removeprefix(b"\xef\xbb\xbf") if first else line
            first = False
        if rest:
            begun.append(rest)
            held += len(rest)
        if held > longest:
            raise Unreachable(f"a line of the answer is longer than {longest} bytes: given up")
