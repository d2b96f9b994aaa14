"""Words as they come, from a pipe or a keyboard."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator

from psfuture.parallel_text import UnreadableText
from psfuture.units import Unit


def typed_words(read: Callable[[], bytes], unit: Unit = "word") -> Iterator[str | None]:
    """Each word as soon as white space ends it, and None at the end of a line.

    Args:
        read: gives what has come, empty at the end.
        unit: of characters, whatever has come of a line is given at once.

    Raises:
        UnreadableText: bytes that are no UTF-8; the line is named. The lines before were given.
    """
    held, begun = "", False
    for text in _decoded(read):
        begun = True
        held += text
        words = held.split()
        complete = unit == "char" or not words or held[-1].isspace()
        ended = held.endswith("\n")
        held = "" if complete else words.pop()
        yield from words
        if ended:
            yield None
            begun = False
    yield from held.split()
    if begun:
        yield None


def _decoded(read: Callable[[], bytes]) -> Iterator[str]:
    """Text as it comes, cut after each end of a line."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    while True:
        chunk = read()
        for part in re.findall(rb"[^\n]*\n|[^\n]+", chunk) or [b""]:
            try:
                text = decoder.decode(part, final=not chunk)
            except UnicodeDecodeError as error:
                raise UnreadableText(
                    f"line {line} of the input is no UTF-8: {error.reason}"
                ) from None
            line += text.endswith("\n")
            if text:
                yield text
        if not chunk:
            return
