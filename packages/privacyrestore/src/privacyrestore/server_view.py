"""All that a curious server has: the messages, the bank, and the law of the noise.

Whatever a mechanism sends, the part inside the bank's span and the length of the part outside of it
are all that depends on the spans (noise has no preferred direction), so attacks see those two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lipogram.errors import InvalidSetting
from privacyrestore.mechanisms import Full, Gaussian, Mechanism, ScalarCompat, Subspace
from privacyrestore.payload import SUBSPACE
from privacyrestore.restoration_bank import RestorationBank

LogDensity = Callable[[Tensor], Tensor]
"""Squared distance of message and signal to the log-density of the noise, up to a constant."""

_ROWS = 64
_EXACT = 1e-3
"""σ that stands for no noise: float32 vectors differ from their sums by less."""


@dataclass(frozen=True, eq=False)
class ServerView:
    """Messages as seen from the bank.

    Attributes:
        rows: [G, ρ] float64, the bank's vectors in the coordinates of its span.
        groups: [M] int64, the vector of each span.
        coordinates: [B, ρ] float64, the messages' part in that span.
        outside: [B] float64, the squared length of their other part.
        log_density: of the noise.
    """

    rows: Tensor
    groups: Tensor
    coordinates: Tensor
    outside: Tensor
    log_density: LogDensity

    @cached_property
    def correlations(self) -> Tensor:
        """[B, G]: inner products of messages and vectors."""
        return self.coordinates @ self.rows.T

    @cached_property
    def gram(self) -> Tensor:
        """[G, G]: inner products of the vectors."""
        return self.rows @ self.rows.T

    def __len__(self) -> int:
        return len(self.coordinates)


def simulated_view(
    bank: RestorationBank,
    mechanism: Mechanism,
    span_sets: Sequence[Sequence[int]],
    weights: Sequence[Sequence[float] | None] | None = None,
    *,
    releases: int = 1,
    seed: int = 0,
) -> ServerView:
    """What the server sees when each set of spans is sent through the mechanism.

    Args:
        bank: public.
        mechanism: draws the noise, as it does for a client.
        span_sets: B sets of span ids; an empty one sends noise alone.
        weights: of each set's spans; None for equal ones.
        releases: fresh releases of the same set that the server averages; 1 where the client keeps
            what it once released.
        seed: of the simulated noise.

    Raises:
        InvalidSetting: releases below 1, weights of another number, or as
            :meth:`RestorationBank.signal`.
    """
    coordinates, outside = [], []
    for start in range(0, len(span_sets), _ROWS):
        rows = range(start, min(start + _ROWS, len(span_sets)))
        messages = released(bank, mechanism, span_sets, weights, rows, releases=releases, seed=seed)
        seen = view_of(bank, mechanism, messages, releases=releases)
        coordinates.append(seen.coordinates)
        outside.append(seen.outside)
    return replace(seen, coordinates=torch.cat(coordinates), outside=torch.cat(outside))


def released(
    bank: RestorationBank,
    mechanism: Mechanism,
    span_sets: Sequence[Sequence[int]],
    weights: Sequence[Sequence[float] | None] | None,
    rows: Sequence[int],
    *,
    releases: int = 1,
    seed: int = 0,
) -> Tensor:
    """[len(rows), message_length] float64: the messages of some of the sets, means of `releases`.

    A row's noise depends on the seed and its number alone. Arguments and errors as
    :func:`simulated_view`.
    """
    if releases < 1:
        raise InvalidSetting(f"releases is {releases}, it must be at least 1")
    if weights is not None and len(weights) != len(span_sets):
        raise InvalidSetting(f"{len(weights)} lists of weights for {len(span_sets)} sets")
    sender = in_its_span(bank) if mechanism.name in SUBSPACE else bank
    messages = []
    for row in rows:
        signal = sender.signal(span_sets[row], None if weights is None else weights[row])
        drawn = [
            mechanism.release(sender, signal, _seed(seed, row, number))
            for number in range(releases)
        ]
        messages.append(torch.stack(drawn).mean(0))
    return torch.stack(messages)


def view_of(
    bank: RestorationBank, mechanism: Mechanism, messages: Tensor, *, releases: int = 1
) -> ServerView:
    """What the server makes of messages [B, message_length], each the mean of `releases`."""
    if mechanism.name in SUBSPACE:
        inside, outside = messages, messages.new_zeros(len(messages))
    else:
        inside = bank.coordinates(messages)
        outside = (messages.square().sum(1) - inside.square().sum(1)).clamp_min(0)
    return ServerView(
        bank.coordinates(bank.vectors.flatten(1)),
        torch.tensor(bank.groups),
        inside,
        outside,
        noise_law(bank, mechanism, releases),
    )


def noise_law(bank: RestorationBank, mechanism: Mechanism, releases: int = 1) -> LogDensity:
    """The log-density of a mechanism's noise by squared length.

    The mean of several releases is taken for Gaussian, with the variance that it has: the sum of
    many directions is one.
    """
    if isinstance(mechanism, (Full, Subspace)):
        size = bank.n if isinstance(mechanism, Full) else bank.rank
        epsilon = mechanism.epsilon
        if releases == 1:
            return lambda squared: -epsilon * squared.clamp_min(0).sqrt()
        variance = (size + 1) / epsilon**2 / releases
    elif isinstance(mechanism, Gaussian):
        variance = mechanism.sigma(bank) ** 2 / releases
    elif isinstance(mechanism, ScalarCompat):
        along = float(bank.basis.double().sum(0).square().sum())
        variance = max(along * 2 / mechanism.epsilon**2 / releases / bank.rank, _EXACT**2)
    else:
        variance = _EXACT**2
    return lambda squared: squared / (-2 * variance)


def in_its_span(bank: RestorationBank) -> RestorationBank:
    """The bank in the ρ coordinates of its span, as if of one head: the same signals, shorter.

    Mechanisms of the subspace release the same of both. Where rounding would change the diameter,
    which noise depends on, the bank itself.
    """
    rows = bank.coordinates(bank.vectors.flatten(1))
    small = replace(
        bank,
        vectors=rows[:, None].float(),
        sites=((0, 0),),
        model=replace(bank.model, head_dim=bank.rank),
        basis=torch.eye(bank.rank),
    )
    return small if small.diameter == bank.diameter else bank


def _seed(*parts: int) -> int:
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big")
