"""Where a class lives: the row space of its second moment.

Category-wise projection multiplies the shift map by the projector of each class,
``W_c = P Π_c`` with ``Π_c = U_r U_rᵀ`` (DPCR, He et al., ICML 2025, §3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lipogram.analytic.blas import matmul
from lipogram.analytic.gram import FactorGram
from lipogram.analytic.labels import Label
from lipogram.analytic.settings import one_of, positive, whole
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import InvalidFeatures, InvalidSetting

Rule = Literal["relative", "positive", "energy", "soft"]
ENERGY, SOFT = 0.99, 1e-3


@dataclass(frozen=True, eq=False)
class Projector:
    """``Π = U diag(s) Uᵀ`` of rank r, never formed.

    Attributes:
        vectors: U (d, r) float64, orthonormal columns.
        strength: s (r,) in (0, 1]; ones for an orthogonal projector.
    """

    vectors: Tensor
    strength: Tensor

    @property
    def rank(self) -> int:
        """Directions kept."""
        return self.vectors.shape[1]

    def factors(self) -> tuple[Tensor, Tensor]:
        """``U diag(s)`` (d, r) and ``Uᵀ`` (r, d), whose product is Π."""
        return self.vectors * self.strength, self.vectors.T.contiguous()

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows (n, d) float64 times Π."""
        left, right = self.factors()
        return matmul(matmul(rows, left), right)


def row_space_projector(
    gram: Tensor, *, rule: Rule = "relative", tol: float | None = None, rank: int | None = None
) -> Projector:
    """Projector on the row space of a symmetric positive semi-definite matrix (d, d).

    Args:
        gram: float64 or float32.
        rule: which eigenvalues λ count.
            ``"relative"``: λ > tol · λ_max, tol d · 2.2e-16 by default: the rank, up to rounding.
            ``"energy"``: the largest that make up the share tol of the trace, 0.99 by default.
            ``"soft"``: as "relative" with its default, but direction j is kept with strength
            λ/(λ + tol · λ_max), tol 1e-3 by default.
            ``"positive"``: singular values above 0 in the matrix's own precision, which is what
            the authors' released code does; in float32 it keeps every direction, as a rule.
        tol: see ``rule``; ``"positive"`` has none.
        rank: keep at most so many, the largest.

    Raises:
        InvalidFeatures: no square matrix of finite numbers.
        InvalidSetting: a setting outside its values.
    """
    _check(rule, tol, rank)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not gram.numel():
        raise InvalidFeatures(f"a second moment is a square matrix, not {tuple(gram.shape)}")
    if not bool(torch.isfinite(gram).all()):
        raise InvalidFeatures("the second moment holds NaN or infinity")
    if rule == "positive":
        left, values, _ = torch.linalg.svd(gram.detach())
        # Singular values come in descending order.
        return _kept(values.flip(0), left.flip(1), rule, tol, rank)
    values, vectors = torch.linalg.eigh(gram.detach().double())
    return _kept(values, vectors, rule, tol, rank)


def class_projector(
    bank: ClassStatistics,
    label: Label,
    *,
    rule: Rule = "relative",
    tol: float | None = None,
    rank: int | None = None,
) -> Projector:
    """:func:`row_space_projector` of one class; where its rows are held, from their factor.

    Raises:
        UnknownClass, ClosedClass: a class without a matrix of its own.
        InvalidSetting: a setting outside its values.
    """
    bank.flush()
    gram = bank.store.grams.get(bank.index.slot(label))
    if rule == "positive":
        return row_space_projector(bank.gram(label).float(), rule=rule, tol=tol, rank=rank)
    if not isinstance(gram, FactorGram) or not gram.rows:
        return row_space_projector(bank.gram(label), rule=rule, tol=tol, rank=rank)
    _check(rule, tol, rank)
    _, singular, rows = torch.linalg.svd(gram.tensor(), full_matrices=False)
    return _kept(singular.square().flip(0), rows.T.flip(1), rule, tol, rank)


def _check(rule: str, tol: float | None, rank: int | None) -> None:
    one_of("rule", rule, get_args(Rule))
    if rank is not None:
        whole("rank", rank)
    if tol is None:
        return
    if rule == "positive":
        raise InvalidSetting(f'rule "positive" takes no tol, got {tol!r}: use "relative"')
    if positive("tol", tol) > 1:
        raise InvalidSetting(f"tol is {tol!r}, it must be at most 1")


def _kept(
    values: Tensor, vectors: Tensor, rule: str, tol: float | None, rank: int | None
) -> Projector:
    """The projector of the eigenvalues (ascending) that the rule keeps."""
    d, top = vectors.shape[0], values[-1].clamp(min=0)
    floor = 0.0 if rule == "positive" else d * torch.finfo(torch.float64).eps * top
    if rule == "relative" and tol is not None:
        floor = tol * top
    keep = values > floor
    if rule == "energy":
        share = values.clamp(min=0).flip(0).cumsum(0).flip(0)  # of each value and those above it
        above = share - values.clamp(min=0)
        keep &= above < (ENERGY if tol is None else tol) * share[0]
    if rank is not None:
        keep[: max(len(values) - rank, 0)] = False
    values, vectors = values[keep].double(), vectors[:, keep].double().contiguous()
    strength = torch.ones_like(values)
    if rule == "soft":
        strength = values / (values + (SOFT if tol is None else tol) * top)
    return Projector(vectors, strength)
