"""Statistics as integers modulo 2⁶⁴, where masks can hide them and sums stay exact."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from afl.client_stats import ClientStats
from afl.joint_vector import from_joint_vector, joint_vector
from afl.noise_shares import NoiseGrid, NoiseShares
from afl.privacy_unit import bounded
from lipogram.analytic.labels import Label
from lipogram.analytic.settings import positive, whole
from lipogram.discrete_gaussian import noise_key
from lipogram.errors import IncompatibleFeatures, InvalidFeatures, InvalidSetting

Ring = NDArray[np.uint64]
ROOM = 2.0**62


@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """Numbers as ``round(a·2^s)`` modulo 2⁶⁴.

    The scale follows from public bounds alone, so all clients have the same. A sum of up to
    ``clients`` vectors comes back with an error of ``2⁻ˢ·clients/2`` at most, and never wraps; as a
    float64 it is then rounded by up to ``2⁻⁵³`` of itself.

    Attributes:
        bound: largest magnitude of a number that one client may send.
        clients: most clients to a sum.

    Raises:
        InvalidSetting: bounds that leave no bit.
    """

    bound: float
    clients: int

    def __post_init__(self) -> None:
        positive("bound", self.bound)
        whole("clients", self.clients)
        if self.bound * self.clients >= ROOM:
            raise InvalidSetting(
                f"{self.clients} clients with numbers up to {self.bound:g} pass 2^62"
            )

    @property
    def scale_bits(self) -> int:
        """s, at most 1000."""
        return min(62 - math.frexp(self.bound * self.clients)[1], 1000)

    @property
    def error(self) -> float:
        """Most that the integers of ``clients`` vectors are off, before they become float64."""
        return math.ldexp(self.clients / 2, -self.scale_bits)

    def encode(self, values: NDArray[np.float64]) -> Ring:
        """Integers of numbers (n,).

        Raises:
            InvalidFeatures: NaN, infinity, or a magnitude above the bound; never cut off silently.
        """
        bad = np.flatnonzero(~(np.abs(values) <= self.bound))
        if bad.size:
            raise InvalidFeatures(
                f"number {bad[0]} is {values[bad[0]]:g}, the agreed bound is {self.bound:g}: raise "
                "the bound for everybody, or clip the rows"
            )
        return np.rint(np.ldexp(values, self.scale_bits)).astype(np.int64).view(np.uint64)

    def decode(self, ring: Ring) -> NDArray[np.float64]:
        """Numbers of a sum of encoded vectors."""
        return np.ldexp(ring.view(np.int64).astype(np.float64), -self.scale_bits)


@dataclass(frozen=True, kw_only=True)
class StatsLayout:
    """How statistics lie in a vector that all clients of a cohort fill alike.

    Attributes:
        n_features: d.
        classes: labels of all clients; one without rows of a class sends zeros for it.
        clip: bound on the norm of a row.
        most_rows: most rows of a client.
        clients: most clients to a sum.
        space: identity of the features.
        noise: shares of noise that the clients add, so that their sum may be published; None for
            exact sums. A mapping of its fields will do.

    Raises:
        InvalidSetting: noise and numbers that 64 bits do not hold.
    """

    n_features: int
    classes: Sequence[Label]
    clip: float
    most_rows: int
    clients: int
    space: str = ""
    noise: NoiseShares | None = None

    def __post_init__(self) -> None:
        if isinstance(self.noise, Mapping):
            object.__setattr__(self, "noise", NoiseShares(**self.noise))
        if self.noise is not None:
            assert self.grid is not None

    @property
    def fixed_point(self) -> FixedPoint:
        """Bound of every entry: ``|G_ij| ≤ n·clip²``, ``|Q_ij| ≤ n·clip``."""
        bound = self.most_rows * max(self.clip**2, self.clip)
        return FixedPoint(bound=bound * (1 + 1e-9), clients=self.clients)

    @property
    def size(self) -> int:
        """Numbers to a vector: half of G, Q, and the counts."""
        d, k = self.n_features, len(self.classes)
        return d * (d + 1) // 2 + d * k + k

    @cached_property
    def grid(self) -> NoiseGrid | None:
        """The integers of noisy sums, on which ``(half of G, B·Q, B²·counts)`` lies."""
        if self.noise is None:
            return None
        return NoiseGrid(
            agreed=self.noise,
            size=self.size,
            clip=self.clip,
            most_rows=self.most_rows,
            clients=self.clients,
        )

    def encode(self, stats: ClientStats, *, seed: int | None = None) -> Ring:
        """The vector (size,) of one client's statistics, with its share of noise.

        Without noise, counts are whole numbers, unscaled. With noise they lie on the grid like all
        else, and sums longer than a bound on clients are scaled down first.

        Args:
            stats: one client's.
            seed: for tests; None draws noise from the system's secure source.

        Raises:
            IncompatibleFeatures: another width, clip or space, or a class outside the layout.
            InvalidFeatures: randomised sums, weighted rows, or more of them than agreed.
        """
        facts = (stats.n_features, stats.clip, stats.space, stats.per_class)
        if facts != (self.n_features, self.clip, self.space, False):
            raise IncompatibleFeatures(
                f"statistics of {facts[0]} features with clip {facts[1]} do not fit a cohort of "
                f"{self.n_features} with clip {self.clip}, pooled, in one feature space"
            )
        place = {label: i for i, label in enumerate(self.classes)}
        if outside := [label for label in stats.classes if label not in place]:
            raise IncompatibleFeatures(f"class {outside[0]!r} is not in the cohort's list")
        if stats.noise is not None:
            raise InvalidFeatures("randomised statistics do not go under masks: send one of both")
        if stats.n_rows > self.most_rows or (stats.mass != stats.counts).any():
            raise InvalidFeatures(
                f"{stats.n_rows} rows, at most {self.most_rows} unweighted ones were agreed"
            )
        if self.grid is not None:
            bound = self.grid.agreed.bound
            held = stats if bound is None else bounded(stats, bound)
            return self.grid.encode(joint_vector(held, self.classes), noise_key(seed))
        sums = np.zeros((len(self.classes), self.n_features))
        counts = np.zeros(len(self.classes), dtype=np.int64)
        where = [place[label] for label in stats.classes]
        sums[where], counts[where] = stats.sums.cpu().numpy(), stats.counts
        scaled = self.fixed_point.encode(np.concatenate([stats.gram_packed.numpy(), sums.ravel()]))
        return np.concatenate([scaled, counts.view(np.uint64)])

    def decode(self, ring: Ring, survivors: Collection[str] = ()) -> ClientStats:
        """Statistics of a sum of vectors, checked like any upload.

        With noise they claim what it is worth, and their counts are whole numbers of at least 0.

        Args:
            ring: (size,).
            survivors: clients whose vectors are in the sum; needed where there is noise.

        Raises:
            RejectedUpload: the sum of no rows; somebody in the cohort did not send their own.
            TooFewClients: fewer survivors than the noise needs; nothing is claimed or told.
        """
        if self.noise is not None and self.grid is not None:
            claim = self.noise.claim(self.grid.sigma(len(set(survivors))), survivors)
            return from_joint_vector(
                self.grid.decode(ring),
                self.classes,
                n_features=self.n_features,
                clip=self.clip,
                space=self.space,
                noise=claim,
            ).verify()
        d, k = self.n_features, len(self.classes)
        half = d * (d + 1) // 2
        values = self.fixed_point.decode(ring[:-k])
        return ClientStats.from_parts(
            torch.from_numpy(values[:half]),
            torch.from_numpy(values[half:].reshape(k, d)).T,
            ring[-k:].view(np.int64),
            list(self.classes),
            n_features=d,
            clip=self.clip,
            space=self.space,
        ).verify()
