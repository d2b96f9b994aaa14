"""What a curious server recovers from the messages of clients, measured on simulated releases.

The attacker is the server: it has the bank, the mechanism with its ε, and the span sets of other
clients of the same kind. Whoever can restore can also decode, so ε alone does not say who is
protected: this does, for the spans and the prior at hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lipogram.errors import InvalidProbes, InvalidSetting
from lipogram.llm import rng
from privacyrestore.accounting import Release, Spent, spent
from privacyrestore.attribute_inference import (
    AttributeInference,
    attribute_inference,
    frequent_attributes,
    presence,
    probe_scores,
)
from privacyrestore.audit_report import AuditReport
from privacyrestore.embedding_inversion import inverted
from privacyrestore.guarantee import Guarantee
from privacyrestore.likelihood_recovery import most_likely
from privacyrestore.mechanisms import Mechanism
from privacyrestore.recovery_scores import Recovery, recovery
from privacyrestore.restoration_bank import RestorationBank
from privacyrestore.server_view import ServerView, simulated_view
from privacyrestore.span_prior import SpanPrior, indicators
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
ATTACKS = (*RECOVERY_ATTACKS, "attribute")
SIMULATED = 1000
"""Releases that an attacker simulates to fit its probes."""


@dataclass(frozen=True, eq=False)
class _Fold:
    """Queries that are attacked with one prior.

    Attributes:
        rows: which queries.
        prior: from sets that are not among them.
    """

    rows: Tensor
    prior: SpanPrior


def audit(
    bank: RestorationBank,
    mechanism: Mechanism,
    span_sets: Sequence[Sequence[int]],
    weights: Sequence[Sequence[float] | None] | None = None,
    attacks: Sequence[str] = ATTACKS,
    *,
    repeats: int = 1,
    releases: int = 1,
    prior_sets: Sequence[Sequence[int]] | None = None,
    attributes: Sequence[Sequence[int]] | None = None,
    seed: int = 0,
) -> AuditReport:
    """Send span sets through the mechanism and attack what arrives.

    Each query is released once, as by a client that keeps its releases and repeats them. Intervals
    are over queries.

    Args:
        bank: public.
        mechanism: as a client would use it.
        span_sets: the spans of each query, at least two queries with spans.
        weights: of each query's spans; None for equal ones, which the attacks assume.
        attacks: of `ATTACKS`, at least one that recovers spans.
        repeats: simulations of each query.
        releases: R > 1 also attacks the mean of R fresh releases of each query.
        prior_sets: sets of other clients that the attacker knows; None to take, for each half of
            the queries, the other half.
        attributes: sets of spans, any of which makes an attribute present; None for the most
            frequent spans.
        seed: of noise, halves and bootstrap. The simulated noise is no client's.

    Raises:
        InvalidSetting: an unknown attack or span, weights that do not fit, repeats or releases
            below 1.
        InvalidProbes: too few queries with spans.
    """
    _check(attacks, repeats, releases)
    kept = [row for row, spans in enumerate(span_sets) if len(spans)]
    if len(kept) < 2:
        raise InvalidProbes(f"{len(kept)} queries have spans; an audit needs two or more")
    sets = [tuple(span_sets[row]) for row in kept]
    own = None if weights is None else [weights[row] for row in kept]
    true = indicators(sets, len(bank.vocabulary))
    folds = _folds(sets, len(bank.vocabulary), prior_sets, seed)

    def view(n_releases: int, sub_seed: int) -> ServerView:
        return simulated_view(
            bank,
            mechanism,
            sets * repeats,
            None if own is None else own * repeats,
            releases=n_releases,
            seed=sub_seed,
        )

    guessing = [name for name in RECOVERY_ATTACKS if name in attacks]
    seen = view(1, seed)
    attribute = None
    if "attribute" in attacks:
        wanted = attributes or frequent_attributes(folds[0].prior)
        attribute = _attribute(bank, mechanism, seen, true, folds, wanted, repeats, seed)
    guarantee = mechanism.guarantee(bank)
    return AuditReport(
        bank.sha256,
        len(bank.vocabulary),
        len(bank.vectors),
        guarantee,
        _spent(guarantee, 1),
        len(sets),
        len(span_sets) - len(sets),
        repeats,
        _recoveries(guessing, seen, true, folds, repeats, seed),
        attribute,
        releases,
        {}
        if releases == 1
        else _recoveries(guessing, view(releases, seed), true, folds, repeats, seed),
        _spent(guarantee, releases),
    )


def _folds(
    sets: list[tuple[int, ...]],
    n_spans: int,
    prior_sets: Sequence[Sequence[int]] | None,
    seed: int,
) -> list[_Fold]:
    if prior_sets is not None:
        return [_Fold(torch.arange(len(sets)), SpanPrior.of(prior_sets, n_spans))]
    order = np.random.default_rng([seed, len(sets)]).permutation(len(sets))
    halves = order[: len(sets) // 2], order[len(sets) // 2 :]
    return [
        _Fold(torch.from_numpy(np.sort(rows)), SpanPrior.of([sets[i] for i in other], n_spans))
        for rows, other in (halves, halves[::-1])
    ]


def _parts(
    seen: ServerView, folds: list[_Fold], repeats: int
) -> Iterator[tuple[Tensor, ServerView, SpanPrior]]:
    """Of each fold: its rows in the view, all repeats of them, and its prior."""
    n = len(seen) // repeats
    for fold in folds:
        rows = (torch.arange(repeats)[:, None] * n + fold.rows).flatten()
        part = replace(seen, coordinates=seen.coordinates[rows], outside=seen.outside[rows])
        yield rows, part, fold.prior


def _recoveries(
    attacks: Sequence[str],
    seen: ServerView,
    true: Tensor,
    folds: list[_Fold],
    repeats: int,
    seed: int,
) -> dict[str, Recovery]:
    sizes = true.sum(1).repeat(repeats)
    frequencies = torch.empty(true.shape, dtype=torch.float64)
    guesses = {name: torch.zeros(len(seen), true.shape[1], dtype=torch.bool) for name in attacks}
    for (rows, part, prior), fold in zip(_parts(seen, folds, repeats), folds, strict=True):
        frequencies[fold.rows] = prior.frequencies
        for name in attacks:
            guesses[name][rows] = guess(name, part, prior, sizes[rows], seed=seed)
    return {
        name: recovery(guessed, true, frequencies, repeats=repeats, seed=seed)
        for name, guessed in guesses.items()
    }


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


def _attribute(
    bank: RestorationBank,
    mechanism: Mechanism,
    seen: ServerView,
    true: Tensor,
    folds: list[_Fold],
    attributes: Sequence[Sequence[int]],
    repeats: int,
    seed: int,
) -> AttributeInference:
    present = presence(true, attributes)
    scores = torch.empty(len(seen), len(attributes), dtype=torch.float64)
    for number, (rows, part, prior) in enumerate(_parts(seen, folds, repeats)):
        drawn = torch.randint(
            len(prior.sets), (SIMULATED,), generator=rng(f"audit, part {number}", seed)
        )
        known = [prior.sets[i] for i in drawn.tolist()]
        train = simulated_view(bank, mechanism, known, seed=seed + 1 + number)
        labels = presence(indicators(known, true.shape[1]), attributes)
        scores[rows] = probe_scores(train, labels, part)
    return attribute_inference(scores, present, attributes, repeats=repeats, seed=seed)


def _spent(guarantee: Guarantee, releases: int) -> Spent:
    return spent([Release(guarantee.local_epsilon, guarantee.delta)] * releases)


def _check(attacks: Sequence[str], repeats: int, releases: int) -> None:
    if unknown := [name for name in attacks if name not in ATTACKS]:
        raise InvalidSetting(f"no attack {unknown[0]!r}; there are {'; '.join(ATTACKS)}")
    if not set(attacks) & set(RECOVERY_ATTACKS):
        raise InvalidSetting("an audit needs an attack that recovers spans, such as 'likelihood'")
    if repeats < 1 or releases < 1:
        raise InvalidSetting(f"repeats {repeats} and releases {releases} must be at least 1")
