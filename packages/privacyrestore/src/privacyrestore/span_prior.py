"""What a server knows of span sets before it reads a message: how often, and how many at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lipogram.errors import InvalidProbes, InvalidSetting


def indicators(span_sets: Sequence[Iterable[int]], n_spans: int) -> Tensor:
    """[B, M] bool: which spans are in which set.

    Raises:
        InvalidSetting: no set, or an id outside 0 to M − 1.
    """
    if not len(span_sets):
        raise InvalidSetting("there must be at least one set of spans")
    found = torch.zeros(len(span_sets), n_spans, dtype=torch.bool)
    for row, spans in enumerate(span_sets):
        for span in spans:
            if not 0 <= span < n_spans:
                raise InvalidSetting(f"set {row} has a span id outside 0 to {n_spans - 1}")
            found[row, span] = True
    return found


@dataclass(frozen=True, eq=False)
class SpanPrior:
    """The attacker's prior: P(S) = p(|S|) · Π_{s∈S} o_s / e_{|S|}(o), with odds o.

    e_J is the elementary symmetric polynomial: given their number, spans are independent draws.

    Attributes:
        frequencies: [M] float64, the share of sets that a span is in, strictly between 0 and 1.
        sizes: [J + 1] float64, the probability of a set of 0 to J spans.
        sets: the sets that it was counted from, to simulate others with.
    """

    frequencies: Tensor
    sizes: Tensor
    sets: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, span_sets: Sequence[Iterable[int]], n_spans: int) -> SpanPrior:
        """Counted from sets, with half a case added for and against each span.

        Sets of 0 spans are left out: whether there are any is a question of its own.

        Raises:
            InvalidSetting: no set, or an unknown id.
            InvalidProbes: only empty sets.
        """
        known = indicators(span_sets, n_spans)
        known = known[known.any(1)]
        if not len(known):
            raise InvalidProbes("none of the sets has a span, so nothing is known of any")
        frequencies = (known.double().sum(0) + 0.5) / (len(known) + 1)
        counts = torch.bincount(known.sum(1)).double()
        largest = min(len(counts) + 1, n_spans)  # one more than seen may come
        sizes = torch.cat([counts, counts.new_zeros(largest + 1)])[: largest + 1]
        sizes[1:] += 0.5
        sets = tuple(tuple(row.nonzero()[:, 0].tolist()) for row in known)
        return cls(frequencies, sizes / sizes.sum(), sets)

    @cached_property
    def log_odds(self) -> Tensor:
        """[M] float64: log o."""
        return self.frequencies.log() - (-self.frequencies).log1p()

    @cached_property
    def size_terms(self) -> Tensor:
        """[J + 1] float64: log p(J) − log e_J(o), −∞ for no spans."""
        log_e = torch.full((len(self.sizes),), -torch.inf, dtype=torch.float64)
        log_e[0] = 0.0
        for odds in self.log_odds:
            log_e[1:] = torch.logaddexp(log_e[1:], log_e[:-1] + odds)
        return self.sizes.log() - log_e
