"""The classifier that a federation sends back."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from lipogram.analytic.blas import matmul
from lipogram.analytic.buffer import Buffer, buffer_from_settings
from lipogram.analytic.labels import Label, as_labels
from lipogram.analytic.rows import as_rows
from lipogram.analytic.solve import RidgeSystem, check_gamma, eigen_path
from lipogram.analytic.state import read_state, write_state
from lipogram.errors import CorruptState, IllConditioned, InvalidFeatures, LipogramError


@dataclass(frozen=True)
class LinearHead:
    """Scores ``Wᵀz + b`` for each class.

    Attributes:
        weight: W (d, k) float64.
        intercept: b (k,) float64, zero where none was fitted.
        classes: k labels, in the order of the columns.
        gamma: the ridge it was solved with.
        rank: directions of feature space that the rows span, as far as it was looked at; d where γ
            makes the system regular.
        condition: condition number of the system, estimated.
        space: identity of the features it reads.
        feature_map: random map before W, or None.
    """

    weight: Float[Tensor, "d k"]
    intercept: Float[Tensor, " k"]
    classes: tuple[Label, ...]
    gamma: float
    rank: int
    condition: float
    space: str = ""
    feature_map: Buffer | None = None

    def scores(self, X: Any) -> NDArray[np.float64]:
        """Scores (n, k) of rows X (n, d_in).

        Raises:
            InvalidFeatures: another width, NaN or infinity.
        """
        width = self.weight.shape[0] if self.feature_map is None else self.feature_map.in_features
        rows = as_rows(X, width).double()
        mapped = rows if self.feature_map is None else self.feature_map(rows)
        return matmul(mapped, self.weight).numpy() + self.intercept.numpy()

    def predict(self, X: Any) -> NDArray[Any]:
        """Label (n,) of the largest score."""
        labels: NDArray[Any] = np.asarray(self.classes)[self.scores(X).argmax(1)]
        return labels

    def accuracy(self, X: Any, y: Any) -> float:
        """Share of rows whose label is predicted.

        Raises:
            InvalidFeatures: no row, or another number of labels.
        """
        labels, predicted = as_labels(y), self.predict(X)
        if not len(labels) or len(labels) != len(predicted):
            raise InvalidFeatures(f"{len(predicted)} rows of features, {len(labels)} labels")
        return float((labels == predicted).mean())

    def save(self, path: str | Path) -> Path:
        """Write the head to one safetensors file, atomically."""
        tensors = {"weight": self.weight.contiguous(), "intercept": self.intercept}
        described: dict[str, Any] = {
            "package": "lipogram-afl",
            "kind": "head",
            "classes": list(self.classes),
            "gamma": self.gamma,
            "rank": self.rank,
            "condition": min(self.condition, 1e308),
            "space": self.space,
            "feature_map": None,
        }
        if self.feature_map is not None:
            described["feature_map"] = self.feature_map.settings()
            tensors |= {f"map/{name}": t for name, t in self.feature_map.tensors().items()}
        return write_state(path, tensors, described)

    @classmethod
    def load(cls, path: str | Path) -> LinearHead:
        """The head that :meth:`save` wrote.

        Raises:
            FileNotFoundError: no such file.
            CorruptState: a damaged file, or one that holds something else.
        """
        tensors, described = read_state(path)
        if described.get("kind") != "head":
            raise CorruptState(f"{path} holds no head: it is {described.get('kind')!r}")
        try:
            settings = described["feature_map"]
            maps = {n.removeprefix("map/"): t for n, t in tensors.items() if n.startswith("map/")}
            head = cls(
                tensors["weight"],
                tensors["intercept"],
                tuple(described["classes"]),
                float(described["gamma"]),
                int(described["rank"]),
                float(described["condition"]),
                str(described["space"]),
                None if settings is None else buffer_from_settings(settings, maps),
            )
        except (LipogramError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptState(f"{path} holds a head that does not fit together: {error}") from None
        if head.weight.ndim != 2 or head.intercept.shape != (len(head.classes),):
            raise CorruptState(f"{path} holds a head whose shapes do not fit together")
        if head.weight.shape[1] != len(head.classes) or head.weight.dtype != torch.float64:
            raise CorruptState(f"{path} holds a head whose shapes do not fit together")
        return head


def solve_system(
    system: RidgeSystem, gamma: float, *, fit_intercept: bool = False
) -> tuple[Tensor, Tensor, int, float]:
    """Weights (d, k), intercept (k,), rank and condition of ``(G + γI) W = Q``, any γ ≥ 0.

    With γ = 0 and a singular G the solution of least norm is taken, with a warning that has the
    rank; no client needs a γ of its own for that.

    Raises:
        InvalidSetting: γ is negative or not finite.
        SingularSystem: see :meth:`RidgeSystem.solve`.
    """
    check_gamma(gamma, allow_singular=True)
    d = system.gram.shape[0]
    if gamma > 0:
        solution = system.solve(gamma, fit_intercept=fit_intercept)
        return solution.weight, solution.intercept, d, solution.condition
    values, vectors, projected = eigen_path(system, fit_intercept=fit_intercept)
    largest = float(values[-1])
    kept = values > d * 2.0**-52 * largest
    rank = int(kept.sum())
    condition = largest / float(values[kept][0]) if rank else float("inf")
    if rank == d and condition < 1e12:
        solution = system.solve(0, fit_intercept=fit_intercept, allow_singular=True)
        return solution.weight, solution.intercept, d, solution.condition
    warnings.warn(
        f"the pooled rows span {rank} of {d} directions: with gamma 0 this is the solution of "
        "least norm; a gamma above 0 is safer",
        IllConditioned,
        stacklevel=3,
    )
    weight = matmul(vectors[:, kept].contiguous(), projected[kept] / values[kept][:, None])
    return weight, intercept_of(system, weight, fit_intercept), rank, condition


def intercept_of(system: RidgeSystem, weight: Tensor, fit_intercept: bool) -> Tensor:
    """``b = (m − Wᵀs) / Σw`` (k,), or zero."""
    if not fit_intercept or system.mass <= 0:
        return torch.zeros_like(system.target_sum)
    return (system.target_sum - weight.T @ system.row_sum) / system.mass
