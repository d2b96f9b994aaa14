"""The heads are what their papers say, computed another way."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import NearestCentroid

from lipogram.analytic.linear_heads import NearestClassMean, StreamingLDA

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(5), [60, 40, 30, 20, 10])
X = RNG.standard_normal((5, 12))[LABELS] + RNG.standard_normal((len(LABELS), 12))
TEST = RNG.standard_normal((200, 12))


def in_batches(model: object, batch: int = 7) -> object:
    order = RNG.permutation(len(LABELS))
    for i in range(0, len(LABELS), batch):
        model.partial_fit(X[order[i : i + batch]], LABELS[order[i : i + batch]])  # type: ignore[attr-defined]
    return model


def test_nearest_mean_is_the_nearest_centroid() -> None:
    expected = NearestCentroid().fit(X, LABELS).predict(TEST)
    np.testing.assert_array_equal(in_batches(NearestClassMean()).predict(TEST), expected)  # type: ignore[attr-defined]


def test_streaming_lda_is_lda_with_equal_priors() -> None:
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(X, LABELS)
    expected = (theirs.decision_function(TEST) - np.log(theirs.priors_)).argmax(1)
    ours = in_batches(StreamingLDA(shrinkage=1e-12))
    np.testing.assert_array_equal(ours.predict(TEST), expected)  # type: ignore[attr-defined]


def test_shrinkage_ends_at_the_nearest_mean() -> None:
    lda = in_batches(StreamingLDA(shrinkage=1.0))
    np.testing.assert_array_equal(lda.predict(TEST), in_batches(NearestClassMean()).predict(TEST))  # type: ignore[attr-defined]


@pytest.mark.parametrize("head", [NearestClassMean, StreamingLDA])
def test_a_late_class_counts_from_its_first_row_on(head: type) -> None:
    model = head()
    with pytest.raises(NotFittedError, match="after partial_fit"):
        model.predict(TEST)
    early = LABELS < 4
    model.partial_fit(X[early], LABELS[early]).end_task()
    assert set(model.predict(X)) == {0, 1, 2, 3}
    model.partial_fit(X[~early], LABELS[~early])
    assert set(model.predict(X)) == {0, 1, 2, 3, 4}
    assert (model.predict(X) == LABELS).mean() > 0.7
