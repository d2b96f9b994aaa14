"""Samples in batches, for a loader whose workers make a whole batch each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dpcr.study_data import Samples, taken


class SampleBatches(Dataset[Tensor]):
    """Batches of positions as the items of a Dataset, so that a worker makes a whole one.

    Args:
        samples: a tensor (n, …) or a Dataset.
        positions: of each batch.
    """

    def __init__(self, samples: Samples, positions: Sequence[NDArray[Any]]) -> None:
        self.samples, self.positions = samples, positions

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.positions)

    def __getitem__(self, number: int) -> Tensor:
        """The samples (b, …) of a batch."""
        if number >= len(self.positions):
            raise IndexError(number)
        return taken(self.samples, self.positions[number])
