"""The unlearning methods, and what each of them takes when nothing is said."""

from dataclasses import dataclass
from typing import Literal

RetainLoss = Literal["nll", "kl", "embed", "none"]
Reference = Literal["copy", "adapter_off", "precomputed"]


@dataclass(frozen=True)
class Method:
    """Defaults of a method.

    Attributes:
        retain_loss: see `UnlearnConfig`.
        beta: see `UnlearnConfig`; None for a method without.
        gamma: weight of its forget loss.
    """

    retain_loss: RetainLoss
    beta: float | None = None
    gamma: float = 1.0


METHODS = {
    "ga": Method("none"),
    "graddiff": Method("nll"),
    "dpo": Method("nll", 0.1),
    "npo": Method("nll", 0.1),
    "simnpo": Method("nll", 4.5, gamma=0.125),
    "rmu": Method("embed"),
    "undial": Method("none", 10.0),
    "idk": Method("nll"),
}
"""Gradient ascent and gradient difference, direct and negative preference optimisation, SimNPO,
representation misdirection, self-distillation on adjusted logits (UNDIAL), learning to refuse."""
