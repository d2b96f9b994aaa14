"""A made-up road: rare classes, days and nights, and objects that stay in view for a while."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aefocl.burst_order import burst_order, equal_segments
from aefocl.stream import Stream
from lipogram.analytic.scenarios import long_tailed_counts
from lipogram.analytic.sources import Features
from lipogram.errors import InvalidSetting

CLASS_NAMES = ("Car", "Truck", "Pedestrian", "Cyclist", "Tram", "Tricycle")
# Standard deviations, where that of a class's mean is 1 in every feature.
_LIGHT, _CLASS_LIGHT, _OBJECT, _FRAME = 1.0, 0.5, 2.0, 1.0


def road_stream(
    *,
    n_largest: int = 1500,
    rho: float = 100.0,
    segments: int = 6,
    width: int = 64,
    burst: float = 8.0,
    n_test: int = 60,
    seed: int = 0,
) -> Stream:
    """Six classes of sizes ``rho``:1 over alternating days and nights, in runs of one object.

    A row is its class's mean, moved by the light of its segment (one vector for all classes and one
    for each), plus what the object in view is like (one vector a run) and noise of its own, all
    Gaussian. The test holds as many rows of each class by day as by night, each an object of
    its own.

    Args:
        n_largest: rows of the largest class, see
            :func:`lipogram.analytic.scenarios.long_tailed_counts`.
        rho: the largest class over the smallest.
        segments: test points, at equal numbers of rows; the first is a day.
        width: features a row.
        burst: mean length of a run of consecutive rows of one object.
        n_test: test rows a class.
        seed: of everything drawn.

    Raises:
        InvalidSetting: a count below 1, fewer than 2 test rows a class, ``rho`` or ``burst``
            below 1, or more segments than rows.
    """
    if width < 1 or n_test < 2:
        raise InvalidSetting(f"width must be >= 1 and n_test >= 2, got {width} and {n_test}")
    rng = np.random.default_rng(seed)
    k = len(CLASS_NAMES)
    means = rng.standard_normal((k, width))
    light = _LIGHT * rng.standard_normal((2, 1, width))
    light = light + _CLASS_LIGHT * rng.standard_normal((2, k, width))

    def seen(
        labels: NDArray[np.int64], night: NDArray[np.int64], objects: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Rows (n, width) of these classes, lights and objects."""
        looks = _OBJECT * rng.standard_normal((int(objects.max()) + 1, width))
        noise = _FRAME * rng.standard_normal((len(labels), width))
        rows: NDArray[np.float64] = means[labels] + light[night, labels] + looks[objects] + noise
        return rows

    sizes = long_tailed_counts(k, n_largest, rho)
    order, runs = burst_order(np.repeat(np.arange(k), sizes), burst, rng)
    labels = np.repeat(np.arange(k), sizes)[order]
    tasks = equal_segments(np.arange(len(labels)), labels, segments)
    night = np.concatenate([np.full(len(task.train), i % 2) for i, task in enumerate(tasks)])
    test_labels = np.repeat(np.arange(k), n_test)
    tested = np.arange(len(test_labels))
    data = Features(
        seen(labels, night, runs),
        labels,
        seen(test_labels, tested % 2, tested),
        test_labels,
        CLASS_NAMES,
        "road",
        f"road {seed}",
    )
    return Stream(data, tasks)
