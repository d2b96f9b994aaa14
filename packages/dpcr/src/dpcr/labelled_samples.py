"""Samples and their labels, out of the forms in which people have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Subset

from dpcr.study_data import Samples
from lipogram.analytic.labels import as_labels
from lipogram.errors import InvalidFeatures, InvalidLabels


def labelled(data: Any, what: str = "training") -> tuple[Samples, NDArray[Any]]:
    """Samples and labels (n,) of ``(x, y)``, or of a torch Dataset of (sample, label).

    The labels of a Dataset are its attribute ``targets`` or ``labels`` where it has one and nothing
    changes them afterwards; else every sample is read once.

    Args:
        data: x a tensor or array (n, …) or a Dataset of samples, y integers or strings; or a
            Dataset with ``__len__``.
        what: what a message calls them.

    Raises:
        InvalidFeatures: neither of the two, or x and y of different lengths.
        InvalidLabels: labels that are none, or none at all in a Dataset.
    """
    if isinstance(data, tuple | list) and len(data) == 2:
        samples, labels = unlabelled(data[0], what), as_labels(data[1])
    else:
        samples = unlabelled(data, what)
        labels = as_labels(_labels_of(samples, what))
    if len(samples) != len(labels):
        raise InvalidFeatures(f"{len(samples)} {what} samples, {len(labels)} labels")
    return samples, labels


def unlabelled(data: Any, what: str = "test") -> Samples:
    """Samples as they are taken: a tensor, or a Dataset; arrays and lists become tensors.

    Raises:
        InvalidFeatures: anything else.
    """
    if isinstance(data, Dataset):
        if not hasattr(data, "__len__"):
            raise InvalidFeatures(
                f"{what} samples: a Dataset without a length has no order: make a list of it"
            )
        return data
    try:
        samples = data if isinstance(data, Tensor) else torch.as_tensor(np.asarray(data))
    except (TypeError, ValueError) as error:
        raise InvalidFeatures(
            f"{what} samples must be a tensor, an array or a torch Dataset, not "
            f"{type(data).__name__}: {error}"
        ) from None
    if not samples.ndim:
        raise InvalidFeatures(f"{what} samples must be (n, …), this is a single number")
    return samples


def _labels_of(samples: Samples, what: str) -> Any:
    if isinstance(samples, Tensor):
        raise InvalidFeatures(f"{what} samples come without labels: give (x, y)")
    if isinstance(samples, Subset):
        return as_labels(_labels_of(samples.dataset, what))[np.asarray(samples.indices)]  # type: ignore[arg-type]
    for name in ("targets", "labels"):
        found = getattr(samples, name, None)
        if found is not None and getattr(samples, "target_transform", None) is None:
            return found
    read = []
    for position in range(len(samples)):
        item = samples[position]
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise InvalidLabels(f"{what} sample {position} comes without a label: give (x, y)")
        label = item[1]
        read.append(label.item() if isinstance(label, Tensor | np.generic) else label)
    return read
