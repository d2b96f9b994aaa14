"""Pseudo-features: what a class might have looked like, drawn from its own mean and spread.

AEF-OCL's generator (Zhuang et al., arXiv 2405.17779) fills each class up to the largest one with
``ẑ = μ_y + τ σ_y ⊙ ε``, ε ~ N(0, I). Beyond it: fewer rows of a larger weight, covariances that are
not diagonal, quieter samplers, and, where no buffer stands in between, the expectation itself:

    ``E[Σ ẑẑᵀ] = n_y (μ_y μ_yᵀ + τ² Σ_y)``  and  ``E[Σ ẑ] = n_y μ_y``.

What is drawn for a class follows from the seed, its label, its count and the number wanted, and
from nothing else: asked again, or after a restart, the same rows come.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aefocl.class_moments import Moments
from aefocl.stream_statistics import StreamStatistics
from lipogram.analytic.blas import add_gram, matmul, symmetric
from lipogram.analytic.labels import Label
from lipogram.analytic.solve import RidgeSystem, cholesky
from lipogram.errors import InvalidSetting, SingularSystem, UnknownClass

Sampler = Literal["iid", "antithetic", "sobol", "expected"]
CHUNK = 8192  # pseudo-features that are drawn and pass the buffer at a time, as the authors'
FEW_ROWS = 5  # below it min_std="pooled" trusts the other classes' spread more
LARGEST_SOBOL = torch.quasirandom.SobolEngine.MAXDIM


def lowrank(covariance: object) -> int:
    """Directions r of ``"lowrank:r"``; 0 for another covariance.

    Raises:
        InvalidSetting: an unknown covariance.
    """
    if covariance in ("diag", "shared", "diag+shared"):
        return 0
    if isinstance(covariance, str) and covariance.startswith("lowrank:"):
        rank = covariance.removeprefix("lowrank:")
        if rank.isdecimal() and int(rank) > 0:
            return int(rank)
    raise InvalidSetting(
        f"covariance is {covariance!r}, it must be diag, shared, diag+shared or lowrank:R with a "
        "whole number R of at least 1"
    )


def wanted(mass: NDArray[np.float64], balance_to: str | int) -> NDArray[np.float64]:
    """Pseudo-features that each class lacks (k,): up to the target, for classes that have a row.

    Args:
        mass: summed weights of each class (k,), its number of rows where these are 1.
        balance_to: ``"max"``, ``"median"`` of the classes that have rows, or a number of rows.
    """
    present = mass[mass > 0]
    if not len(present):
        return np.zeros(len(mass))
    if balance_to == "max":
        target = float(present.max())
    elif balance_to == "median":
        target = float(np.median(present))
    else:
        target = float(balance_to)
    lacking: NDArray[np.float64] = np.where(mass > 0, np.maximum(target - mass, 0), 0.0)
    return lacking


@dataclass(frozen=True)
class PseudoFeatures:
    """The distribution that each class's pseudo-features are drawn from.

    Attributes:
        statistics: of the real rows.
        noise: τ ≥ 0.
        covariance: ``"diag"``, Σ_y = diag(σ_y²), the paper's; ``"shared"``, the pooled within-class
            covariance S for all classes; ``"diag+shared"``, their sum; ``"lowrank:r"``, the r
            strongest directions of each class and the rest of its diagonal.
        sampler: ``"iid"``; ``"antithetic"``, pairs mirrored at the mean; ``"sobol"``, a scrambled
            low-discrepancy sequence.
        min_std: ``"pooled"`` takes the pooled σ for classes of fewer than five rows; None does not
            (a class of one row repeats it).
        seed: of all draws.
    """

    statistics: StreamStatistics
    noise: float = 1.0
    covariance: str = "diag"
    sampler: Sampler = "iid"
    min_std: Literal["pooled"] | None = None
    seed: int = 0

    @cached_property
    def mean(self) -> Tensor:
        """μ_y (k, d)."""
        return self.statistics.moments.mean

    @cached_property
    def variance(self) -> Tensor:
        """σ_y² (k, d), unbiased: ``M2/(N − 1)``, 0 for a class of one row; weights repeat rows."""
        mass, m2 = self.statistics.moments.mass, self.statistics.moments.m2
        free = (mass - 1).clamp(min=0)
        variance = torch.where(free > 0, 1 / free.clamp(min=1e-300), 0.0)[:, None] * m2
        if self.min_std == "pooled":
            pooled = m2[free > 0].sum(0) / free.sum().clamp(min=1e-300)
            few = (mass < FEW_ROWS) & (mass > 0)
            variance = torch.where(few[:, None], torch.maximum(variance, pooled), variance)
        return variance

    @cached_property
    def shared(self) -> Tensor:
        """Pooled within-class covariance S (d, d), unbiased."""
        held = self.statistics
        if held.incoming is None and held.feature_map is not None:
            raise InvalidSetting(
                f"covariance={self.covariance!r} needs second moments that were not kept: set it "
                "before the first row"
            )
        gram = symmetric((held.incoming or held).reweight().gram)
        mass, mean = held.moments.mass, self.mean
        within = gram - matmul((mean * mass[:, None]).T.contiguous(), mean)
        free = max(float(mass.sum()) - int((mass > 0).sum()), 1.0)
        return within / free

    def sample(self, label: Label, n: int) -> Iterator[Tensor]:
        """Draw n pseudo-features of a class, in parts (≤ CHUNK, d) float64.

        Raises:
            UnknownClass: it was never seen, or only announced.
            InvalidSetting: a covariance that the statistics do not hold.
        """
        slot = self.statistics.index.slot(label)
        label = self.statistics.classes[
            slot
        ]  # of Python's own type: a NumPy integer is equal to it
        held, width = self.statistics.moments.classes[slot], self.mean.shape[1]
        if not held.mass:
            raise UnknownClass(f"class {label!r} has no row yet to draw pseudo-features like")
        scale = None if self.covariance == "shared" else self.variance[slot].sqrt()
        directions = self.mean[:0]
        if lowrank(self.covariance):
            directions, rest = self._directions(slot, held)
            scale = rest.sqrt()
        elif self.covariance != "diag":
            directions = self._root
        own = 0 if scale is None else width
        for epsilon in self._normal(n, own + len(directions), label, held.mass):
            spread = matmul(epsilon[:, own:].contiguous(), directions)
            if scale is not None:
                spread += epsilon[:, :own] * scale
            yield self.mean[slot] + self.noise * spread

    def expected(self, system: RidgeSystem, needed: NDArray[np.float64]) -> RidgeSystem:
        """The system with the expectation of all pseudo-features added; needs no buffer."""
        n = torch.from_numpy(needed).to(self.mean.device)
        sums = self.mean * n[:, None]
        gram = system.gram + matmul(sums.T.contiguous(), self.mean)
        spread = self.noise**2
        if self.covariance in ("shared", "diag+shared"):
            gram += self.shared * (spread * float(n.sum()))
        if self.covariance in ("diag", "diag+shared"):
            gram.diagonal().add_(spread * (n @ self.variance))
        if lowrank(self.covariance):
            for slot in np.flatnonzero(needed).tolist():
                held = self.statistics.moments.classes[slot]
                factor, rest = self._directions(slot, held)
                scale = spread * float(n[slot])
                gram += matmul(factor.T.contiguous(), factor) * scale
                gram.diagonal().add_(scale * rest)
        total = float(n.sum())
        return RidgeSystem(
            gram,
            system.cross + sums.T,
            system.row_sum + sums.sum(0),
            system.target_sum + n,
            system.mass + total,
            system.energy + total,
            system.rows + round(total),
            system.accumulate,
        )

    def drawn(
        self, system: RidgeSystem, needed: NDArray[np.float64], drawn: NDArray[np.int64]
    ) -> RidgeSystem:
        """The system with pseudo-features of each class added to its own tensors.

        Args:
            system: of the real rows, as :meth:`StreamStatistics.reweight` makes it; used up.
            needed: weight of each class's pseudo-features (k,).
            drawn: rows that it is spread over (k,).
        """
        gram, cross, row_sum = system.gram, system.cross, system.row_sum
        to_sums = self.statistics.feature_map or (lambda rows: rows)
        for slot in np.flatnonzero(drawn).tolist():
            weight = float(needed[slot]) / int(drawn[slot])
            for part in self.sample(self.statistics.classes[slot], int(drawn[slot])):
                rows = to_sums(part)
                add_gram(gram, rows, weight, system.accumulate)
                total = weight * rows.sum(0)
                cross[:, slot] += total
                row_sum += total
        total_mass = float(needed.sum())
        return RidgeSystem(
            gram,
            cross,
            row_sum,
            system.target_sum + torch.from_numpy(needed).to(gram.device),
            system.mass + total_mass,
            system.energy + total_mass,
            system.rows + int(drawn.sum()),
            system.accumulate,
        )

    # ------------------------------------------------------------------ inside

    @cached_property
    def _root(self) -> Tensor:
        """R (d, d) with ``RᵀR = S``: rows ε of N(0, I) become rows ``ε R`` of N(0, S)."""
        mean_variance = float(self.shared.diagonal().mean())
        if not mean_variance > 0:
            return torch.zeros_like(self.shared)
        try:
            factor, _ = cholesky(self.shared.contiguous(), 1e-9 * mean_variance)
        except SingularSystem:
            raise SingularSystem(
                "the covariance within the classes was lost to rounding, since the features lie "
                'far from 0: subtract what they have in common, or use covariance="diag"'
            ) from None
        return factor.tril().T.contiguous()

    def _directions(self, slot: int, held: Moments) -> tuple[Tensor, Tensor]:
        """Rows whose Gram matrix is the strong part of Σ_y, and what they leave of its diagonal."""
        rank = lowrank(self.covariance)
        if rank != self.statistics.rank:
            raise InvalidSetting(
                f"covariance={self.covariance!r} needs directions that were not kept: set it "
                "before the first row"
            )
        factor = held.factor / (held.mass - 1) ** 0.5 if held.mass > 1 else held.factor * 0.0
        rest = (self.variance[slot] - factor.square().sum(0)).clamp(min=0)
        return factor, rest

    def _normal(self, n: int, width: int, label: Label, mass: float) -> Iterator[Tensor]:
        """ε of the class, n rows of float64 in parts (≤ CHUNK, width)."""
        # Nine digits of the mass: the sum of weights depends on their order beyond.
        mine = [int(self.seed), type(label).__name__, str(label), f"{mass:.9g}", n, self.sampler]
        key = json.dumps(mine)
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
        device, engine = self.mean.device, None
        if self.sampler == "sobol":
            engine = torch.quasirandom.SobolEngine(width, scramble=True, seed=number)
        generator = torch.Generator().manual_seed(number)
        for m in (min(CHUNK, n - i) for i in range(0, n, CHUNK)):
            if engine is not None:
                uniform = engine.draw(m, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
                yield (math.sqrt(2) * torch.erfinv(2 * uniform - 1)).to(device)
                continue
            half = m if self.sampler == "iid" else (m + 1) // 2
            # Drawn in float32, as the authors' are: a third of the time.
            drawn = torch.randn(half, width, generator=generator).double()
            if self.sampler == "antithetic":
                drawn = torch.cat([drawn, -drawn])[:m]
            yield drawn.to(device)


def check_sobol(sampler: object, covariance: str, width: int) -> None:
    """Raise InvalidSetting where a low-discrepancy sequence has fewer dimensions than needed."""
    dimensions = 2 * width if covariance == "diag+shared" else width + lowrank(covariance)
    if sampler == "sobol" and dimensions > LARGEST_SOBOL:
        raise InvalidSetting(
            f'sampler="sobol" draws at most {LARGEST_SOBOL} dimensions, these features ask for '
            f'{dimensions}: use "antithetic"'
        )


def of_settings(statistics: StreamStatistics, model: Any) -> PseudoFeatures:
    """The distribution that an estimator's settings ask for."""
    sampler: Sampler = "iid" if model.sampler == "expected" else model.sampler
    return PseudoFeatures(
        statistics, float(model.noise), model.covariance, sampler, model.min_std, model.seed
    )
