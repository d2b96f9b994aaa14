"""What a curious server recovers from the messages of clients, measured on simulated releases.

The attacker is the server: it has the bank, the mechanism with its ε, and the span sets of other
clients of the same kind. Whoever can restore can also decode, so ε alone does not say who is
protected: this does, for the spans and the prior at hand.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from privacyrestore.guarantee import Guarantee
from privacyrestore.mechanisms import Mechanism
from privacyrestore.recovery_scores import Recovery, recovery
from privacyrestore.restoration_bank import RestorationBank
from privacyrestore.server_view import ServerView, simulated_view
from privacyrestore.span_attacks import RECOVERY_ATTACKS, Fold, fold_parts, folds_of, guesses
from privacyrestore.span_prior import indicators

ATTACKS = (*RECOVERY_ATTACKS, "attribute")
SIMULATED = 1000
"""Releases that an attacker simulates to fit its probes."""


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
    if weights is not None and len(weights) != len(span_sets):
        raise InvalidSetting(f"{len(weights)} lists of weights for {len(span_sets)} sets")
    kept = [row for row, spans in enumerate(span_sets) if len(spans)]
    if len(kept) < 2:
        raise InvalidProbes(f"{len(kept)} queries have spans; an audit needs two or more")
    sets = [tuple(span_sets[row]) for row in kept]
    own = None if weights is None else [weights[row] for row in kept]
    true = indicators(sets, len(bank.vocabulary))
    folds = folds_of(sets, len(bank.vocabulary), prior_sets, seed)

    def view(n_releases: int, sub_seed: int) -> ServerView:
        return simulated_view(
            bank,
            mechanism,
            sets * repeats,
            None if own is None else own * repeats,
            releases=n_releases,
            seed=sub_seed,
        )

    def recovered(seen: ServerView) -> dict[str, Recovery]:
        found, frequencies = guesses(guessing, seen, true.sum(1).repeat(repeats), folds, seed=seed)
        return {
            name: recovery(guessed, true, frequencies, repeats=repeats, seed=seed)
            for name, guessed in found.items()
        }

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
        recovered(seen),
        attribute,
        releases,
        {} if releases == 1 else recovered(view(releases, seed)),
        _spent(guarantee, releases),
    )


def _attribute(
    bank: RestorationBank,
    mechanism: Mechanism,
    seen: ServerView,
    true: Tensor,
    folds: list[Fold],
    attributes: Sequence[Sequence[int]],
    repeats: int,
    seed: int,
) -> AttributeInference:
    present = presence(true, attributes)
    scores = torch.empty(len(seen), len(attributes), dtype=torch.float64)
    for number, (rows, part) in enumerate(fold_parts(seen, folds)):
        held = folds[number].prior.sets
        drawn = torch.randint(
            len(held), (SIMULATED // len(folds),), generator=rng(f"audit, part {number}", seed)
        )
        known = [held[i] for i in drawn.tolist()]
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
