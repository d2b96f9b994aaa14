"""The attacks that guess a set of spans, by name, and with what the attacker knew before.

A prior must not come from the queries it is used on: else it knows of them what no server knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lipogram.errors import InvalidSetting
from privacyrestore.embedding_inversion import inverted
from privacyrestore.likelihood_recovery import most_likely
from privacyrestore.server_view import ServerView
from privacyrestore.span_prior import SpanPrior
from privacyrestore.span_recovery import dictionary, least_squares, likeliest, non_negative

RECOVERY_ATTACKS = (
    "dictionary",
    "least-squares",
    "non-negative",
    "inversion",
    "likelihood",
    "likelihood, size unknown",
)
"""Attacks that guess the set; all but the last are told how many spans there are."""


@dataclass(frozen=True, eq=False)
class Fold:
    """Queries that are attacked with one prior.

    Attributes:
        rows: which queries.
        prior: from sets that are not among them.
    """

    rows: Tensor
    prior: SpanPrior


def folds_of(
    sets: Sequence[tuple[int, ...]],
    n_spans: int,
    prior_sets: Sequence[Sequence[int]] | None,
    seed: int,
) -> list[Fold]:
    """All queries with a prior of `prior_sets`, or each half of them with that of the other half.

    Raises:
        InvalidSetting, InvalidProbes: as :meth:`SpanPrior.of`.
    """
    if prior_sets is not None:
        return [Fold(torch.arange(len(sets)), SpanPrior.of(prior_sets, n_spans))]
    order = np.random.default_rng([seed, len(sets)]).permutation(len(sets))
    halves = order[: len(sets) // 2], order[len(sets) // 2 :]
    return [
        Fold(torch.from_numpy(np.sort(rows)), SpanPrior.of([sets[i] for i in other], n_spans))
        for rows, other in (halves, halves[::-1])
    ]


def fold_parts(seen: ServerView, folds: Sequence[Fold]) -> Iterator[tuple[Tensor, ServerView]]:
    """Of each fold: its rows in the view, of every round of queries, and the view of them."""
    n = sum(len(fold.rows) for fold in folds)
    for fold in folds:
        rows = (torch.arange(0, len(seen), n)[:, None] + fold.rows).flatten()
        yield rows, replace(seen, coordinates=seen.coordinates[rows], outside=seen.outside[rows])


def guess(
    attack: str, view: ServerView, prior: SpanPrior, sizes: Tensor, *, seed: int = 0
) -> Tensor:
    """[B, M] bool: the spans that an attack takes to be behind each message.

    Args:
        attack: of `RECOVERY_ATTACKS`.
        view: of B messages.
        prior: the attacker's.
        sizes: [B] int64, how many spans there are; not used where the size is unknown.
        seed: of the starts of the inversion.

    Raises:
        InvalidSetting: another attack.
    """
    if attack == "likelihood, size unknown":
        return most_likely(view, prior)
    if attack == "likelihood":
        return most_likely(view, prior, sizes)
    if attack == "inversion":
        return likeliest(inverted(view, seed=seed), view.groups, prior, sizes)
    scores = {
        "dictionary": dictionary,
        "least-squares": least_squares,
        "non-negative": non_negative,
    }
    if attack not in scores:
        raise InvalidSetting(f"no attack {attack!r}; there are {'; '.join(RECOVERY_ATTACKS)}")
    return likeliest(scores[attack](view), view.groups, prior, sizes)


def guesses(
    attacks: Sequence[str], seen: ServerView, sizes: Tensor, folds: Sequence[Fold], *, seed: int = 0
) -> tuple[dict[str, Tensor], Tensor]:
    """What each attack guesses, [B, M] bool, and the frequencies it goes by, [n, M].

    Args:
        attacks: of `RECOVERY_ATTACKS`.
        seen: B messages: n queries, or several rounds of them.
        sizes: [B] int64, how many spans each has.
        folds: of the n queries.
        seed: as :func:`guess`.
    """
    found = {name: torch.zeros(len(seen), len(seen.groups), dtype=torch.bool) for name in attacks}
    n = sum(len(fold.rows) for fold in folds)
    frequencies = torch.empty(n, len(seen.groups), dtype=torch.float64)
    for fold, (rows, part) in zip(folds, fold_parts(seen, folds), strict=True):
        frequencies[fold.rows] = fold.prior.frequencies
        for name in attacks:
            found[name][rows] = guess(name, part, fold.prior, sizes[rows], seed=seed)
    return found, frequencies
