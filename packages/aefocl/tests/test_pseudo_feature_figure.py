"""The plane in which pseudo-features are shown keeps what it says it keeps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aefocl.classifier import AEFOCLClassifier
from aefocl.pseudo_feature_figure import MOST_DRAWN, draw_pseudo_features, pseudo_feature_plane
from aefocl.road_stream import road_stream
from aefocl.stream import Stream
from lipogram.errors import InvalidSetting

ROAD = road_stream(n_largest=400, rho=50, segments=2, width=12, n_test=6)


def learnt(stream: Stream) -> AEFOCLClassifier:
    names = np.array(stream.data.class_names)
    rows = stream.order
    model = AEFOCLClassifier(gamma=1.0, buffer_size=None)
    return model.fit(stream.data.train[rows], names[stream.data.train_labels[rows]])


@pytest.fixture(scope="module")
def model() -> AEFOCLClassifier:
    return learnt(ROAD)


def test_it_shows_the_rarest_class_beside_its_nearest(model: AEFOCLClassifier) -> None:
    plane = pseudo_feature_plane(model, ROAD)
    assert plane is not None
    counts = ROAD.class_counts
    assert plane.rare == ROAD.data.class_names[int(counts.argmin())]
    means = {name: mean for name, mean in zip(model.classes_, model.class_mean_, strict=True)}
    away = {n: np.linalg.norm(m - means[plane.rare]) for n, m in means.items() if n != plane.rare}
    assert plane.nearest == min(away, key=lambda name: away[name])
    assert len(plane.learnt) == counts.min()
    assert len(plane.tested) == 6
    assert len(plane.drawn) == min(counts.max() - counts.min(), MOST_DRAWN)
    # The class's mean is the origin; the nearest mean lies on the first axis, as far as it is.
    np.testing.assert_allclose(plane.learnt.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(plane.beside.mean(0), [-away[plane.nearest], 0], atol=1e-9)
    assert np.abs(plane.drawn.mean(0)).max() < 1.0


def test_the_second_axis_is_where_the_class_differs_most(model: AEFOCLClassifier) -> None:
    plane = pseudo_feature_plane(model, ROAD)
    assert plane is not None
    data, names = ROAD.data, np.array(ROAD.data.class_names)
    seen = np.concatenate(
        [
            data.train[names[data.train_labels] == plane.rare],
            data.test[names[data.test_labels] == plane.rare],
        ]
    )
    of = dict(zip(model.classes_, model.class_mean_, strict=True))
    away = of[plane.rare] - of[plane.nearest]
    rest = (seen - of[plane.rare]) @ (np.eye(12) - np.outer(away, away) / np.linalg.norm(away) ** 2)
    largest = np.linalg.eigvalsh(rest.T @ rest)[-1]
    shown = np.concatenate([plane.learnt, plane.tested])[:, 1]
    assert np.square(shown).sum() == pytest.approx(largest, rel=1e-9)


def test_it_is_drawn(model: AEFOCLClassifier, tmp_path: Path) -> None:
    assert draw_pseudo_features(model, ROAD, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InvalidSetting, match="gif"):
        draw_pseudo_features(model, ROAD, tmp_path / "p.gif")


def test_there_is_none_where_a_class_has_too_few_rows_or_stands_alone(tmp_path: Path) -> None:
    few = road_stream(n_largest=4, rho=1, segments=1, width=3)
    assert pseudo_feature_plane(learnt(few), few) is None
    data = ROAD.data
    alone = Stream(replace(data, train_labels=np.zeros_like(data.train_labels)), ROAD.segments)
    assert pseudo_feature_plane(learnt(alone), alone) is None
    assert not draw_pseudo_features(learnt(alone), alone, tmp_path / "p.png")
    assert not (tmp_path / "p.png").exists()


def test_equal_means_have_a_plane_too() -> None:
    rows = np.concatenate([np.eye(3), -np.eye(3)] * 2)
    labels = np.repeat([0, 1], 6)
    data = replace(
        ROAD.data,
        train=rows,
        train_labels=labels,
        test=rows,
        test_labels=labels,
        class_names=("a", "b"),
    )
    whole = replace(ROAD.segments[0], train=np.arange(12))
    stream = Stream(data, (whole,))
    plane = pseudo_feature_plane(learnt(stream), stream)
    assert plane is not None
    assert np.isfinite(np.concatenate(plane[2:])).all()
