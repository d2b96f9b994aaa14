"""Metrics of continual learning; every one is a float in [0, 1].

Labels and predictions are (n,) arrays of one kind, integers or strings. A class counts if it is in
`labels`; a prediction of any other class is a mistake, not a class.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipogram.analytic.labels import Label
from lipogram.analytic.sample_labels import sample_labels
from lipogram.errors import InvalidLabels, InvalidSetting


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Share of samples predicted right.

    Raises:
        InvalidLabels: empty, of unequal length or kind, or neither integers nor strings.
    """
    return float(np.mean(_hits(labels, predictions)[1]))


def per_class_accuracy(labels: ArrayLike, predictions: ArrayLike) -> dict[Label, float]:
    """Share predicted right of each class in `labels`, classes sorted.

    Raises:
        InvalidLabels: as :func:`accuracy`.
    """
    truth, hits = _hits(labels, predictions)
    classes, position = np.unique(truth, return_inverse=True)
    right = np.bincount(position, weights=hits)
    return dict(zip(classes.tolist(), (right / np.bincount(position)).tolist(), strict=True))


def balanced_accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Mean of the per-class accuracies: every class weighs the same, whatever its size.

    Raises:
        InvalidLabels: as :func:`accuracy`.
    """
    return float(np.mean(list(per_class_accuracy(labels, predictions).values())))


def average_incremental_accuracy(accuracies: ArrayLike) -> float:
    """Mean over the phases, phase 0 included, of the accuracy on all classes seen by then.

    Args:
        accuracies: (phases,) in [0, 1].

    Raises:
        InvalidSetting: none, or one outside [0, 1].
    """
    return float(np.mean(_rates(accuracies)))


def last_accuracy(accuracies: ArrayLike) -> float:
    """Accuracy after the last phase.

    Raises:
        InvalidSetting: none, or one outside [0, 1].
    """
    return float(_rates(accuracies)[-1])


def a_auc(accuracies: ArrayLike) -> float:
    """Area under the accuracy curve: the mean over queries evenly spaced in samples.

    Each query is answered on the test samples of the classes exposed so far.

    Args:
        accuracies: (queries,) in [0, 1].

    Raises:
        InvalidSetting: none, or one outside [0, 1].

    Reference: Koh et al., arXiv 2110.10031, section 3.
    """
    return float(np.mean(_rates(accuracies)))


def a_avg(accuracies: ArrayLike) -> float:
    """Mean of the accuracies at the task ends.

    Raises:
        InvalidSetting: none, or one outside [0, 1].
    """
    return average_incremental_accuracy(accuracies)


def a_last(accuracies: ArrayLike) -> float:
    """Accuracy at the last task end.

    Raises:
        InvalidSetting: none, or one outside [0, 1].
    """
    return last_accuracy(accuracies)


def forgetting(evaluations: Sequence[Mapping[Label, float]]) -> float:
    r"""Accuracy lost since each class (or task) was known best.

    :math:`F = \max(0, \frac{1}{|J|}\sum_{j\in J} (\max_{t<T} a_{t,j} - a_{T,j}))`, with J the
    classes of positive accuracy at an earlier evaluation; 0 if there are none.

    Args:
        evaluations: per-class accuracies in [0, 1] at each evaluation, in order, at least two;
            classes not evaluated at a time are left out there.

    Raises:
        InvalidSetting: fewer than two evaluations, or an accuracy outside [0, 1].
        InvalidLabels: a class of J that the last evaluation leaves out.

    Reference: Chaudhry et al., "Riemannian Walk for Incremental Learning", arXiv 1801.10112.
    """
    if len(evaluations) < 2:
        raise InvalidSetting(f"forgetting needs two evaluations or more, got {len(evaluations)}")
    *earlier, final = evaluations
    best: dict[Label, float] = {}
    for evaluation in earlier:
        for label, rate in evaluation.items():
            best[label] = max(rate, best.get(label, 0.0))
    known = [label for label, rate in best.items() if rate > 0]
    missing = [label for label in known if label not in final]
    if missing:
        raise InvalidLabels(f"the last evaluation leaves out classes seen before: {missing[:5]}")
    if not known:
        return 0.0
    peak = _rates([best[label] for label in known])
    now = _rates([final[label] for label in known])
    return max(0.0, float(np.mean(peak - now)))


class AMCA(NamedTuple):
    """Average mean class accuracy.

    Attributes:
        value: the metric.
        absent: classes that at least one test point had no sample of, which that point leaves out.
    """

    value: float
    absent: tuple[Label, ...]


def amca(points: Sequence[Mapping[Label, float]], classes: Iterable[Label] = ()) -> AMCA:
    """Mean over the test points of the mean over the classes of accuracy.

    A class in the test set that was not learned yet counts with its accuracy (0); a class without a
    test sample does not count and is listed. (Avalanche 0.6 counts it as 0 once an earlier point
    has tested it; where every point tests every class both give the same.)

    Args:
        points: :func:`per_class_accuracy` at each test point.
        classes: classes that ought to be tested, to be listed if they are in no point.

    Raises:
        InvalidSetting: no test point, a point without classes, or an accuracy outside [0, 1].

    Reference: the metric of CLAD-C, Verwimp et al., Neural Networks 161 (2023), 659-669.
    """
    if not points:
        raise InvalidSetting("amca needs at least one test point")
    wanted = dict.fromkeys([*classes, *(label for point in points for label in point)])
    absent = tuple(label for label in wanted if any(label not in point for point in points))
    means = [np.mean(_rates(list(point.values()))) for point in points]
    return AMCA(float(np.mean(means)), absent)


def shot_groups(
    counts: Mapping[Label, int], *, many: int = 100, few: int = 20
) -> dict[str, list[Label]]:
    """Classes by their number of training samples: many (> `many`), few (< `few`), medium between.

    Args:
        counts: training samples of each class.
        many: a class with more samples is a many-shot class.
        few: a class with fewer samples is a few-shot class.

    Returns:
        "many", "medium" and "few", each a list of classes, which may be empty.

    Raises:
        InvalidSetting: no class, a negative count, or `few` above `many`.

    Reference: Liu et al., "Large-Scale Long-Tailed Recognition in an Open World", arXiv 1904.05160.
    """
    if not counts:
        raise InvalidSetting("shot_groups needs the counts of at least one class")
    if few > many:
        raise InvalidSetting(f"few must not exceed many, got few={few} and many={many}")
    groups: dict[str, list[Label]] = {"many": [], "medium": [], "few": []}
    for label, count in counts.items():
        if count < 0:
            raise InvalidSetting(f"class {label!r} has a negative count, {count}")
        groups["many" if count > many else "few" if count < few else "medium"].append(label)
    return groups


def shot_accuracy(
    accuracies: Mapping[Label, float],
    counts: Mapping[Label, int],
    *,
    many: int = 100,
    few: int = 20,
) -> dict[str, float]:
    """Mean per-class accuracy of each of the :func:`shot_groups` that has a tested class.

    Args:
        accuracies: :func:`per_class_accuracy` on the test set.
        counts: training samples of each class; a tested class left out has none.
        many: as :func:`shot_groups`.
        few: as :func:`shot_groups`.

    Raises:
        InvalidSetting: as :func:`shot_groups`, or an accuracy outside [0, 1].
    """
    tested = {label: counts.get(label, 0) for label in accuracies}
    groups = shot_groups(tested, many=many, few=few)
    return {
        name: float(np.mean(_rates([accuracies[label] for label in members])))
        for name, members in groups.items()
        if members
    }


def _hits(
    labels: ArrayLike, predictions: ArrayLike
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    truth = sample_labels(labels)
    guess = sample_labels(predictions, what="predictions", like=truth)
    if len(truth) != len(guess):
        raise InvalidLabels(f"{len(truth)} labels, but {len(guess)} predictions")
    return truth, truth == guess


def _rates(values: ArrayLike) -> NDArray[np.float64]:
    rates = np.asarray(values, dtype=np.float64)
    if rates.ndim != 1 or rates.size == 0:
        raise InvalidSetting(f"accuracies must be one or more in a row (n,), got {rates.shape}")
    if not ((rates >= 0) & (rates <= 1)).all():
        wrong = rates[~((rates >= 0) & (rates <= 1))][0]
        raise InvalidSetting(f"accuracies must be in [0, 1], got {wrong}")
    return rates
