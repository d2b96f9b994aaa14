"""Words as they come, from a pipe or a keyboard."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator

from psfuture.parallel_text import UnreadableText
from psfuture.units import Unit


def typed_words(read: Callable[[], bytes], unit: Unit = "word") -> Iterator[str | None]:
    """Each word as soon as white space ends it, and None at the end of a line.

    Args:
        read: gives what has come, empty at the end.
        unit: of characters, whatever has come of a line is given at once.

    Raises:
        UnreadableText: bytes that are no UTF-8; the line is named.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    held, line, begun = "", 1, False
    while True:
        chunk = read()
        try:
            held += decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            raise UnreadableText(f"line {line} of the input is no UTF-8: {error.reason}") from None
        *whole, held = held.split("\n")
        for text in whole:
            yield from text.split()
            yield None
            begun, line = False, line + 1
        begun = begun or bool(held)
        if not chunk:
            break
        words = held.split()
        open_ended = unit == "word" and bool(words) and not held[-1].isspace()
        held = words.pop() if open_ended else ""
        yield from words
    yield from held.split()
    if begun:
        yield None
