"""Mean and spread of each class's features, on the fly.

AEF-OCL (Zhuang et al., arXiv 2405.17779) keeps, per class and dimension, the count, the mean and
the standard deviation of the backbone's features. Here the sum of squared deviations ``M2`` stands
for the latter, merged by the rule of Chan, Golub & LeVeque (1979):

    ``δ = μ_b − μ_a``, ``n = n_a + n_b``, ``μ = μ_a + δ n_b/n``, ``M2 = M2_a + M2_b + δ² n_a n_b/n``

which loses no digit to the offset of the features, as the difference ``Σz² − nμ²`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Moments of some rows of one class.

    Attributes:
        mass: summed weights n.
        mean: μ (d,).
        m2: Σ w (z − μ)² (d,).
        factor: F (≤ r, d) with ``FᵀF ≈ Σ w (z − μ)(z − μ)ᵀ``, its r strongest directions.
    """

    mass: float
    mean: Tensor
    m2: Tensor
    factor: Tensor

    def plus(self, other: Moments, rank: int) -> Moments:
        """Moments of the rows of both."""
        if not other.mass or not self.mass:
            return self if not other.mass else other
        mass = self.mass + other.mass
        gap = other.mean - self.mean
        between = self.mass * other.mass / mass
        factor = self.factor
        if rank:
            stacked = torch.cat([self.factor, other.factor, gap[None] * between**0.5])
            factor = strongest(stacked, rank)
        return Moments(
            mass,
            self.mean + gap * (other.mass / mass),
            self.m2 + other.m2 + gap.square() * between,
            factor,
        )

    def minus(self, other: Moments) -> Moments:
        """Moments of the rows of this that are not among the other's."""
        mass = self.mass - other.mass
        if mass <= 0:
            return Moments(0.0, torch.zeros_like(self.mean), torch.zeros_like(self.m2), self.factor)
        mean = self.mean + (self.mean - other.mean) * (other.mass / mass)
        between = mass * other.mass / self.mass
        m2 = self.m2 - other.m2 - (other.mean - mean).square() * between
        return Moments(mass, mean, m2.clamp(min=0), self.factor)


def moments_of(rows: Tensor, weight: Tensor | None, rank: int) -> Moments:
    """Moments of rows (n, d) float64 with weights (n,), 1 by default."""
    w = torch.ones(len(rows), dtype=torch.float64, device=rows.device) if weight is None else weight
    mass = float(w.sum())
    mean = w @ rows / mass if mass else torch.zeros_like(rows[0])
    scaled = (rows - mean) * w.sqrt()[:, None]
    return Moments(mass, mean, scaled.square().sum(0), strongest(scaled, rank))


def strongest(rows: Tensor, rank: int) -> Tensor:
    """At most ``rank`` rows whose Gram matrix is nearest to that of all."""
    if not rank:
        return rows[:0]
    if len(rows) <= rank:
        return rows
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    return (values[:rank, None] * directions[:rank]).contiguous()


