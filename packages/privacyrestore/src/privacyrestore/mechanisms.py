"""How a signal becomes a message: what noise is added, in which space.

Source: PrivacyRestore (arXiv 2406.01394), section 5, for `Full`; the subspace is this package's:
signals lie in the bank's span, which is public, so noise in its ρ coordinates has the same ε with a
length of ρ/ε in place of n/ε.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lipogram.discrete_gaussian import Stream, discrete_gaussian, noise_key
from lipogram.errors import InvalidSetting
from lipogram.gaussian_mechanism import mu_of
from lipogram.secure_noise import gamma_ball, secure_stream, uniforms
from privacyrestore.guarantee import Guarantee
from privacyrestore.noise_grid import Grid, gaussian_grid
from privacyrestore.restoration_bank import RestorationBank


class Mechanism(Protocol):
    """What a client needs to make a message, and whoever reads it to restore by it."""

    name: str

    def release(
        self, bank: RestorationBank, signal: Tensor, randomness: int | None = None
    ) -> Tensor:
        """The message [message_length] float64 for a signal ẑ [n] of length 1, or 0 for no spans.

        Args:
            bank: public.
            signal: as :meth:`RestorationBank.signal` makes it.
            randomness: a seed, for studies; None, as for anything that is sent, draws from the
                system's secure source.

        Raises:
            InvalidSetting: a signal of another length, NaN, or neither 0 nor of length 1.
        """

    def restore(self, bank: RestorationBank, message: Tensor) -> Tensor:
        """What a server forms of messages [..., message_length]: y [..., n]."""

    def guarantee(self, bank: RestorationBank) -> Guarantee:
        """What one release may tell."""


@dataclass(frozen=True)
class Full:
    """The paper's: noise of density ∝ exp(−ε‖x‖) in all n = K·D coordinates.

    Its length is n/ε: at the ε for which the message still restores, so does an attacker.

    Args:
        epsilon: metric ε, above 0.
    """

    epsilon: float
    name = "full"

    def __post_init__(self) -> None:
        _check_epsilon(self.epsilon)

    def release(
        self, bank: RestorationBank, signal: Tensor, randomness: int | None = None
    ) -> Tensor:
        """See :class:`Mechanism`."""
        _check_signal(bank, signal)
        return _noisy(signal, self.epsilon, randomness)

    def restore(self, bank: RestorationBank, message: Tensor) -> Tensor:
        """See :class:`Mechanism`."""
        return message

    def guarantee(self, bank: RestorationBank) -> Guarantee:
        """See :class:`Mechanism`."""
        return Guarantee(self.name, self.epsilon, bank.diameter, self.epsilon * bank.diameter)


@dataclass(frozen=True)
class Subspace:
    """The same noise in the ρ coordinates of the bank's span: the same ε, √(n/ρ) times clearer.

    Args:
        epsilon: metric ε, above 0.
    """

    epsilon: float
    name = "subspace"

    def __post_init__(self) -> None:
        _check_epsilon(self.epsilon)

    def release(
        self, bank: RestorationBank, signal: Tensor, randomness: int | None = None
    ) -> Tensor:
        """See :class:`Mechanism`."""
        _check_signal(bank, signal)
        return _noisy(bank.coordinates(signal), self.epsilon / bank.stretch, randomness)

    def restore(self, bank: RestorationBank, message: Tensor) -> Tensor:
        """See :class:`Mechanism`."""
        return bank.expand(message)

    def guarantee(self, bank: RestorationBank) -> Guarantee:
        """See :class:`Mechanism`."""
        return Guarantee(self.name, self.epsilon, bank.diameter, self.epsilon * bank.diameter)


@dataclass(frozen=True)
class Gaussian:
    """(ε, δ) for any two inputs, by Gaussian noise in the ρ coordinates of the bank's span.

    σ is the least for which the analytic Gaussian mechanism (Balle & Wang, ICML 2018) has (ε, δ) at
    the distance Δ, plus what the grid takes (:func:`~privacyrestore.noise_grid.gaussian_grid`). On
    that grid the noise is the discrete Gaussian, drawn exactly (Canonne, Kamath & Steinke, NeurIPS
    2020).

    Args:
        epsilon: worst-case local ε, above 0.
        delta: between 0 and 1.
    """

    epsilon: float
    delta: float
    name = "gaussian"

    def __post_init__(self) -> None:
        _check_epsilon(self.epsilon)
        mu_of(self.epsilon, self.delta)

    def sigma(self, bank: RestorationBank) -> float:
        """Standard deviation of each coordinate's noise."""
        grid, steps = self._noise(bank)
        return grid.step * steps

    def release(
        self, bank: RestorationBank, signal: Tensor, randomness: int | None = None
    ) -> Tensor:
        """See :class:`Mechanism`."""
        _check_signal(bank, signal)
        grid, sigma = self._noise(bank)
        steps = np.rint(bank.coordinates(signal).numpy() / grid.step)
        return torch.from_numpy(
            grid.at(steps + discrete_gaussian(noise_key(randomness), bank.rank, sigma))
        )

    def _noise(self, bank: RestorationBank) -> tuple[Grid, int]:
        distance = bank.diameter * bank.stretch
        return gaussian_grid(bank.rank, distance, self.epsilon, self.delta)

    def restore(self, bank: RestorationBank, message: Tensor) -> Tensor:
        """See :class:`Mechanism`."""
        return bank.expand(message)

    def guarantee(self, bank: RestorationBank) -> Guarantee:
        """See :class:`Mechanism`.

        Raises:
            InvalidSetting: an ε for which no grid holds the noise; :meth:`release` would fail.
        """
        self._noise(bank)
        return Guarantee(self.name, None, bank.diameter, self.epsilon, self.delta)


