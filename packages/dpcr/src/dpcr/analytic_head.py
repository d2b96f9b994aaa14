"""A linear classifier that was solved for, as a module: features in, one score a class out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipogram.analytic.labels import Label, LabelIndex
from lipogram.analytic.rows import as_rows
from lipogram.analytic.state import read_state, write_state
from lipogram.errors import CorruptState, IncompatibleFeatures, LipogramError

KIND = "dpcr-head"


class AnalyticHead(nn.Module):
    """Scores ``z Wᵀ``, no bias: column c of the ridge solution is row c of W.

    Args:
        weight: W (k, d), float64 or float32; k ≥ 1.
        classes: label of each row.

    Attributes:
        weight: W, a buffer.
        classes_: labels (k,).

    Raises:
        IncompatibleFeatures: not one label a row, or no matrix.
        InvalidLabels: a label twice, or labels of several kinds.
    """

    weight: Tensor

    def __init__(self, weight: Tensor, classes: Sequence[Label]) -> None:
        super().__init__()
        if weight.ndim != 2 or not weight.numel() or len(classes) != weight.shape[0]:
            raise IncompatibleFeatures(
                f"a head of {len(classes)} classes has weights (classes, features), not "
                f"{tuple(weight.shape)}"
            )
        self.classes_: NDArray[Any] = LabelIndex(classes).array()
        self.register_buffer("weight", weight.detach().clone())

    @property
    def in_features(self) -> int:
        """Width d of the features."""
        return self.weight.shape[1]

    def forward(self, z: Tensor) -> Tensor:
        """Scores (n, k) of features (n, d), columns in the order of ``classes_``."""
        return nn.functional.linear(z.to(self.weight), self.weight)

    def scores(self, features: Any) -> Tensor:
        """:meth:`forward` of features of any kind, checked first.

        Raises:
            InvalidFeatures: another width, NaN or infinity.
        """
        rows = as_rows(features, self.in_features, device=self.weight.device)
        with torch.no_grad():
            scores: Tensor = self(rows)
        return scores

    def predict(self, features: Any) -> NDArray[Any]:
        """Labels (n,) with the largest score.

        Raises:
            InvalidFeatures: another width, NaN or infinity.
        """
        labels: NDArray[Any] = self.classes_[self.scores(features).argmax(1).cpu().numpy()]
        return labels

    def score(self, features: Any, labels: Any) -> float:
        """Share of rows predicted right.

        Raises:
            InvalidFeatures, InvalidLabels: see there.
        """
        from lipogram.analytic.metrics import accuracy

        return accuracy(labels, self.predict(features))

    def save(self, path: str | Path) -> Path:
        """Write weights and labels to one safetensors file, atomically."""
        tensors, described = self.state()
        return write_state(path, tensors, {"kind": KIND, **described})

    @classmethod
    def load(cls, path: str | Path, *, device: torch.device | str = "cpu") -> AnalyticHead:
        """The head that :meth:`save` wrote.

        Raises:
            FileNotFoundError: no such file.
            CorruptState: a damaged or hostile file, or one of another kind.
        """
        tensors, described = read_state(path)
        if described.get("kind") != KIND:
            raise CorruptState(f"{path} holds {described.get('kind')!r}, not {KIND!r}")
        return cls.of_state(tensors, described).to(device)

    def state(self, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors (their names under ``prefix``) and JSON description."""
        return {f"{prefix}weight": self.weight}, {"classes": self.classes_.tolist()}

    @classmethod
    def of_state(cls, tensors: dict[str, Tensor], described: Any, prefix: str = "") -> AnalyticHead:
        """The head that :meth:`state` described.

        Raises:
            CorruptState: weights and labels that do not fit together.
        """
        try:
            weight = tensors[f"{prefix}weight"]
            if weight.dtype not in (torch.float64, torch.float32):
                raise CorruptState(f"the weights are {weight.dtype}")
            return cls(weight, list(described["classes"]))
        except CorruptState:
            raise
        except (LipogramError, KeyError, TypeError, ValueError) as error:
            raise CorruptState(f"the head in the file does not fit together: {error!r}") from None


def unit_rows(weight: Tensor) -> Tensor:
    """Rows over their norms (of at least 1e-12): every class scores by angle alone."""
    norms = weight.norm(dim=1, keepdim=True).clamp(min=1e-12)
    normalised: Tensor = weight / norms
    return normalised


def all_labels(*parts: Sequence[Label]) -> tuple[list[Label], list[NDArray[np.int64]]]:
    """Labels of several lists in order of appearance, and the place of each list's own."""
    index, places = LabelIndex(), []
    for part in parts:
        slots, new = index.plan(list(part))
        index.extend(new)
        places.append(slots)
    return index.labels, places
