"""The labels of a set of samples: at least one, of one kind."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipogram.analytic.labels import as_labels, kind_of
from lipogram.errors import InvalidLabels


def sample_labels(
    values: ArrayLike, *, what: str = "labels", like: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Labels (n,), n >= 1, as :func:`lipogram.analytic.labels.as_labels` reads them.

    Args:
        values: integers or strings.
        what: what a message calls them.
        like: labels whose kind they must have.

    Raises:
        InvalidLabels: none at all, not one-dimensional, neither integers nor strings, or of another
            kind than `like`.
    """
    try:
        array = as_labels(values)
    except InvalidLabels as error:
        raise InvalidLabels(f"{what}: {error}") from None
    if not np.size(array):
        raise InvalidLabels(f"{what} are empty: at least one sample is needed")
    if like is not None and kind_of(array) != kind_of(like):
        raise InvalidLabels(f"{what} are of kind {kind_of(array)}, the labels of {kind_of(like)}")
    return array
