"""What a server answered, taken apart with care: it may have sent anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from privacyrestore.errors import Refused, Unreachable
from privacyrestore.prepared import LocalReport


@dataclass(frozen=True)
class Answer:
    """An answer and what it cost.

    Attributes:
        text: the model's words.
        finish_reason: "stop", "length", or another word of the server; None if it gave none.
        usage: counts of tokens, as the server counts them.
        report: for the client's own eyes.
        raw: the server's whole object.
    """

    text: str
    finish_reason: str | None
    usage: dict[str, int]
    report: LocalReport = field(repr=False)
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def read(cls, raw: dict[str, Any], report: LocalReport) -> Answer:
        """The first choice of a completion or a chat completion.

        Raises:
            Unreachable: an object of another form.
        """
        choice = _choice(raw)
        if choice is None:
            raise Unreachable("the server's answer has no choices")
        text = choice["message"].get("content") if "message" in choice else choice.get("text")
        reason = choice.get("finish_reason")
        if not isinstance(text, str) or not isinstance(reason, str | None):
            raise Unreachable("the server's answer has no text")
        usage = raw.get("usage")
        counts = usage.items() if isinstance(usage, dict) else ()
        return cls(text, reason, {k: v for k, v in counts if type(v) is int}, report, raw)


def pieces(events: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The words in the events of a stream, those without any left out.

    Raises:
        Refused: the server ended the stream with an error.
        Unreachable: an event of another form.
    """
    for event in events:
        if "error" in event:
            raise Refused(500, "it failed in the middle of its answer")
        choice = _choice(event)
        if choice is None:
            continue
        piece = choice["delta"].get("content") if "delta" in choice else choice.get("text")
        if not isinstance(piece, str | None):
            raise Unreachable("a piece of the server's answer is no text")
        if piece:
            yield piece


def _choice(raw: dict[str, Any]) -> dict[str, Any] | None:
    choices = raw.get("choices")
    if not isinstance(choices, list) or not all(isinstance(each, dict) for each in choices):
        raise Unreachable("the server's answer has no choices")
    if not choices:
        return None
    choice: dict[str, Any] = choices[0]
    if not all(isinstance(choice.get(name, {}), dict) for name in ("message", "delta")):
        raise Unreachable("the server's answer has no text")
    return choice
