"""What a mechanism promises about one release, in both of its languages."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Guarantee:
    """What one release may tell.

    Attributes:
        mechanism: its name.
        metric_epsilon: ε of metric differential privacy with Euclidean distance: two signals at
            distance d have likelihoods within a factor exp(ε·d). None where the mechanism has none.
        diameter: Δ of the bank.
        local_epsilon: the worst case over any two inputs, ε·Δ for metric mechanisms; infinite
            where nothing is promised.
        delta: δ of that worst case.
    """

    mechanism: str
    metric_epsilon: float | None
    diameter: float
    local_epsilon: float
    delta: float = 0.0

    def sentence(self) -> str:
        """In words; the metric ε never without the worst case that follows from it."""
        if math.isinf(self.local_epsilon):
            return (
                f"Mechanism {self.mechanism}: nothing is hidden, whoever holds the bank reads what "
                "was removed from a message; its worst-case local ε is infinite."
            )
        at = f" at δ = {self.delta:g}" if self.delta else ""
        worst = (
            f"a worst-case local ε of {self.local_epsilon:.4g}{at}: a message may raise the odds "
            f"of one input against another by a factor of {_factor(self.local_epsilon)}, not more"
            f"{f' but for a chance of {self.delta:g}' if self.delta else ''}"
        )
        if self.metric_epsilon is None:
            return f"Mechanism {self.mechanism}: {worst}."
        return (
            f"Mechanism {self.mechanism}: metric ε {self.metric_epsilon:g} over signals at most "
            f"{self.diameter:.3g} apart, {worst}."
        )

    def as_json(self) -> dict[str, str | float | None]:
        """As names and values; what is infinite is the word for it."""
        local = "infinite" if math.isinf(self.local_epsilon) else self.local_epsilon
        return {
            "mechanism": self.mechanism,
            "metric_epsilon": self.metric_epsilon,
            "diameter": self.diameter,
            "worst_case_local_epsilon": local,
            "delta": self.delta,
        }


def _factor(epsilon: float) -> str:
    """e^ε, in figures that can be read."""
    return f"{math.exp(epsilon):.3g}" if epsilon < 14 else f"10^{epsilon / math.log(10):.0f}"
