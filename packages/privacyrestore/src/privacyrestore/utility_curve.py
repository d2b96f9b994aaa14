"""Use against leak: what an answer gains and what an attacker recovers, for each mechanism and ε.

ε is not comparable between mechanisms, rules of restoration or banks; what an attacker recovers is.
So two ways are compared by their utility where the strongest attack recovers as much from both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipogram.errors import InvalidProbes, InvalidSetting
from privacyrestore.audit_report import spoken
from privacyrestore.curve_figure import plot_curve as plot_curve
from privacyrestore.mechanisms import Mechanism
from privacyrestore.recovery_scores import Interval, resampled, set_scores
from privacyrestore.restoration_bank import RestorationBank
from privacyrestore.server_view import released, view_of
from privacyrestore.span_attacks import RECOVERY_ATTACKS, folds_of, guesses
from privacyrestore.span_prior import indicators

Floats = NDArray[np.float64]
_LEAST_SHARE = 0.95
"""Of draws, that must reach a recovery on both curves for an interval there."""


@dataclass(frozen=True, eq=False)
class CurvePoint:
    """One mechanism at one ε.

    Attributes:
        mechanism: its name.
        epsilon: metric ε; for `gaussian` the ε of its (ε, δ); None where there is none.
        local_epsilon: the worst case over any two inputs that comes with it.
        utility: the mean of what `evaluate` gave.
        utility_interval: 95 %, over queries.
        recovery: recall of the strongest attack.
        recovery_interval: 95 %, over queries.
        attack: which attack that was.
        utilities: [B] of each query.
        recalls: [B] of each query; NaN where it has no spans.
    """

    mechanism: str
    epsilon: float | None
    local_epsilon: float
    utility: float
    utility_interval: tuple[float, float]
    recovery: float
    recovery_interval: tuple[float, float]
    attack: str
    utilities: Floats = field(repr=False)
    recalls: Floats = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """As names and values that JSON has."""
        return {
            "mechanism": self.mechanism,
            "epsilon": self.epsilon,
            "worst_case_local_epsilon": spoken(self.local_epsilon),
            "utility": self.utility,
            "utility_interval": list(self.utility_interval),
            "recovery": self.recovery,
            "recovery_interval": list(self.recovery_interval),
            "attack": self.attack,
        }


@dataclass(frozen=True)
class EqualRecovery:
    """Two curves where the same share of spans is recovered.

    Attributes:
        recovery: that share.
        a: utility of the first curve there, between its neighbouring points; None out of reach.
        b: that of the second.
        difference: a − b with its paired interval; None where one is out of reach.
    """

    recovery: float
    a: float | None
    b: float | None
    difference: Interval | None


def utility_recovery_curve(
    bank: RestorationBank,
    mechanisms: Sequence[Mechanism],
    evaluate: Callable[[Tensor], Tensor],
    span_sets: Sequence[Sequence[int]],
    weights: Sequence[Sequence[float] | None] | None = None,
    *,
    attacks: Sequence[str] = RECOVERY_ATTACKS[:-1],
    prior_sets: Sequence[Sequence[int]] | None = None,
    seed: int = 0,
) -> list[CurvePoint]:
    """Send each query once through each mechanism; use, and attack, the same messages.

    Args:
        bank: public.
        mechanisms: each with its ε.
        evaluate: from what the server restores with, [B, n] float32, row i for query i, to the
            utility of each answer, [B].
        span_sets: of B queries; those without spans count for the utility alone.
        weights: of each query's spans; None for equal ones.
        attacks: that are told how many spans there are; the strongest counts.
        prior_sets: as for :func:`privacyrestore.auditing.audit`.
        seed: of noise, halves and bootstrap; the same noise, scaled, at each ε.

    Raises:
        InvalidSetting: no mechanism, an attack that is none of those, or utilities of another
            shape.
        InvalidProbes: fewer than two queries with spans.
    """
    if not mechanisms or not attacks or not set(attacks) <= set(RECOVERY_ATTACKS[:-1]):
        raise InvalidSetting(
            f"there must be mechanisms, and attacks of {', '.join(RECOVERY_ATTACKS[:-1])}"
        )
    kept = [row for row, spans in enumerate(span_sets) if len(spans)]
    if len(kept) < 2:
        raise InvalidProbes(f"{len(kept)} queries have spans; a curve needs two or more")
    sets = [tuple(span_sets[row]) for row in kept]
    true = indicators(sets, len(bank.vocabulary))
    folds = folds_of(sets, len(bank.vocabulary), prior_sets, seed)
    points = []
    for mechanism in mechanisms:
        messages = released(bank, mechanism, span_sets, weights, range(len(span_sets)), seed=seed)
        seen = view_of(bank, mechanism, messages[kept])
        found, _ = guesses(attacks, seen, true.sum(1), folds, seed=seed)
        recalls = {name: set_scores(guessed, true)["recall"] for name, guessed in found.items()}
        strongest = max(recalls, key=lambda name: float(recalls[name].mean()))
        all_recalls = np.full(len(span_sets), np.nan)
        all_recalls[kept] = recalls[strongest].numpy()
        utilities = evaluate(mechanism.restore(bank, messages).float()).double().cpu()
        if utilities.shape != (len(span_sets),) or not bool(torch.isfinite(utilities).all()):
            raise InvalidSetting(
                f"evaluate gave {list(utilities.shape)}; it must give {len(span_sets)} finite "
                "numbers"
            )
        guarantee = mechanism.guarantee(bank)
        points.append(
            CurvePoint(
                mechanism.name,
                getattr(mechanism, "epsilon", None),
                guarantee.local_epsilon,
                float(utilities.mean()),
                _interval(utilities.numpy(), seed),
                float(np.nanmean(all_recalls)),
                _interval(all_recalls, seed),
                strongest,
                utilities.numpy(),
                all_recalls,
            )
        )
    return points


def at_equal_recovery(
    curve_a: Sequence[CurvePoint],
    curve_b: Sequence[CurvePoint],
    levels: Sequence[float],
    *,
    seed: int = 0,
) -> list[EqualRecovery]:
    """Utilities of two curves at equal recovery, and what the choice of queries may have done.

    Each curve's points, by recovery, are joined by straight lines. Queries are drawn again, the
    same for both curves, and both are computed anew (paired bootstrap, 95 %).

    Args:
        curve_a: points over the same B queries.
        curve_b: points over the same B queries.
        levels: recoveries to compare at.
        seed: of the bootstrap.

    Raises:
        InvalidSetting: an empty curve, or curves over different numbers of queries.
    """
    sizes = {len(point.utilities) for point in (*curve_a, *curve_b)}
    if not curve_a or not curve_b or len(sizes) != 1:
        raise InvalidSetting("both curves need points, all over the same queries")
    n = sizes.pop()
    draws = np.concatenate([np.ones((1, n)), resampled(n, seed)])
    a, b = (_read(curve, draws, np.asarray(levels, dtype=float)) for curve in (curve_a, curve_b))
    found = []
    for place, level in enumerate(levels):
        gaps = a[:, place] - b[:, place]
        finite = np.isfinite(gaps)
        difference = None
        if finite[0] and finite.mean() >= _LEAST_SHARE:
            low, high = np.quantile(gaps[1:][finite[1:]], [0.025, 0.975])
            difference = Interval(float(gaps[0]), float(low), float(high))
        first, second = (
            float(each[0, place]) if np.isfinite(each[0, place]) else None for each in (a, b)
        )
        found.append(EqualRecovery(float(level), first, second, difference))
    return found


def _means(values: Floats, draws: Floats) -> Floats:
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):  # a draw of queries without spans alone
        return np.asarray(draws[:, known] @ values[known] / draws[:, known].sum(1))


def _interval(values: Floats, seed: int) -> tuple[float, float]:
    low, high = np.nanquantile(_means(values, resampled(len(values), seed)), [0.025, 0.975])
    return float(low), float(high)


def _read(curve: Sequence[CurvePoint], draws: Floats, levels: Floats) -> Floats:
    """[draws, levels]: utility at each recovery, NaN beyond the curve's ends."""
    recoveries = np.stack([_means(point.recalls, draws) for point in curve], 1)
    utilities = np.stack([_means(point.utilities, draws) for point in curve], 1)
    order = np.lexsort((utilities, recoveries), axis=1)
    recoveries, utilities = (np.take_along_axis(each, order, 1) for each in (recoveries, utilities))
    return np.stack(
        [
            np.interp(levels, x, y, left=np.nan, right=np.nan)
            for x, y in zip(recoveries, utilities, strict=True)
        ]
    )