class ClassMoments:
    """Moments of every class, by slot.

    Args:
        n_features: width d of the features.
        rank: directions r of each class's covariance that are kept beside its diagonal; 0 for none.
        device: where the numbers live.
    """

    def __init__(
        self, n_features: int, *, rank: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self.n_features, self.rank, self.device = n_features, rank, torch.device(device)
        self.classes: list[Moments] = []

    def __len__(self) -> int:
        return len(self.classes)

    def grow(self, n: int) -> None:
        """Append n classes without a row."""
        self.classes += [self._none() for _ in range(n)]

    def delete(self, slot: int) -> None:
        """Take a class out; later ones move down by one."""
        del self.classes[slot]

    def of_batch(self, rows: Tensor, slots: Tensor, weight: Tensor | None) -> dict[int, Moments]:
        """Moments of a batch by slot; nothing is added yet."""
        present, where = torch.unique(slots, return_inverse=True)
        z = rows.double()
        if not self.rank:  # all classes at once: a batch of ten costs ten rows, not ten classes
            w = torch.ones_like(z[:, 0]) if weight is None else weight
            mass = torch.zeros_like(z[: len(present), 0]).index_add_(0, where, w)
            sums = z.new_zeros(len(present), z.shape[1]).index_add_(0, where, w[:, None] * z)
            mean = sums / torch.where(mass > 0, mass, 1.0)[:, None]
            spread = w[:, None] * (z - mean[where]).square()
            m2 = torch.zeros_like(mean).index_add_(0, where, spread)
            masses, empty = mass.tolist(), z[:0]
            each = zip(present.tolist(), masses, mean, m2, strict=True)
            return {slot: Moments(m, mu, s, empty) for slot, m, mu, s in each}
        found = {}
        for i, slot in enumerate(present.tolist()):
            mine = torch.nonzero(where == i)[:, 0]
            own = None if weight is None else weight[mine]
            found[slot] = moments_of(z[mine], own, self.rank)
        return found

    def add(self, more: Mapping[int, Moments]) -> Self:
        """Merge moments of more rows, by slot."""
        for slot, other in more.items():
            self.classes[slot] = self.classes[slot].plus(other, self.rank)
        return self

    def subtract(self, less: Mapping[int, Moments]) -> Self:
        """Take rows out, by slot."""
        for slot, other in less.items():
            self.classes[slot] = self.classes[slot].minus(other)
        return self

    def copy(self) -> ClassMoments:
        """An independent copy."""
        twin = ClassMoments(self.n_features, rank=self.rank, device=self.device)
        twin.classes = list(self.classes)  # what is merged is replaced, never changed in place
        return twin

    @property
    def mean(self) -> Tensor:
        """μ (k, d)."""
        return self._stacked("mean")

    @property
    def m2(self) -> Tensor:
        """Sums of squared deviations (k, d)."""
        return self._stacked("m2")

    @property
    def mass(self) -> Tensor:
        """Summed weights (k,)."""
        return torch.tensor([c.mass for c in self.classes], dtype=torch.float64, device=self.device)

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name."""
        held = {"moments/mean": self.mean, "moments/m2": self.m2, "moments/mass": self.mass}
        if self.rank:
            held |= {f"moments/factor/{i}": c.factor for i, c in enumerate(self.classes)}
        return held

    def _stacked(self, name: str) -> Tensor:
        empty = torch.zeros(0, self.n_features, dtype=torch.float64, device=self.device)
        return torch.cat([empty, *(getattr(c, name)[None] for c in self.classes)])

    def _none(self) -> Moments:
        zero = torch.zeros(self.n_features, dtype=torch.float64, device=self.device)
        return Moments(0.0, zero, zero.clone(), zero[None][:0])


def restored(
    tensors: Mapping[str, Tensor], n_classes: int, n_features: int, rank: int, device: Any
) -> ClassMoments:
    """The moments that :meth:`ClassMoments.tensors` named.

    Raises:
        KeyError, ValueError: tensors that are missing, or of another shape, type or sign.
    """
    held = ClassMoments(n_features, rank=rank, device=device)
    shapes = {"mean": (n_classes, n_features), "m2": (n_classes, n_features), "mass": (n_classes,)}
    named = {name: tensors[f"moments/{name}"] for name in shapes}
    for name, shape in shapes.items():
        tensor = named[name]
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float64:
            raise ValueError(f"moments/{name} is {tensor.dtype} {tuple(tensor.shape)}")
        if not bool(torch.isfinite(tensor).all()) or (name != "mean" and bool((tensor < 0).any())):
            raise ValueError(f"moments/{name} holds values that no moment has")
    moved = {name: tensor.to(held.device) for name, tensor in named.items()}
    for slot in range(n_classes):
        factor = moved["mean"][:0]
        if rank:
            factor = tensors[f"moments/factor/{slot}"].to(held.device)
            fits = factor.ndim == 2 and factor.shape[1] == n_features and len(factor) <= rank
            if not fits or factor.dtype != torch.float64 or not bool(torch.isfinite(factor).all()):
                raise ValueError(f"moments/factor/{slot} is {tuple(factor.shape)}")
        held.classes.append(
            Moments(
                float(moved["mass"][slot]),
                moved["mean"][slot].clone(),
                moved["m2"][slot].clone(),
                factor,
            )
        )
    return held
