"""The classifier that a backbone is trained with: the angle between features and a row a class."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from lipogram.analytic.settings import positive, whole
from lipogram.errors import InvalidFeatures, InvalidSetting


class CosineHead(nn.Module):
    """Scores ``s cos(z, w_j)`` with one scale s for all classes; weight and scale are learned.

    Args:
        width: of the features, d.
        n_classes: rows, k.
        scale: initial s. 1 is the authors' (DPCR, He et al., ICML 2025, released code); it takes
            some hundred epochs to grow to where a softmax can say yes. 16 trains in a few.
        generator: of the initial weights, uniform in ±1/√d; None takes torch's global one.

    Attributes:
        weight: (k, d). ``scale``: ().

    Raises:
        InvalidSetting: a width or a number of classes below 1, a scale that is not above 0.
    """

    def __init__(
        self,
        width: int,
        n_classes: int,
        *,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        bound = whole("width", width) ** -0.5
        rows = torch.rand(whole("n_classes", n_classes), width, generator=generator)
        self.weight = nn.Parameter((2 * rows - 1) * bound)
        self.scale = nn.Parameter(torch.tensor(positive("scale", scale)))

    @property
    def width(self) -> int:
        """Width d of the features."""
        return self.weight.shape[1]

    @property
    def n_classes(self) -> int:
        """Number of classes k."""
        return self.weight.shape[0]

    def forward(self, z: Tensor) -> Tensor:
        """Scores (n, k) of features (n, d)."""
        unit = functional.normalize(z.to(self.weight.dtype), dim=1)
        return self.scale * functional.linear(unit, functional.normalize(self.weight, dim=1))

    def grown(self, n_classes: int, *, generator: torch.Generator | None = None) -> CosineHead:
        """A head of more classes that scores the old ones as this one does.

        Args:
            n_classes: of the new head; its first rows are this one's.
            generator: of the new rows.

        Raises:
            InvalidSetting: fewer classes than there are.
        """
        if n_classes < self.n_classes:
            raise InvalidSetting(f"a head of {self.n_classes} classes cannot grow to {n_classes}")
        head = CosineHead(self.width, n_classes, generator=generator).to(self.weight)
        with torch.no_grad():
            head.weight[: self.n_classes] = self.weight
            head.scale.copy_(self.scale)
        return head


class CosineClassifier(nn.Module):
    """A backbone with its cosine head: what is trained on a task, and distilled from in the next.

    Attributes:
        backbone: samples (n, …) to features (n, d). ``head``: features to scores.
    """

    def __init__(self, backbone: nn.Module, head: CosineHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor, *, amp: bool = False) -> Tensor:
        """Scores (n, k) of samples (n, …); with ``amp`` the backbone computes in bfloat16."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=amp):
            features = self.backbone(x)
        scores: Tensor = self.head(features)
        return scores

    def grown(self, n_classes: int, *, generator: torch.Generator | None = None) -> Self:
        """A copy, head and all, that knows more classes; see :meth:`CosineHead.grown`."""
        head = self.head.grown(n_classes, generator=generator)
        return type(self)(copy.deepcopy(self.backbone), head)


@torch.no_grad()
def feature_width(backbone: nn.Module, samples: Tensor) -> int:
    """Width d of a backbone's features, as it says itself or as a look at samples (n, …) tells.

    Raises:
        InvalidFeatures: what it gives is no matrix (n, d).
    """
    width = getattr(backbone, "width", None)
    if isinstance(width, int):
        return width
    was_training = backbone.training
    features = backbone.eval()(samples)
    backbone.train(was_training)
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(samples):
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InvalidFeatures(
            f"the backbone gives {shape} for {len(samples)} samples, features must be a matrix "
            "(n, d): does it still end in its classifier or a map?"
        )
    return int(features.shape[1])
