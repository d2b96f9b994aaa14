"""What happened to one sentence: what was read, what was written, and when."""

from __future__ import annotations

import math
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
            CorruptState: values that no trace has; the message names the first.
        """
        try:
            values = {name: tuple(_checked(held[name], name)) for name in _KINDS}
            made = cls(reference=held["reference"], actions=held["actions"], **values)
        except (KeyError, TypeError) as error:
            raise CorruptState(f"{str(held)[:60]!r} is no trace: {error}") from None
        if not isinstance(made.reference, str | None) or not isinstance(made.actions, str):
            raise CorruptState("a trace's reference and actions are texts")
        if set(made.actions) - {"R", "W"}:
            raise CorruptState(f"a trace's actions are R and W, not {made.actions[:20]!r}")
        for what, units, delays in (
            ("words", made.words, made.delays),
            ("tokens", made.tokens, made.token_delays),
        ):
            if len(units) != len(delays):
                raise CorruptState(f"a trace of {len(units)} {what} has {len(delays)} delays")
            if sorted(delays) != list(delays) or not set(delays) <= set(
                range(len(made.source) + 1)
            ):
                raise CorruptState(
                    f"delays of {what} fall, or leave the source's {len(made.source)} units"
                )
        return made


_KINDS: dict[str, tuple[type, ...]] = {
    "source": (str,),
    "words": (str,),
    "delays": (int,),
    "tokens": (int,),
    "token_delays": (int,),
    "compute_ms": (int, float),
}


def _checked(values: Any, name: str) -> list[Any]:
    """The list `name` of a trace, if its values are of its kind."""
    kinds = _KINDS[name]
    if type(values) is not list or any(type(value) not in kinds for value in values):
        raise CorruptState(f"a trace's {name} are a list of {kinds[-1].__name__}")
    if name == "compute_ms" and not all(0 <= value < math.inf for value in values):
        raise CorruptState("a trace's compute_ms are milliseconds, finite and not below 0")
    return values
