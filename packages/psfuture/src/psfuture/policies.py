"""When to write and when to read: every policy, over the same view of a stream.

A policy of tokens is asked before each token. A policy of drafts is asked once for each word that
is read, when a whole draft of the translation so far is there, and says how much of it may be kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from lipogram.errors import InvalidSetting
from psfuture.divergences import Divergence, check_threshold, divergence
from psfuture.futures import Fixed, Future

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class View:
    """What a policy sees before one token.

    Attributes:
        reads: source units read.
        words: target words begun, the one of the next token among them.
        burst: those of them that were begun since the last unit was read.
        divergence: between what the model says now and after the invented future; None without one.
        attended: unit of the source, from 1, that the next token attends to most; None where the
            policy does not ask.
    """

    reads: int
    words: int
    burst: int = 1
    divergence: float | None = None
    attended: int | None = None


@dataclass(frozen=True)
class Limits:
    """What every policy of tokens keeps to, whatever it would choose; None sets no limit.

    Attributes:
        min_reads: words read before the first token.
        max_consecutive_reads: then a token is written.
        max_consecutive_writes: tokens, then a word is read.
        max_words_per_read: words begun after one word was read, then the next is read: 1 spreads
            bursts evenly, which DAL counts as no later and which lets more of the source be seen.
    """

    min_reads: int = 1
    max_consecutive_reads: int | None = None
    max_consecutive_writes: int | None = None
    max_words_per_read: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value < 1:
                raise InvalidSetting(f"{name} is {value}, it must be 1 or more")


@runtime_checkable
class TokenPolicy(Protocol):
    """Decides before each token."""

    @property
    def name(self) -> str:
        """The policy with its knob, for tables."""

    @property
    def future(self) -> Future | None:
        """What invents the words to come; None where none are needed."""

    @property
    def prefix_eos(self) -> bool:
        """End a prefix by `</s>`, as the model saw its sentences end in training."""

    @property
    def limits(self) -> Limits:
        """What it keeps to, whatever it would choose."""

    def write(self, view: View) -> bool:
        """True to write the model's next token, False to read."""


@runtime_checkable
class DraftPolicy(Protocol):
    """Decides how much of a draft is kept."""

    @property
    def name(self) -> str:
        """The policy with its knob, for tables."""

    @property
    def prefix_eos(self) -> bool:
        """End a prefix by `</s>`, as the model saw its sentences end in training."""

    def keep(self, drafts: Sequence[Tokens]) -> int:
        """Tokens of the newest draft that are kept; `drafts` has one a word read."""


Policy = TokenPolicy | DraftPolicy


@dataclass(frozen=True)
class Comparison:
    """How what the model says now is held against what it says after invented futures.

    Attributes:
        future: what invents them.
        divergence: by name, see :mod:`psfuture.divergences`, or a function of two (B, V) tensors.
        reduce: over several futures, the mean or the largest divergence.
        write_from: distribution whose most probable token is written: the prefix's ("partial"),
            the mean of those after the futures ("pseudo"), or the product of the two ("mix").
    """

    future: Future
    divergence: str | Divergence = "cosine"
    reduce: Literal["mean", "max"] = "mean"
    write_from: Literal["partial", "pseudo", "mix"] = "partial"


@dataclass(frozen=True)
class PsFuture:
    """Write while an invented future would not change the model's mind (PsFuture, section 3).

    Attributes:
        threshold: lambda; write where the divergence is at most this. Below 0 nothing is written
            before the source ends; at the divergence's maximum, all that is not `</s>`.
        future: see :class:`Comparison`, as the next three.
        divergence: see there.
        reduce: see there.
        write_from: see there.
        prefix_eos: see :class:`TokenPolicy`.
        limits: see :class:`Limits`.

    Raises:
        InvalidSetting: a threshold outside the divergence's range, or an unknown divergence.
    """

    threshold: float = 0.02
    future: Future = field(default_factory=Fixed)
    divergence: str | Divergence = "cosine"
    reduce: Literal["mean", "max"] = "mean"
    write_from: Literal["partial", "pseudo", "mix"] = "partial"
    prefix_eos: bool = True
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        divergence(self.divergence)
        check_threshold(self.divergence, self.threshold)
        if self.reduce not in ("mean", "max"):
            raise InvalidSetting(f"reduce is {self.reduce!r}, it must be mean or max")
        if self.write_from not in ("partial", "pseudo", "mix"):
            raise InvalidSetting(
                f"write_from is {self.write_from!r}, it must be partial, pseudo or mix"
            )
        if self.future.closes_only and self.prefix_eos:
            raise InvalidSetting("the future `eos` compares open prefixes: set prefix_eos to False")

    @property
    def name(self) -> str:
        """With the knob, for tables."""
        return f"psfuture {self.threshold:g}"

    @property
    def comparison(self) -> Comparison:
        """What the engine has to compare."""
        return Comparison(self.future, self.divergence, self.reduce, self.write_from)

    def write(self, view: View) -> bool:
        """Where the divergence is small enough."""
        assert view.divergence is not None
        return view.divergence <= self.threshold


