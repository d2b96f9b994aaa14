"""How much noise the two proxies need so that together they keep one budget."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Literal

from lipogram.analytic.settings import positive, whole
from lipogram.errors import InvalidSetting
from rewardds.accounting import calibrate, epsilon
from rewardds.errors import WeakAmplification
from rewardds.privacy_loss import AnyRelease, Release

LARGEST_DELTA = 1e-5
WEAK = 10  # batches in the data; with fewer, most records are in every few steps


@dataclass(frozen=True)
class RunPlan:
    """One training.

    Attributes:
        batch: how many records a Poisson batch has on average.
        epochs: passes over the data, on average; a fraction is allowed.

    Raises:
        InvalidSetting: a batch that is no whole number from 1, epochs not above 0.
    """

    batch: int
    epochs: float

    def __post_init__(self) -> None:
        whole("batch", self.batch)
        positive("epochs", self.epochs)

    def sample_rate(self, n: int) -> float:
        """The chance of a record to be in a batch, batch/n."""
        return self.batch / n

    def steps(self, n: int) -> int:
        """Batches in so many epochs, a last part of one left out; at least one."""
        return max(int(self.epochs * n / self.batch), 1)


@dataclass(frozen=True)
class PrivacyPlan:
    """The noise of both proxies for one (ε, δ) of everything that leaves.

    Attributes:
        epsilon: the budget of all together.
        delta: δ of all together; None for the lesser of 10⁻⁵ and n^−1.1.
        n: records, or groups where a person's records are merged; it is taken as public, or as a
            public upper bound.
        generator: training of the generation proxy.
        reward: training of the reward proxy; None for none.
        split: "equal-sigma", or the generator's part of the sum of both σ, between 0 and 1.
        spent: what was released about the same records before.
        generator_release: the generator's σ, sample rate and steps.
        reward_release: the reward's; None without one.
        total: ε of all together with this noise, at most `epsilon`.

    Raises:
        InvalidSetting: an ε not above 0, a δ outside (0, 1/n), an n below a batch, no split.
        UnreachablePrivacy: a budget that no noise in reach keeps.

    Warns:
        WeakAmplification: batches larger than a tenth of n.
    """

    epsilon: float
    delta: float | None = None
    n: int = field(kw_only=True)
    generator: RunPlan = field(kw_only=True)
    reward: RunPlan | None = field(default=None, kw_only=True)
    split: Literal["equal-sigma"] | float = field(default="equal-sigma", kw_only=True)
    spent: tuple[AnyRelease, ...] = field(default=(), kw_only=True)
    generator_release: Release = field(init=False)
    reward_release: Release | None = field(init=False, default=None)
    total: float = field(init=False)

    def __post_init__(self) -> None:
        positive("epsilon", self.epsilon)
        whole("n", self.n)
        delta = default_delta(self.n) if self.delta is None else self.delta
        check_delta(delta, self.n)
        runs = [each for each in (self.generator, self.reward) if each is not None]
        for run in runs:
            if run.batch > self.n:
                raise InvalidSetting(
                    f"the batch is {run.batch} and there are {self.n} records: a batch is a part "
                    "of them"
                )
        found = calibrate(
            self.epsilon,
            delta,
            [(run.sample_rate(self.n), run.steps(self.n)) for run in runs],
            shares=self._shares(len(runs)),
            spent=self.spent,
        )
        if any(WEAK * run.batch > self.n for run in runs):
            warnings.warn(
                f"a batch is more than a tenth of {self.n} records, and sampling hides little: "
                "take smaller batches, or more records",
                WeakAmplification,
                stacklevel=3,
            )
        for name, value in (
            ("delta", delta),
            ("generator_release", found[0]),
            ("reward_release", found[1] if self.reward else None),
            ("total", epsilon([*self.spent, *found], delta)),
        ):
            object.__setattr__(self, name, value)

    @property
    def releases(self) -> tuple[Release, ...]:
        """The releases of the generator and, where there is one, of the reward."""
        first = (self.generator_release,)
        return first if self.reward_release is None else (*first, self.reward_release)

    def sentence(self) -> str:
        """In words: each run, and both together."""
        assert self.delta is not None
        parts = []
        for name, release in zip(("generator", "reward"), self.releases, strict=False):
            alone = epsilon([release], self.delta)
            parts.append(
                f"{name}: σ {release.sigma:.4g}, sample rate {release.sample_rate:.4g}, "
                f"{release.steps} steps, ε {alone:.4g} by itself"
            )
        before = ", with what was spent before" if self.spent else ""
        parts.append(f"together{before}: ε {self.total:.4g} at δ {self.delta:.3g}")
        return "; ".join(parts)

    def _shares(self, runs: int) -> list[float] | None:
        if self.split == "equal-sigma":
            return None
        if isinstance(self.split, str) or not 0 < self.split < 1:
            raise InvalidSetting(
                f"the split is {self.split!r}, it must be 'equal-sigma' or a number between 0 and 1"
            )
        return [self.split, 1 - self.split][:runs]


def default_delta(n: int) -> float:
    """The lesser of 10⁻⁵ and n^−1.1, which lies below 1/n for every n."""
    return min(LARGEST_DELTA, n**-1.1) if n > 1 else LARGEST_DELTA


def check_delta(delta: float, n: int) -> None:
    """Refuse a δ that says nothing of n records.

    Raises:
        InvalidSetting: a δ outside (0, 1/n): whoever published one record in full would keep it.
    """
    if not 0 < delta < 1 / n:
        raise InvalidSetting(
            f"delta is {delta!r}, it must lie between 0 and 1/n = {1 / n:.3g}: at 1/n, one record "
            "in full may be given away"
        )
