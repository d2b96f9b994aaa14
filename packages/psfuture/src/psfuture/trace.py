"""What happened to one sentence: what was read, what was written, and when."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lipogram.errors import CorruptState


@dataclass(frozen=True)
class Trace:
    """A sentence after its translation.

    Attributes:
        source: its units (words, or characters).
        words: target words as they were shown.
        delays: source units read when each word was shown.
        tokens: target tokens as they were written.
        token_delays: source units read when each token was written.
        actions: one letter a READ ("R") of a unit and a WRITE ("W") of a token, in order.
        reference: a translation to compare with; None without one.
        compute_ms: milliseconds of computation after each unit read, of a stream that ran alone;
            empty where nobody measured.
    """

    source: tuple[str, ...]
    words: tuple[str, ...]
    delays: tuple[int, ...]
    tokens: tuple[int, ...] = ()
    token_delays: tuple[int, ...] = ()
    actions: str = ""
    reference: str | None = None
    compute_ms: tuple[float, ...] = ()

    @property
    def text(self) -> str:
        """The translation."""
        return " ".join(self.words)

    def with_reference(self, reference: str | None) -> Trace:
        """The same with a reference."""
        return replace(self, reference=reference)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a line of `trace.jsonl`; :meth:`from_json` takes them back."""
        return {
            "source": list(self.source),
            "words": list(self.words),
            "delays": list(self.delays),
            "tokens": list(self.tokens),
            "token_delays": list(self.token_delays),
            "actions": self.actions,
            "reference": self.reference,
            "compute_ms": list(self.compute_ms),
        }

    @classmethod
    def from_json(cls, held: Any) -> Trace:
        """The trace that :meth:`as_json` gave.

        Raises:
            CorruptState: no such values.
        """
        lists = ("source", "words", "delays", "tokens", "token_delays", "compute_ms")
        try:
            values = {name: tuple(held[name]) for name in lists if type(held[name]) is list}
            made = cls(reference=held["reference"], actions=held["actions"], **values)
        except (KeyError, TypeError) as error:
            raise CorruptState(f"{str(held)[:60]!r} is no trace: {error}") from None
        if len(made.delays) != len(made.words) or len(made.token_delays) != len(made.tokens):
            raise CorruptState(f"a trace of {len(made.words)} words has {len(made.delays)} delays")
        return made
