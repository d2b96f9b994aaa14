"""What an estimator is handed, checked as scikit-learn's users expect and torch's users need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import column_or_1d, validate_data
from torch import Tensor

from lipogram.analytic.class_sums import CHUNK_ROWS
from lipogram.analytic.labels import as_labels
from lipogram.analytic.rows import LARGEST, as_rows, as_weights
from lipogram.errors import InvalidFeatures, InvalidLabels, InvalidSetting

_SET_BY_VALIDATION = ("n_features_in_", "feature_names_in_")


def checked_rows(estimator: BaseEstimator, X: Any, *, reset: bool, at_least: int = 1) -> Any:
    """Features as a tensor, a float array or a CSR matrix (n, d), of the width the estimator knows.

    Values of dense rows are not searched for NaN here: the sums do that, and name the row.

    Args:
        estimator: gets ``n_features_in_`` when ``reset``.
        X: numpy, pandas, scipy.sparse, torch, or nested lists.
        reset: take the width instead of checking it.
        at_least: smallest number of rows.

    Raises:
        InvalidFeatures, ValueError: another width, another number of dimensions, no number; NaN,
            infinity or an overflow in a sparse matrix.
    """
    if isinstance(X, Tensor):
        if X.ndim != 2 or X.shape[0] < at_least:
            raise InvalidFeatures(
                f"features have shape {tuple(X.shape)}: a matrix of at least {at_least} rows is "
                "needed"
            )
        width = X.shape[1] if reset else estimator.n_features_in_
        rows = as_rows(X, width, device=X.device, check_finite=False)
        if reset:
            estimator.n_features_in_ = width
            estimator.__dict__.pop("feature_names_in_", None)
        return rows
    try:
        rows = validate_data(
            estimator,
            X,
            reset=reset,
            accept_sparse="csr",
            accept_large_sparse=False,
            dtype=[np.float64, np.float32],
            ensure_all_finite=False,
            ensure_min_samples=at_least,
        )
    except ValueError as error:  # a typed error is one line at the command line
        raise InvalidFeatures(str(error)) from error
    if scipy.sparse.issparse(rows):
        bad = np.flatnonzero(~(np.abs(rows.data) <= LARGEST))
        if bad.size:
            row = int(np.searchsorted(rows.indptr, bad[0], side="right")) - 1
            raise InvalidFeatures(
                f"features hold {rows.data[bad[0]]} in row {row}: NaN, infinity and magnitudes "
                f"above {LARGEST:g} cannot enter the sums"
            )
    return rows


def checked_batch(
    estimator: BaseEstimator, X: Any, y: Any, sample_weight: Any, *, reset: bool, at_least: int
) -> tuple[Any, NDArray[Any], NDArray[np.float64] | None]:
    """Features, labels (n,) and weights (n,) of a batch.

    Raises:
        InvalidLabels: labels that are missing or no class labels.
        InvalidFeatures, ValueError: features of another shape, or of another number of rows.
        InvalidSetting: weights of another shape, negative, not finite, or (unless rows may be
            missing) all 0.
    """
    if y is None:
        raise InvalidLabels(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None"
        )
    rows = checked_rows(estimator, X, reset=reset, at_least=at_least)
    labels = as_labels(y if isinstance(y, Tensor) else column_or_1d(y, warn=True))
    if len(labels) != rows.shape[0]:
        raise InvalidFeatures(f"{rows.shape[0]} rows of features, {len(labels)} labels")
    if isinstance(sample_weight, Tensor):
        sample_weight = sample_weight.detach().double().cpu()
    weight = as_weights(sample_weight, len(labels))
    if weight is not None and at_least and not bool(weight.any()):
        raise InvalidSetting("every sample_weight is zero: there is nothing to learn from")
    return rows, labels, None if weight is None else weight.numpy()


@contextmanager
def unchanged_on_error(estimator: BaseEstimator) -> Iterator[None]:
    """What validation noted about the features is taken back when the block fails."""
    before = {n: v for n, v in estimator.__dict__.items() if n in _SET_BY_VALIDATION}
    try:
        yield
    except BaseException:
        for name in _SET_BY_VALIDATION:
            estimator.__dict__.pop(name, None)
        estimator.__dict__.update(before)
        raise


def feed(
    statistics: Any, rows: Any, labels: NDArray[Any], weight: NDArray[np.float64] | None
) -> None:
    """Update statistics with checked rows, dense or sparse, all or none."""
    if not scipy.sparse.issparse(rows):
        statistics.update(rows, labels, sample_weight=weight)
        return
    more = statistics.like()  # chunks of a sparse batch enter together or not at all
    for part in chunks(len(labels)):
        chunk = None if weight is None else weight[part]
        more.update(rows[part].toarray(), labels[part], sample_weight=chunk)
    statistics.merge(more)


def dense_chunks(rows: Any, width: int, device: str) -> Iterator[Tensor]:
    """Checked rows as tensors (≤ CHUNK_ROWS, width) on a device, in order."""
    sparse = scipy.sparse.issparse(rows)
    whole = rows if sparse else as_rows(rows, width, device=device)
    for part in chunks(rows.shape[0]):
        yield as_rows(rows[part].toarray(), width, device=device) if sparse else whole[part]


def chunks(n: int) -> Iterator[slice]:
    """Slices of CHUNK_ROWS that cover n rows; one empty slice for none."""
    for i in range(0, max(n, 1), CHUNK_ROWS):
        yield slice(i, i + CHUNK_ROWS)