@dataclass(frozen=True)
class Exact:
    """No noise: whoever holds the bank reads the spans from the message.

    Args:
        unsafe: must be True: this hides nothing, and is for audits and studies.
    """

    unsafe: bool = False
    name = "none"

    def __post_init__(self) -> None:
        if self.unsafe is not True:
            raise InvalidSetting(
                "the mechanism 'none' hides nothing from a server that has the bank; for an audit "
                "or a study say unsafe=True"
            )

    def release(
        self, bank: RestorationBank, signal: Tensor, randomness: int | None = None
    ) -> Tensor:
        """See :class:`Mechanism`."""
        _check_signal(bank, signal)
        return signal.double().clone()

    def restore(self, bank: RestorationBank, message: Tensor) -> Tensor:
        """See :class:`Mechanism`."""
        return message

    def guarantee(self, bank: RestorationBank) -> Guarantee:
        """See :class:`Mechanism`."""
        return Guarantee(self.name, None, bank.diameter, math.inf)


@dataclass(frozen=True)
class ScalarCompat:
    """What the authors' utility figures were computed with: one scalar for all coordinates.

    Their steering code takes the first axis of a (1, seq, 128) tensor for the dimension, so a
    single ±Exp(mean 1/ε) is added everywhere: it hides nothing. And it gives each head's vector
    the length 1, where training gives it to all of them together. They add the scalar to what
    steering adds to a head; here it is added to the vector. It makes no messages for the wire.

    Args:
        epsilon: as in their scripts (75), above 0.
    """

    epsilon: float
    name = "scalar-compat"

    def __post_init__(self) -> None:
        _check_epsilon(self.epsilon)

    def release(
        self, bank: RestorationBank, signal: Tensor, randomness: int | None = None
    ) -> Tensor:
        """See :class:`Mechanism`."""
        _check_signal(bank, signal)
        heads = torch.nn.functional.normalize(bank.sites_of(signal.double()), dim=-1)
        sign, size = uniforms(secure_stream(randomness), 2)
        return heads.flatten() + math.copysign(-math.log(size) / self.epsilon, sign - 0.5)

    def restore(self, bank: RestorationBank, message: Tensor) -> Tensor:
        """See :class:`Mechanism`."""
        return message

    def guarantee(self, bank: RestorationBank) -> Guarantee:
        """See :class:`Mechanism`."""
        return Guarantee(self.name, None, bank.diameter, math.inf)


def make_mechanism(
    name: str, epsilon: float | None = None, delta: float | None = None, *, unsafe: bool = False
) -> Mechanism:
    """A mechanism by its name.

    Args:
        name: subspace, full, gaussian, none or scalar-compat.
        epsilon: see the classes; `none` takes none.
        delta: of `gaussian` alone.
        unsafe: needed for `none`.

    Raises:
        InvalidSetting: an unknown name, or numbers that do not go with it.
    """
    if name == "none":
        return Exact(unsafe)
    kinds: dict[str, Callable[[float], Mechanism]] = {
        "subspace": Subspace,
        "full": Full,
        "scalar-compat": ScalarCompat,
    }
    if name not in kinds and name != "gaussian":
        known = ", ".join([*kinds, "gaussian", "none"])
        raise InvalidSetting(f"no mechanism {name!r}; there are {known}")
    if epsilon is None:
        raise InvalidSetting(f"the mechanism {name!r} needs an epsilon")
    if name == "gaussian":
        if delta is None:
            raise InvalidSetting("the mechanism 'gaussian' needs a delta")
        return Gaussian(epsilon, delta)
    if delta is not None:
        raise InvalidSetting(f"the mechanism {name!r} has no delta")
    return kinds[name](epsilon)


def _noisy(values: Tensor, epsilon: float, randomness: int | None) -> Tensor:
    stream: Stream = secure_stream(randomness)
    noise = gamma_ball(stream, len(values), epsilon)
    grid = Grid.fitting(len(values), epsilon)
    return torch.from_numpy(grid.rounded(values.double().numpy() + noise))


def _check_epsilon(epsilon: float) -> None:
    known = isinstance(epsilon, (int, float)) and not isinstance(epsilon, bool)
    if not known or not 0 < epsilon < math.inf:
        raise InvalidSetting(f"epsilon is {epsilon!r}, it must be a finite number above 0")


def _check_signal(bank: RestorationBank, signal: Tensor) -> None:
    if signal.shape != (bank.n,):
        raise InvalidSetting(f"a signal of this bank has {bank.n} numbers in one row")
    norm = float(signal.double().norm())
    if not (norm == 0 or abs(norm - 1) < 1e-9):
        raise InvalidSetting("a signal has length 1, or is 0 where there are no spans")
