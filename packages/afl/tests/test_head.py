import numpy as np
import pytest

from afl.client_stats import ClientStats
from afl.federation import Federation
from afl.head import LinearHead
from lipogram.analytic.buffer import RandomBuffer
from lipogram.errors import CorruptState, InvalidFeatures

rng = np.random.default_rng(0)
Y = rng.choice(["bus", "car"], 300)
X = rng.standard_normal((300, 6)) + 2 * (Y == "car")[:, None]


def solved(**settings):
    federation = Federation()
    federation.add("a", ClientStats.compute(X, Y, **settings))
    return federation.solve(1.0, fit_intercept=True)


@pytest.mark.parametrize("buffer", [None, RandomBuffer(6, 40, seed=2)])
def test_a_saved_head_says_the_same(tmp_path, buffer):
    head = solved(feature_map=buffer)
    again = LinearHead.load(head.save(tmp_path / "head.st"))
    assert np.array_equal(again.scores(X), head.scores(X))
    assert again.predict(X).tolist() == head.predict(X).tolist()
    assert head.accuracy(X, Y) > 0.9


def test_bad_rows_are_refused():
    head = solved()
    with pytest.raises(InvalidFeatures, match="6"):
        head.predict(X[:, :5])
    with pytest.raises(InvalidFeatures, match="labels"):
        head.accuracy(X, Y[:5])


def test_a_file_of_something_else_is_refused(tmp_path):
    federation = Federation()
    federation.add("a", ClientStats.compute(X, Y))
    path = federation.save(tmp_path / "sum.st")
    with pytest.raises(CorruptState, match="no head"):
        LinearHead.load(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptState):
        LinearHead.load(path)
