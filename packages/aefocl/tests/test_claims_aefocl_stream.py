"""What is claimed of streams: rare classes gain, and evaluation leaves the sums alone."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from aefocl.baselines import learner
from aefocl.classifier import AEFOCLClassifier
from aefocl.image_streams import digits_stream
from aefocl.online import TestPoint, evaluate_online
from aefocl.road_stream import road_stream
from aefocl.stream import Stream


@pytest.mark.parametrize(
    ("stream_of", "gain"), [(road_stream, 0.1), (digits_stream, 0.0)], ids=["road", "digits"]
)
def test_pseudo_features_raise_amca_over_the_plain_head(
    stream_of: Callable[..., Stream], gain: float
) -> None:
    for seed in range(3):
        model = AEFOCLClassifier(gamma=1.0, buffer_size=None, seed=seed)
        result = evaluate_online(model, stream_of(seed=seed))
        assert result.plain_amca is not None
        assert result.amca.value > result.plain_amca.value + gain


def test_at_every_point_the_plain_head_is_the_joint_ridge() -> None:
    stream = road_stream(n_largest=300, rho=30)
    names = np.array(stream.data.class_names)
    model = AEFOCLClassifier(gamma=2.0, buffer_size=None)
    seen: list[int] = []

    def compare(point: TestPoint) -> None:
        rows = stream.order[: point.n_seen]
        labels = names[stream.data.train_labels[rows]]
        theirs = Ridge(alpha=2.0, fit_intercept=False).fit(
            stream.data.train[rows], (labels[:, None] == model.classes_).astype(float)
        )
        model.balance = "off"
        np.testing.assert_allclose(model.coef_, theirs.coef_, rtol=1e-9, atol=1e-12)
        model.balance = "on_predict"
        seen.append(point.n_seen)

    evaluate_online(model, stream, progress=compare)
    assert len(seen) == len(stream.segments)


def test_the_size_of_a_batch_changes_nothing() -> None:
    stream = road_stream(n_largest=200, rho=20, segments=3)
    results = [
        evaluate_online(learner("aefocl", gamma=1.0, buffer_size=None), stream, batch)
        for batch in (1, 10, 1000)
    ]
    for other in results[1:]:
        for a, b in zip(results[0].points, other.points, strict=True):
            assert a.n_seen == b.n_seen
            assert a.score.per_class == b.score.per_class
            assert a.plain is not None
            assert b.plain is not None
            assert a.plain.per_class == b.plain.per_class
