"""Accuracy while classes arrive task by task: all figures are shares in [0, 1].

An accuracy matrix R has one row a task: ``R[t, j]``, the accuracy on the classes of task j after
task t, NaN for j > t. Tasks differ in size (a large first task, a small last one), so the accuracy
on all classes is no mean of a row and is counted by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipogram.analytic.labels import Label
from lipogram.analytic.metrics import accuracy
from lipogram.analytic.sample_labels import sample_labels
from lipogram.errors import InvalidLabels, InvalidSetting


def grouped_accuracy(
    labels: ArrayLike, predictions: ArrayLike, groups: Sequence[Collection[Label]]
) -> NDArray[np.float64]:
    """Accuracy on the samples of each group of classes; NaN for a group without a sample.

    Args:
        labels: (n,) integers or strings.
        predictions: (n,) of the same kind.
        groups: the classes of each group, as the tasks brought them: groups of another size than
            the first one's are no special case.

    Returns:
        (len(groups),); as row t of the accuracy matrix when the groups are the tasks up to t.

    Raises:
        InvalidLabels: empty, of unequal length or kind, or a class in two groups.
    """
    accuracy(labels, predictions)  # raises for what cannot be compared
    truth = sample_labels(labels)
    hits = truth == sample_labels(predictions, what="predictions", like=truth)
    members = [label for group in groups for label in group]
    if len(set(members)) < len(members):
        twice = next(label for label in members if members.count(label) > 1)
        raise InvalidLabels(f"class {twice!r} is in two groups: each class belongs to one task")
    row = np.full(len(groups), np.nan)
    for j, group in enumerate(groups):
        here = np.isin(truth, list(group)) if group else np.zeros(len(truth), dtype=bool)
        if here.any():
            row[j] = hits[here].mean()
    return row


def old_new_accuracy(
    labels: ArrayLike, predictions: ArrayLike, new: Collection[Label]
) -> tuple[float | None, float | None]:
    """Accuracy on the classes of earlier tasks and on those of the present one.

    None where there is no such sample (before the second task nothing is old).

    Raises:
        InvalidLabels: as :func:`grouped_accuracy`.
    """
    old = set(sample_labels(labels).tolist()) - set(new)
    row = grouped_accuracy(labels, predictions, [old, set(new)]).tolist()
    old_rate, new_rate = (None if np.isnan(rate) else float(rate) for rate in row)
    return old_rate, new_rate


def top_k_accuracy(
    labels: ArrayLike, scores: ArrayLike, classes: Sequence[Label], k: int = 5
) -> float | None:
    """Share of the samples whose class is among the k of largest score.

    A tie counts against the sample: constant scores hit nothing.

    Args:
        labels: (n,) integers or strings.
        scores: (n, c).
        classes: (c,) label of each column.
        k: at least 1.

    Returns:
        None if there are fewer than k classes: every answer would be right.

    Raises:
        InvalidLabels: none, or another number of labels than of scores.
        InvalidSetting: scores of another width than there are classes, NaN, or k < 1.
    """
    truth = sample_labels(labels)
    table = np.asarray(scores, dtype=np.float64)
    if k < 1:
        raise InvalidSetting(f"k is {k}, it must be at least 1")
    if table.ndim != 2 or table.shape[1] != len(classes) or np.isnan(table).any():
        raise InvalidSetting(
            f"scores of shape {table.shape} must be one number for each of {len(classes)} classes"
        )
    if len(truth) != len(table) or not len(truth):
        raise InvalidLabels(f"{len(truth)} labels, but {len(table)} rows of scores")
    if len(classes) < k:
        return None
    column = {label: j for j, label in enumerate(classes)}
    where = np.array([column.get(label, -1) for label in truth.tolist()])
    own = np.where(where < 0, -np.inf, table[np.arange(len(table)), where])
    rivals = (table >= own[:, None]).sum(1) - 1
    return float(np.mean((where >= 0) & (rivals < k)))


def accuracy_matrix(rows: Sequence[Sequence[float | None]]) -> NDArray[np.float64]:
    """R (T, T) from its rows, each as long as tasks were known or longer; NaN above the diagonal.

    Args:
        rows: row t has at least t + 1 entries; None or NaN stands for "not measured".

    Raises:
        InvalidSetting: no row, a row that is too short, or an accuracy outside [0, 1].
    """
    size = len(rows)
    if not size:
        raise InvalidSetting("an accuracy matrix needs at least one row")
    matrix = np.full((size, size), np.nan)
    for t, row in enumerate(rows):
        if len(row) <= t:
            raise InvalidSetting(f"row {t} has {len(row)} accuracies, it must have {t + 1}")
        for j, rate in enumerate(row[: t + 1]):
            if rate is not None and not np.isnan(rate):
                if not 0 <= rate <= 1:
                    raise InvalidSetting(f"accuracies must be in [0, 1], R[{t}, {j}] is {rate}")
                matrix[t, j] = rate
    return matrix


def forgetting(matrix: ArrayLike) -> float | None:
    r"""Accuracy lost on each earlier task since it was known best.

    :math:`F = \frac{1}{T-1}\sum_{j<T} (\max_{j \le t<T} R_{t,j} - R_{T,j})`; every earlier task
    counts, and a task that is known better at the end than ever before counts negative. None
    before the second task.

    Args:
        matrix: R (T, T), :func:`accuracy_matrix`.

    Raises:
        InvalidSetting: not square.

    Reference: Chaudhry et al., "Riemannian Walk for Incremental Learning", arXiv 1801.10112, for
    tasks as groups. :func:`lipogram.analytic.metrics.forgetting` is the form for single classes.
    """
    r = _square(matrix)
    lost = [
        np.nanmax(r[j:-1, j]) - r[-1, j]
        for j in range(len(r) - 1)
        if _measured(r[j:-1, j], r[-1, j])
    ]
    return float(np.mean(lost)) if lost else None


def backward_transfer(matrix: ArrayLike) -> float | None:
    r""":math:`\frac{1}{T-1}\sum_{j<T} (R_{T,j} - R_{j,j})`: negative where later tasks did harm.

    None before the second task.

    Args:
        matrix: R (T, T), :func:`accuracy_matrix`.

    Raises:
        InvalidSetting: not square.

    Reference: Lopez-Paz & Ranzato, "Gradient Episodic Memory", arXiv 1706.08840, section 2.
    """
    r = _square(matrix)
    change = [r[-1, j] - r[j, j] for j in range(len(r) - 1) if _measured(r[j, j : j + 1], r[-1, j])]
    return float(np.mean(change)) if change else None


def _measured(earlier: NDArray[np.float64], last: Any) -> bool:
    return not np.isnan(last) and not np.isnan(earlier).all()


def _square(matrix: ArrayLike) -> NDArray[np.float64]:
    r = np.asarray(matrix, dtype=np.float64)
    if r.ndim != 2 or r.shape[0] != r.shape[1] or not len(r):
        raise InvalidSetting(f"an accuracy matrix is (T, T) with T ≥ 1, got {r.shape}")
    return r
