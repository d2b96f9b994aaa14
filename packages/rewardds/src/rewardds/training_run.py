"""What a private training is asked to do, and what may be told of it afterwards."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from lipogram.analytic.settings import whole
from lipogram.errors import InvalidSetting
from rewardds.errors import WeakAmplification
from rewardds.privacy_loss import Release


@dataclass(frozen=True)
class TrainingRun:
    """One DP-SGD training: all that its privacy depends on, besides the clipping norm's unit.

    Attributes:
        sigma: σ, standard deviation of the noise in clipping norms. 0 is no privacy.
        n: public number of records; each is sampled with probability `batch / n`, however many
            there really are.
        batch: expected records a step, B; noisy sums are divided by it.
        steps: noisy updates, T.

    Raises:
        InvalidSetting: σ negative or not finite, or B and T not whole and above 0, or B above n.
    """

    sigma: float
    n: int
    batch: int
    steps: int

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < math.inf:
            raise InvalidSetting(f"sigma is {self.sigma!r}, it must be finite and at least 0")
        whole("n", self.n)
        whole("batch", self.batch)
        whole("steps", self.steps)
        if self.batch > self.n:
            raise InvalidSetting(
                f"batch is {self.batch} of n = {self.n} records: a sample is at most all of them"
            )
        if self.n < 10 * self.batch:
            warnings.warn(
                f"batch is {self.batch} of n = {self.n} records: with more than a tenth sampled a "
                "step, sampling hides little, and the same ε needs much more noise",
                WeakAmplification,
                stacklevel=3,
            )

    @property
    def sample_rate(self) -> float:
        """Of each record in each step, p = B/n."""
        return self.batch / self.n


@dataclass(frozen=True)
class TrainingReport:
    """What happened, as far as it may leave the client: nothing here was measured on records.

    Attributes:
        noise_additions: T, how often noise was drawn for a sum over records; after a crash also
            what may have been drawn and was lost.
        sigma: σ.
        sample_rate: p of Poisson sampling.
        batch: B, by which sums were divided.
        clip: C, largest L2 norm of a record's gradient.
        seeded: a seed instead of the system's secure source made masks and noise: no privacy
            against whoever knows it.
    """

    noise_additions: int
    sigma: float
    sample_rate: float
    batch: int
    clip: float
    seeded: bool = False

    @property
    def private(self) -> bool:
        """Whether an ε can be stated at all."""
        return self.sigma > 0 and not self.seeded

    @property
    def release(self) -> Release:
        """What the accountant is told: noise that a seed regenerates counts as none."""
        sigma = self.sigma if self.private else 0.0
        return Release(sigma, self.sample_rate, self.noise_additions)
