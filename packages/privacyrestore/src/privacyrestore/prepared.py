"""A request as it leaves, and beside it what only the client may know of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from privacyrestore.payload import FIELD

if TYPE_CHECKING:
    from privacyrestore.accounting import Spent
    from privacyrestore.guarantee import Guarantee


@dataclass(frozen=True)
class LocalReport:
    """What a request gave away and cost; for the client's own eyes, never sent.

    Attributes:
        guarantee: of the mechanism with this bank, the worst-case local ε in it.
        spent: of the subject, this request included.
        new_release: whether the vector was drawn for this request; else it was sent before, and
            cost nothing.
        audited: the share of spans that the latest audit of this bank and mechanism recovered;
            None where there was none.
        spans: the span types that were taken out, as the vocabulary spells them.
    """

    guarantee: Guarantee
    spent: Spent
    new_release: bool = field(repr=False)
    audited: float | None
    spans: tuple[str, ...] = field(repr=False)

    def sentence(self) -> str:
        """Guarantee, what is spent, and what the audit said; names no span."""
        audit = (
            "no audit of this bank and mechanism is known"
            if self.audited is None
            else f"the latest audit recovered {self.audited:.0%} of the spans"
        )
        return f"{self.guarantee.sentence()} Spent so far: {self.spent.sentence()}; {audit}."


@dataclass(frozen=True)
class PreparedRequest:
    """One request, whole: sent as often as need be, it is the same bytes.

    Attributes:
        path: of the server's endpoint.
        body: what is sent: canonical JSON (ASCII, sorted names, no blanks). Its size depends on
            `content`, the options, bank and mechanism alone.
        content: the cleaned prompt or messages, as they stand in `body`.
        payload: the value of the body's extra field, of fixed size.
        streamed: whether the answer comes in pieces.
        report: for the client's own eyes.
    """

    path: str
    body: bytes
    content: list[dict[str, str]] | str
    payload: dict[str, str] = field(repr=False)
    streamed: bool
    report: LocalReport = field(repr=False)

    @property
    def public_text(self) -> str:
        """The cleaned texts as the server will read them, one after the other."""
        if isinstance(self.content, str):
            return self.content
        return "\n\n".join(message["content"] for message in self.content)


def canonical_body(
    content: list[dict[str, str]] | str,
    payload: dict[str, str],
    streamed: bool,
    options: dict[str, Any],
) -> bytes:
    """The body of a request: the same value is the same bytes, wherever and whenever it is made."""
    name = "prompt" if isinstance(content, str) else "messages"
    fields = options | {name: content, "stream": streamed, FIELD: payload}
    return json.dumps(
        fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")
