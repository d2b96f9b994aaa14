"""Noise that the clients of a masked cohort add together, each a share of it.

Each client adds discrete Gaussian noise of variance ``σ²/m`` to its integers, and masks hide the
shares: the server sees sums with noise of ``σ²`` or more as long as m of those who are in them are
honest. ``docs/distributed-noise.md`` derives what that is worth and each constant here.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from afl.claims import Claim, claim_of
from afl.errors import TooFewClients
from afl.privacy_unit import Unit, check_unit, moves
from lipogram.analytic.settings import positive, whole
from lipogram.discrete_gaussian import discrete_gaussian
from lipogram.errors import InvalidFeatures, InvalidSetting
from lipogram.gaussian_mechanism import mu_of, mu_on_grid

LEAST_BITS, MOST_BITS = 20, 52
FINE = 2.0**14  # rounding to the grid may cost this part of the sensitivity
DEVIATIONS = 16.0  # a share beyond so many has probability 2·exp(−128) < 1e-55
ROOM = 2.0**62


@dataclass(frozen=True, kw_only=True)
class NoiseShares:
    """What the clients of a cohort agree to add, and to whom it is of use.

    Attributes:
        epsilon: ε > 0 of the cohort's sum.
        delta: its δ.
        shares: m ≥ 1, the least number of honest clients in a sum: the noise of m is enough.
        colluding: clients who may tell the server their noise; a sum needs m clients besides.
        unit: ``"row"`` or ``"client"``, see :mod:`afl.privacy_unit`.
        bound: C, largest length of a client's sums, where the unit is a client.

    Raises:
        InvalidSetting: a number outside its range, or a bound that does not fit the unit.
    """

    epsilon: float
    delta: float
    shares: int
    colluding: int = 0
    unit: Unit = "row"
    bound: float | None = None

    def __post_init__(self) -> None:
        mu_of(self.epsilon, self.delta)
        whole("shares", self.shares)
        whole("colluding", self.colluding, least=0)
        check_unit(self.unit, self.bound)

    @property
    def least_survivors(self) -> int:
        """Clients that a sum needs: fewer have too little noise, so nobody should open it."""
        return self.shares + self.colluding

    def claim(self, sigma: float, survivors: Collection[str]) -> Claim:
        """What a sum over survivors with noise σ claims.

        Raises:
            TooFewClients: fewer than :attr:`least_survivors`; their noise is not worth the claim.
        """
        left = len(set(survivors))
        if left < self.least_survivors:
            raise TooFewClients(
                f"{left} clients are in the sum, the noise is worth ε {self.epsilon:g} from "
                f"{self.least_survivors} on: the sum claims nothing and must not be opened"
            )
        return claim_of(
            self.unit, self.epsilon, self.delta, sigma, shares=self.shares, bound=self.bound
        )


@dataclass(frozen=True, kw_only=True)
class NoiseGrid:
    """The integers on which shares lie: multiples of one step, noise of 2ᵖ steps.

    Everything follows from public numbers, so all clients have the same grid.

    Attributes:
        agreed: what is added.
        size: numbers to a vector.
        clip: B.
        most_rows: most rows of a client.
        clients: most clients to a sum.

    Raises:
        InvalidSetting: integers that 64 bits do not hold.
    """

    agreed: NoiseShares
    size: int
    clip: float
    most_rows: int
    clients: int

    def __post_init__(self) -> None:
        positive("clip", self.clip)
        whole("most_rows", self.most_rows)
        if whole("clients", self.clients) < self.agreed.least_survivors:
            raise InvalidSetting(
                f"{self.clients} clients at most, but {self.agreed.least_survivors} are needed"
            )
        largest = self.bound / self.step + DEVIATIONS * 2.0**self.bits + 1
        if self.clients * largest >= ROOM:
            raise InvalidSetting(
                f"{self.clients} clients with numbers up to {self.bound:g} and noise of "
                f"{self.share_std:g} pass 2^62 steps: lower epsilon, most_rows or the bound"
            )

    @property
    def bound(self) -> float:
        """Largest magnitude of one client's number before noise: ``n·B²``, or C."""
        most = self.most_rows * self.clip**2 * (1 + 1e-9)
        return most if self.agreed.bound is None else min(most, self.agreed.bound)

    @cached_property
    def bits(self) -> int:
        """p: a share has a standard deviation of 2ᵖ steps."""
        mu = mu_of(self.agreed.epsilon, self.agreed.delta)
        needed = FINE * math.sqrt(self.size) / (mu * math.sqrt(self.agreed.shares))
        return min(max(LEAST_BITS, math.ceil(math.log2(needed))), MOST_BITS)

    @cached_property
    def step(self) -> float:
        """Length g of a step.

        ``√m·2ᵖ·μ = Δ/g + √D`` for the sensitivity Δ of what is rounded, and √D for the rounding.
        """
        steps = math.sqrt(self.agreed.shares) * 2.0**self.bits * self.mu - math.sqrt(self.size)
        return _rounded_up(self.sensitivity / steps)

    @property
    def share_std(self) -> float:
        """Standard deviation of one client's noise, ``g·2ᵖ``."""
        return self.step * 2.0**self.bits

    @property
    def sensitivity(self) -> float:
        """Δ: what a unit moves one client's vector by, errors of float64 sums included."""
        moved = moves(self.agreed.unit, self.clip, self.agreed.bound)[self.agreed.unit]
        if self.agreed.unit == "client":
            return moved
        n = self.most_rows
        summed = 3.0 * (n + 8) * n * 2.0**-53 * self.clip**2
        return moved * (1 + 1e-9) + summed

    @cached_property
    def mu(self) -> float:
        """The largest μ of a Gaussian release that leaves room for the grid's gap."""
        variance = self.agreed.shares * 4.0**self.bits
        return mu_on_grid(self.size, variance, self.agreed.epsilon, self.agreed.delta)

    def sigma(self, survivors: int) -> float:
        """Standard deviation of the noise of a sum over so many clients."""
        return math.sqrt(survivors) * self.share_std

    def encode(self, values: NDArray[np.float64], key: bytes) -> NDArray[np.uint64]:
        """Integers of numbers (size,) with one client's noise, modulo 2⁶⁴.

        Raises:
            InvalidFeatures: NaN, infinity, a magnitude above the bound, or noise beyond 16 standard
                deviations; never cut off silently.
        """
        bad = np.flatnonzero(~(np.abs(values) <= self.bound))
        if bad.size:
            raise InvalidFeatures(
                f"number {bad[0]} is {values[bad[0]]:g}, the agreed bound is {self.bound:g}: raise "
                "the bound for everybody, or clip the rows"
            )
        noise = discrete_gaussian(key, self.size, 2**self.bits)
        if np.abs(noise).max() > DEVIATIONS * 2.0**self.bits:
            raise InvalidFeatures(
                f"noise beyond {DEVIATIONS:g} standard deviations, which honest noise never shows"
            )
        return (np.rint(values / self.step).astype(np.int64) + noise).view(np.uint64)

    def decode(self, ring: NDArray[np.uint64]) -> NDArray[np.float64]:
        """Numbers of a sum of encoded vectors."""
        return ring.view(np.int64).astype(np.float64) * self.step


def _rounded_up(value: float) -> float:
    """The next number with 20 binary digits: machines that differ in the last bit agree on it."""
    digits, exponent = math.frexp(value)
    return math.ldexp(math.ceil(math.ldexp(digits, 20)), exponent - 20)
