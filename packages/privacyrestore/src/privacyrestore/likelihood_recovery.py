"""The set of spans that most likely lies behind a message, by search over sets.

The strongest of the attacks on the vector: it uses the law of the noise, the unit length of a
signal, and how often and how many together spans occur. Weights are taken to be equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from privacyrestore.server_view import ServerView
from privacyrestore.span_prior import SpanPrior

_STARTS = 6
_STEPS = 60
_ROWS = 128
_TINY = 1e-12


@dataclass(eq=False)
class _Sets:
    """B sets of spans and the sums that their likelihood needs.

    Attributes:
        chosen: [B, M] bool.
        dot: [B], ⟨c, Σ r⟩.
        squared: [B], ‖Σ r‖².
        product: [B, M], ⟨Σ r, r_s⟩.
        odds: [B], Σ log o.
    """

    chosen: Tensor
    dot: Tensor
    squared: Tensor
    product: Tensor
    odds: Tensor


class _Search:
    def __init__(self, view: ServerView, prior: SpanPrior, rows: slice, known: Tensor | None):
        groups = view.groups
        self.correlations = view.correlations[rows][:, groups]
        self.gram = view.gram[groups][:, groups]
        self.own = self.gram.diagonal()
        self.energy = view.outside[rows] + view.coordinates[rows].square().sum(1) + 1
        self.law, self.log_odds = view.log_density, prior.log_odds
        self.known = None if known is None else known[rows]
        self.size_terms = prior.size_terms

    def value(self, dot: Tensor, squared: Tensor, odds: Tensor, size: Tensor) -> Tensor:
        """Log-posterior, up to a constant; all of one shape [B, ...]."""
        energy = self.energy.view(-1, *[1] * (dot.ndim - 1))
        found = self.law(energy - 2 * dot / squared.clamp_min(_TINY).sqrt()) + odds
        if self.known is None:
            last = len(self.size_terms) - 1
            terms = self.size_terms[size.clamp(0, last)]
            found = found + torch.where(size > last, -torch.inf, terms)
        return found

    def of(self, chosen: Tensor) -> _Sets:
        members = chosen.double()
        product = members @ self.gram
        return _Sets(
            chosen,
            (members * self.correlations).sum(1),
            (members * product).sum(1),
            product,
            members @ self.log_odds,
        )

    def changed(self, sets: _Sets, adds: bool) -> Tensor:
        """[B, M]: value of each set with (or without) one span more; −∞ where that cannot be."""
        sign = 1 if adds else -1
        found = self.value(
            sets.dot[:, None] + sign * self.correlations,
            sets.squared[:, None] + sign * 2 * sets.product + self.own,
            sets.odds[:, None] + sign * self.log_odds,
            (sets.chosen.sum(1, keepdim=True) + sign).expand_as(sets.product),
        )
        allowed = ~sets.chosen if adds else sets.chosen
        if not adds:
            allowed = allowed & (sets.chosen.sum(1, keepdim=True) > 1)
        return found.masked_fill(~allowed, -torch.inf)

    def swapped(self, sets: _Sets) -> tuple[Tensor, Tensor]:
        """[B, J, M]: value with a member replaced by another span; and the members [B, J]."""
        longest = int(sets.chosen.sum(1).max())
        members = sets.chosen.double().argsort(dim=1, descending=True, stable=True)[:, :longest]
        real = sets.chosen.gather(1, members)
        out_c, out_p = (each.gather(1, members) for each in (self.correlations, sets.product))
        dot = (sets.dot[:, None] - out_c)[..., None] + self.correlations[:, None]
        squared = (sets.squared[:, None] - 2 * out_p + self.own[members])[..., None] + (
            2 * sets.product[:, None] + self.own - 2 * self.gram[members]
        )
        odds = (sets.odds[:, None] - self.log_odds[members])[..., None] + self.log_odds
        size = sets.chosen.sum(1)[:, None, None].expand_as(dot)
        found = self.value(dot, squared, odds, size)
        allowed = real[..., None] & ~sets.chosen[:, None]
        return found.masked_fill(~allowed, -torch.inf), members

    def greedy(self, first: int) -> Tensor:
        """[B, M] bool: spans added one after the other, each the best then.

        Args:
            first: begin with the span that is best but for so many.
        """
        rows = torch.arange(len(self.energy))
        sets = self.of(torch.zeros_like(self.correlations, dtype=torch.bool))
        best = torch.full_like(self.energy, -torch.inf)
        kept = sets.chosen
        most = len(self.size_terms) - 1 if self.known is None else int(self.known.max())
        for step in range(1, most + 1):
            scores = self.changed(sets, adds=True)
            if step == 1:
                scores, order = scores.sort(dim=1, descending=True, stable=True)
                values, picks = scores[:, first], order[:, first]
            else:
                values, picks = scores.max(1)
            grown = sets.chosen.clone()
            grown[rows, picks] = True
            better = values > best if self.known is None else self.known >= step
            kept = torch.where(better[:, None], grown, kept)
            best = torch.where(better, values, best)
            sets = self.of(grown)
        return kept

    def climbed(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Sets no swap (nor, of unknown size, addition or removal) improves; and their value."""
        rows = torch.arange(len(chosen))
        for _ in range(_STEPS):
            sets = self.of(chosen)
            now = self.value(sets.dot, sets.squared, sets.odds, chosen.sum(1))
            swaps, members = self.swapped(sets)
            best, place = swaps.flatten(1).max(1)
            out = members.gather(1, (place // chosen.shape[1])[:, None])[:, 0]
            into = place % chosen.shape[1]
            new = chosen.clone()
            new[rows, out] = False
            new[rows, into] = True
            if self.known is None:
                for adds in (True, False):
                    value, pick = self.changed(sets, adds).max(1)
                    other = chosen.clone()
                    other[rows, pick] = adds
                    new = torch.where((value > best)[:, None], other, new)
                    best = torch.maximum(best, value)
            better = best > now + _TINY * now.abs() + _TINY
            if not bool(better.any()):
                break
            chosen = torch.where(better[:, None], new, chosen)
        return chosen, now


def most_likely(view: ServerView, prior: SpanPrior, sizes: Tensor | None = None) -> Tensor:
    """[B, M] bool: the set of highest posterior that the search finds.

    Spans are added greedily from each of several first spans, and each set is improved by swaps.

    Args:
        view: of B messages.
        prior: the attacker's.
        sizes: [B] int64, the number of spans where it is known, 1 to M; None to infer it.
    """
    found = []
    for start in range(0, len(view), _ROWS):
        search = _Search(view, prior, slice(start, start + _ROWS), sizes)
        chosen, best = search.climbed(search.greedy(0))
        for first in range(1, min(_STARTS, len(view.groups))):
            other, reached = search.climbed(search.greedy(first))
            chosen = torch.where((reached > best)[:, None], other, chosen)
            best = torch.maximum(reached, best)
        found.append(chosen)
    return torch.cat(found)
