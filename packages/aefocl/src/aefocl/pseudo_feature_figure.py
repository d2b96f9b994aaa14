"""What pseudo-features look like: a rare class's rows, and the rows drawn for it, in one plane."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aefocl.classifier import AEFOCLClassifier
from aefocl.stream import Stream
from lipogram.figure_style import (
    COLOURS,
    FAINT,
    MUTED,
    framed,
    headline,
    new_figure,
    plain,
    save,
    short,
)

ENOUGH_ROWS, MOST_DRAWN = 5, 300
Rows = NDArray[np.float64]


class Plane(NamedTuple):
    """Rows of a rare class in a plane, each (n, 2), and of the class that is nearest to it.

    The first axis runs from the nearest class's mean to the rare class's; the second is the
    direction at right angles to it in which the rare class's own rows differ most.

    Attributes:
        rare, nearest: names. ``learnt``, ``tested``: rows of the rare class.
        drawn: its pseudo-features. ``beside``: rows of the nearest class that were learnt.
    """

    rare: str
    nearest: str
    learnt: Rows
    tested: Rows
    drawn: Rows
    beside: Rows


def pseudo_feature_plane(model: AEFOCLClassifier, stream: Stream) -> Plane | None:
    """The rarest class of five rows or more, and what is drawn for it, in a plane.

    Args:
        model: that learnt the whole stream.
        stream: of two classes or more.

    Returns:
        None where no class has five rows, or only one class has rows.
    """
    data, counts = stream.data, stream.class_counts
    enough = np.flatnonzero(counts >= ENOUGH_ROWS)
    if not len(enough) or np.count_nonzero(counts) < 2:
        return None
    rare = int(enough[counts[enough].argmin()])
    order = stream.order
    rows, labels = data.train[order].astype(np.float64), data.train_labels[order]
    means = {int(c): rows[labels == c].mean(0) for c in np.flatnonzero(counts)}
    origin = means.pop(rare)
    nearest = min(means, key=lambda c: float(np.linalg.norm(means[c] - origin)))
    learnt, tested = rows[labels == rare], data.test[data.test_labels == rare].astype(np.float64)
    wanted = int(min(max(counts.max() - counts[rare], 1), MOST_DRAWN))
    drawn = model.sample_pseudo(data.class_names[rare], wanted)
    axes = _axes(origin - means[nearest], np.concatenate([learnt, tested]) - origin)

    def seen(points: Rows) -> Rows:
        return (points - origin) @ axes

    return Plane(
        data.class_names[rare],
        data.class_names[nearest],
        seen(learnt),
        seen(tested),
        seen(drawn),
        seen(rows[labels == nearest]),
    )


def draw_pseudo_features(model: AEFOCLClassifier, stream: Stream, path: Path) -> bool:
    """Draw :func:`pseudo_feature_plane`; False, and no file, where there is none.

    Raises:
        InvalidSetting: a path that ends in neither .png nor .svg.
    """
    plane = pseudo_feature_plane(model, stream)
    if plane is None:
        return False
    figure = new_figure(4.2)
    axes = framed(figure.add_subplot())
    rare, nearest = short(plane.rare), short(plane.nearest)
    looks = [
        (plane.beside, f"{nearest}: {len(plane.beside)} rows", FAINT, ".", 22, 0.6),
        (plane.drawn, f"{rare}: {len(plane.drawn)} drawn", COLOURS[0], ".", 22, 0.45),
        (plane.tested, f"{rare}: {len(plane.tested)} to test on", COLOURS[2], "D", 22, 1.0),
        (plane.learnt, f"{rare}: {len(plane.learnt)} learnt", COLOURS[1], "o", 38, 1.0),
    ]
    for number, (points, name, colour, marker, size, opaque) in enumerate(looks):
        axes.scatter(
            points[:, 0],
            points[:, 1],
            s=size,
            c=colour,
            marker=marker,
            alpha=opaque,
            linewidths=0,
            zorder=2 + number,
        )
        height = 0.72 - 0.11 * number
        label = axes.text(
            1.02,
            height,
            name,
            transform=axes.transAxes,
            color=MUTED if colour == FAINT else colour,
            fontsize=9,
            va="center",
        )
        plain(label)
    headline(axes, f"What is drawn for {rare}")
    plain(axes.set_xlabel(f"from the mean of {nearest} to its own", color=MUTED, fontsize=9))
    plain(axes.set_ylabel("where its rows differ most", color=MUTED, fontsize=9))
    save(figure, path)
    return True


def _axes(direction: Rows, spread: Rows) -> Rows:
    """(d, 2) orthonormal: a direction, and the largest spread at right angles to it."""
    length = float(np.linalg.norm(direction))
    first = direction / length if length else np.eye(len(direction))[0]
    rest = spread - np.outer(spread @ first, first)
    second = np.linalg.svd(rest, full_matrices=False)[2][0]
    return np.stack([first, second], axis=1)
