"""What an audit with canaries found, beside the ε that is claimed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipogram.errors import InvalidSetting
from rewardds.canaries import Canaries
from rewardds.membership_test import Membership, attack_membership, attack_scores
from rewardds.one_run_audit import OneRunBound, audit_one_run
from rewardds.text_overlap import TextOverlap


@dataclass(frozen=True)
class AuditReport:
    """An audit of one training, or of several that are accounted together.

    Attributes:
        epsilon: ε that is claimed; infinite where nothing is.
        delta: δ of claim and bound.
        bound: what the canaries prove.
        attacks: how well each attack tells canaries, by "proxy: attack", and by "all" the score
            that the bound was computed from.
        overlap: of the released texts with the private ones; None where nobody looked.
    """

    epsilon: float
    delta: float
    bound: OneRunBound
    attacks: Mapping[str, Membership]
    overlap: TextOverlap | None = None

    @property
    def holds(self) -> bool:
        """Whether nothing that was found contradicts the claim: it proves no claim."""
        return self.bound.epsilon <= self.epsilon and (self.overlap is None or self.overlap.clean)

    def sentence(self) -> str:
        """Claim, bound, and what the bound could have been."""
        bound, told = self.bound, self.attacks["all"]
        claim = f"ε = {self.epsilon:.3g}" if math.isfinite(self.epsilon) else "no ε"
        text = (
            f"Claimed: {claim} at δ = {self.delta:.3g}. {bound.canaries} canaries prove "
            f"ε ≥ {bound.epsilon:.2f} at {bound.confidence:.0%} confidence ({bound.correct} of "
            f"{bound.guesses} guesses right; all right would prove {bound.highest:.2f}); planted "
            f"ones are told with an area under the curve of {told.auc:.3f} ({told.low:.3f} to "
            f"{told.high:.3f}; chance 0.500)."
        )
        if bound.epsilon > self.epsilon:
            text += " The claim is false."
        if self.overlap is not None:
            text += f" Released texts: {self.overlap.sentence()}"
        return text

    def as_json(self) -> dict[str, Any]:
        """As names and values that JSON has. Record ids of an overlap are left out."""
        found = self.overlap
        return {
            "epsilon": "infinite" if math.isinf(self.epsilon) else self.epsilon,
            "delta": self.delta,
            "holds": self.holds,
            "bound": asdict(self.bound),
            "attacks": {
                name: asdict(attack)
                | {"true_positives": {f"{k:g}": v for k, v in attack.true_positives.items()}}
                for name, attack in self.attacks.items()
            },
            "overlap": found
            and {
                "n": found.n,
                "texts": found.texts,
                "grams": found.grams,
                "private_grams": sum(hit.grams for hit in found.hits),
                "short": found.short,
            },
        }

    def to_json(self) -> str:
        """:meth:`as_json` as text."""
        return json.dumps(self.as_json(), indent=2, allow_nan=False)


def audit_canaries(
    canaries: Canaries,
    losses: Mapping[str, ArrayLike],
    references: Mapping[str, ArrayLike] | None = None,
    *,
    epsilon: float,
    delta: float,
    confidence: float = 0.95,
    overlap: TextOverlap | None = None,
) -> AuditReport:
    """Attack the canaries of a training whose outcome is at hand.

    The bound is on the joint ε of all proxies: it guesses from the sum of their scores, each
    divided by its own standard deviation. A proxy with reference losses is scored by its
    "calibrated" attack, another by "loss".

    Args:
        canaries: that were planted in the set all proxies were trained on.
        losses: by proxy, (m,) losses of the canaries under it, planted or not; see
            :func:`rewardds.membership_test.row_losses`.
        references: by proxy, (m,) losses under the model before it was trained.
        epsilon: ε that is claimed for all proxies together; infinite for none.
        delta: its δ.
        confidence: of the bound, in (0, 1).
        overlap: a scan of what is released.

    Raises:
        InvalidSetting: no losses, losses or references that do not fit the canaries, all canaries
            planted or none, an ε below 0, or a setting outside its range.
        NotFinite: losses that are NaN or infinite.
    """
    references = references or {}
    if not losses or (unknown := sorted({*references} - {*losses})):
        named = "there are no losses" if not losses else f"no losses of {unknown[0]!r}"
        raise InvalidSetting(f"{named}: an audit needs those of each proxy")
    if not epsilon >= 0:
        raise InvalidSetting(f"epsilon is {epsilon!r}, it must be at least 0")
    attacks = {}
    total: NDArray[np.float64] = np.zeros(len(canaries))
    for proxy, own in losses.items():
        scores = attack_scores(own, references.get(proxy))
        for name, score in scores.items():
            if len(score) != len(canaries):
                raise InvalidSetting(f"{len(score)} losses of {proxy} for {len(canaries)} canaries")
            attacks[f"{proxy}: {name}"] = attack_membership(score, canaries.included)
        total += _scaled(scores.get("calibrated", scores["loss"]))
    attacks["all"] = attack_membership(total, canaries.included)
    bound = audit_one_run(total, canaries.included, delta=delta, confidence=confidence)
    return AuditReport(float(epsilon), float(delta), bound, attacks, overlap)


def _scaled(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    spread = float(scores.std())
    return scores / spread if spread > 0 else scores
