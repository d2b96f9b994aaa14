"""Membership inference: can records that were trained on be told from others by their losses?

Three attacks. "loss" takes a low loss for a sign of training (Yeom et al., "Privacy Risk in Machine
Learning", CSF 2018). "reference" compares it with the loss under a model that was not trained on
any of them, so that easy texts do not look like known ones (Watson et al., "On the Importance of
Difficulty Calibration in Membership Inference Attacks", ICLR 2022). A difference is noisier than
one loss where the reference is a poor model of the texts: "calibrated" weighs the reference by
least squares over all records, members and others alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipogram.analytic.settings import whole
from lipogram.errors import InvalidSetting, NotFinite
from rewardds.one_run_audit import score_and_coin

if TYPE_CHECKING:
    from rewardds.losses import RecordLoss
    from rewardds.rows import Row

FALSE_POSITIVE_RATES = (0.01, 0.05, 0.1)
Z = 1.959964  # of a 95 % interval
END = 1e-12


@dataclass(frozen=True)
class Membership:
    """How well scores tell members from others.

    Attributes:
        auc: P(a > b) + P(a = b)/2 for a member's score a and another's b; 0.5 is chance.
        low, high: its 95 % interval.
        true_positives: by rate of false positives, the share of members whose score is above that
            of all others but at most this rate of them.
        exposure: mean over members of log2 N − log2(rank), in bits, for a member's rank among
            itself and the others, N together (Carlini et al., "The Secret Sharer", USENIX Security
            2019).
        exposure_by_chance: its expectation where members are not told from others.
        members: how many.
        others: how many.
    """

    auc: float
    low: float
    high: float
    true_positives: Mapping[float, float]
    exposure: float
    exposure_by_chance: float
    members: int
    others: int


def attack_membership(
    scores: ArrayLike,
    included: Sequence[bool] | NDArray[np.bool_],
    *,
    rates: Sequence[float] = FALSE_POSITIVE_RATES,
) -> Membership:
    """Measure an attack's scores.

    Args:
        scores: (m,), higher where a record looks trained on.
        included: (m,) whether it was.
        rates: of false positives, each in [0, 1).

    Raises:
        InvalidSetting: shapes, coins or rates that are none, or no members or nothing but them.
        NotFinite: a score that is NaN.
    """
    values, coins = score_and_coin(scores, included)
    if bad := [rate for rate in rates if not 0 <= rate < 1]:
        raise InvalidSetting(f"a rate of false positives is {bad[0]!r}, it must be in [0, 1)")
    members, others = values[coins], np.sort(values[~coins])
    if not len(members) or not len(others):
        raise InvalidSetting(
            f"{len(members)} members and {len(others)} others: one of each is needed at least"
        )
    above = len(others) - np.searchsorted(others, members, side="right")
    up_to = len(others) - np.searchsorted(others, members, side="left")
    auc = 1 - float((above + up_to).mean()) / (2 * len(others))
    low, high = auc_interval(auc, len(members), len(others))
    size = len(others) + 1
    found = {}
    for rate in rates:
        threshold = others[len(others) - 1 - math.floor(rate * len(others) + 1e-9)]
        found[float(rate)] = float((members > threshold).mean())
    return Membership(
        auc,
        low,
        high,
        found,
        math.log2(size) - float(np.log2(1 + up_to).mean()),
        math.log2(size) - math.lgamma(size + 1) / math.log(2) / size,
        len(members),
        len(others),
    )


def auc_interval(auc: float, members: int, others: int) -> tuple[float, float]:
    """95 % interval of an area under the curve, also where it is 0 or 1.

    Those areas from which the one that was found is no more than 1.96 standard deviations away,
    with the deviation of Hanley and McNeil (1982) at the area itself (Newcombe, Statistics in
    Medicine 25:559, 2006, method 5).
    """
    mean = (members + others) / 2 - 1

    def outside(area: float) -> float:
        spread = 1 + mean * ((1 - area) / (2 - area) + area / (1 + area))
        return (area - auc) ** 2 - Z * Z * area * (1 - area) * spread / (members * others)

    from scipy.optimize import brentq

    # At 0 and 1 nothing varies, so an end that was found is a root besides the one in between.
    low = 0.0 if auc <= 0 else float(brentq(outside, 0.0, min(auc, 1 - END)))
    high = 1.0 if auc >= 1 else float(brentq(outside, max(auc, END), 1.0))
    return low, high


def attack_scores(
    losses: ArrayLike, reference: ArrayLike | None = None
) -> dict[str, NDArray[np.float64]]:
    """Scores (m,) of the attacks, by name; "loss" alone where there is no reference.

    Args:
        losses: (m,) under the trained model.
        reference: (m,) under a model trained on none of the records.

    Raises:
        InvalidSetting: losses of two lengths.
        NotFinite: losses that are NaN or infinite.
    """
    own = _finite("losses", losses)
    found = {"loss": -own}
    if reference is not None:
        other = _finite("reference losses", reference)
        if own.shape != other.shape:
            raise InvalidSetting(
                f"losses {own.shape}, reference losses {other.shape}: one a record"
            )
        found["reference"] = other - own
        found["calibrated"] = -own if other.std() == 0 else _unexplained(-own, -other)
    return found


def row_losses(
    model: Any,
    rows: Sequence[Row],
    loss: RecordLoss,
    *,
    batch_size: int = 16,
    pad_id: int = 0,
    bucket: int = 32,
) -> NDArray[np.float64]:
    """(m,) losses of rows, as they are trained, under a model that is not trained here.

    Under adapters, `with model.disable_adapter():` gives those of the base, a reference.

    Args:
        model: what `loss` takes, on its device.
        rows: m.
        loss: as the model was trained with.
        batch_size: rows at once.
        pad_id: what fills.
        bucket: lengths are multiples of it, in tokens.

    Raises:
        InvalidSetting: no rows, or a size below 1.
    """
    from lipogram.llm.forward import evaluating
    from rewardds.rows import collate

    whole("batch_size", batch_size)
    if not rows:
        raise InvalidSetting("there are no rows to take losses of")
    device = next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
    found = np.empty(len(rows))
    with evaluating(model):
        for start in range(0, len(rows), batch_size):
            places = order[start : start + batch_size]
            batch = collate([rows[place] for place in places], pad_id=pad_id, bucket=bucket)
            found[places] = loss(model, batch.to(device)).double().cpu().numpy()
    return found


def _unexplained(own: NDArray[np.float64], by: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = by - by.mean()
    return own - centred * float(centred @ own) / float(centred @ centred)


def _finite(name: str, values: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not len(found):
        raise InvalidSetting(f"{name} have the shape {found.shape}, they must be (m,)")
    if bad := np.flatnonzero(~np.isfinite(found)).tolist():
        raise NotFinite(f"{len(bad)} {name} are not finite, the first is that of row {bad[0]}")
    return found