@dataclass(frozen=True)
class WaitK:
    """Stay k words behind (Ma et al. 2019, section 3): the t-th word after k + t - 1 words read.

    Attributes:
        k: the lag.
        catchup: extra target words a source word, for targets that run longer.
        prefix_eos: see :class:`TokenPolicy`.
        limits: see :class:`Limits`.
        future: write what the model says on average after these; it does not change when. None
            writes what it says now.
    """

    k: int
    catchup: float = 0.0
    prefix_eos: bool = True
    limits: Limits = Limits()
    future: Future | None = None

    def __post_init__(self) -> None:
        if self.k < 1 or not 0 <= self.catchup < math.inf:
            raise InvalidSetting(
                f"wait-k needs k >= 1 and catchup >= 0, not {self.k}, {self.catchup}"
            )

    @property
    def name(self) -> str:
        """With the knob, for tables."""
        return f"wait-{self.k}"

    @property
    def comparison(self) -> Comparison | None:
        """What the engine has to compare; None without a future."""
        return None if self.future is None else Comparison(self.future, write_from="pseudo")

    def write(self, view: View) -> bool:
        """Where the word is due."""
        # 25 words at a catch-up of 0.16 bring 29, and 28.999999999999996 in binary.
        return view.words <= (view.reads - self.k + 1) * (1 + self.catchup) + 1e-9


@dataclass(frozen=True)
class AlignAtt:
    """Write while the next token attends to none of the last words (Papi et al. 2023, section 3).

    Attributes:
        last: f, words at the end of the prefix that must not be attended to.
        prefix_eos: see :class:`TokenPolicy`.
        limits: see :class:`Limits`.
    """

    last: int = 2
    prefix_eos: bool = True
    limits: Limits = Limits()
    future: None = None

    def __post_init__(self) -> None:
        if self.last < 1:
            raise InvalidSetting(f"AlignAtt looks at 1 last word or more, not {self.last}")

    @property
    def name(self) -> str:
        """With the knob, for tables."""
        return f"alignatt-{self.last}"

    def write(self, view: View) -> bool:
        """Where the word that is attended to is not among the last."""
        assert view.attended is not None
        return view.attended <= view.reads - self.last


@dataclass(frozen=True)
class Offline:
    """Read everything, then translate."""

    prefix_eos: bool = True
    limits: Limits = Limits()
    future: None = None

    @property
    def name(self) -> str:
        """With the knob, for tables."""
        return "offline"

    def write(self, view: View) -> bool:
        """Never, before the source ends."""
        return False


@dataclass(frozen=True)
class LocalAgreement:
    """Keep what the last n drafts agree on (Liu et al. 2020, LA-n).

    Attributes:
        n: drafts that have to agree.
        prefix_eos: see :class:`TokenPolicy`.
    """

    n: int = 2
    prefix_eos: bool = True

    def __post_init__(self) -> None:
        if self.n < 2:
            raise InvalidSetting(f"agreement needs 2 drafts or more, not {self.n}")

    @property
    def name(self) -> str:
        """With the knob, for tables."""
        return f"agreement-{self.n}"

    def keep(self, drafts: Sequence[Tokens]) -> int:
        """Tokens that the last drafts begin with alike."""
        if len(drafts) < self.n:
            return 0
        last = drafts[-self.n :]
        shortest = min(map(len, last))
        return next(
            (at for at in range(shortest) if len({draft[at] for draft in last}) > 1), shortest
        )


@dataclass(frozen=True)
class HoldN:
    """Keep a draft but for its last n tokens (Liu et al. 2020, hold-n).

    Attributes:
        n: tokens held back.
        prefix_eos: see :class:`TokenPolicy`.
    """

    n: int = 4
    prefix_eos: bool = True

    def __post_init__(self) -> None:
        if self.n < 0:
            raise InvalidSetting(f"{self.n} tokens cannot be held back")

    @property
    def name(self) -> str:
        """With the knob, for tables."""
        return f"hold-{self.n}"

    def keep(self, drafts: Sequence[Tokens]) -> int:
        """All but the last tokens."""
        return max(len(drafts[-1]) - self.n, 0)
