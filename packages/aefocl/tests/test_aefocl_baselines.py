"""What is compared is what its name says, computed another way."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from aefocl.baselines import METHODS, ClassBalancedRidge, learner
from aefocl.classifier import AEFOCLClassifier
from aefocl.online import has_two_heads
from lipogram.analytic.buffer import RandomBuffer
from lipogram.errors import InvalidSetting

RNG = np.random.default_rng(0)
LABELS = np.repeat(["car", "bus", "tram", "bike"], [60, 20, 8, 3])
NAMES = np.unique(LABELS)
X = RNG.standard_normal((4, 10))[np.searchsorted(NAMES, LABELS)]
X = X + RNG.standard_normal(X.shape)
TEST = RNG.standard_normal((300, 10))


@pytest.mark.parametrize("buffer_size", [None, 24])
def test_air_is_ridge_whose_classes_weigh_the_same(buffer_size: int | None) -> None:
    model = ClassBalancedRidge(2.0, buffer_size, seed=3)
    for rows in np.array_split(RNG.permutation(len(X)), 9):
        model.partial_fit(X[rows], LABELS[rows])
    names, counts = np.unique(LABELS, return_counts=True)
    weight = (1 / counts) / (1 / counts).mean()
    buffer = None if buffer_size is None else RandomBuffer(10, buffer_size, seed=3)
    mapped, asked = (
        rows if buffer is None else np.maximum(rows @ buffer.weight.double().numpy(), 0)
        for rows in (X, TEST)
    )
    theirs = Ridge(alpha=2.0, fit_intercept=False).fit(
        mapped,
        (LABELS[:, None] == names).astype(float),
        sample_weight=weight[np.searchsorted(names, LABELS)],
    )
    np.testing.assert_array_equal(model.predict(TEST), names[theirs.predict(asked).argmax(1)])


@pytest.mark.parametrize("buffer_size", [None, 24])
def test_plain_is_the_plain_head_of_aefocl(buffer_size: int | None) -> None:
    settings = {"gamma": 1.0, "buffer_size": buffer_size, "seed": 5}
    plain, ours = (learner(name, **settings) for name in ("plain", "aefocl"))  # type: ignore[arg-type]
    for model in (plain, ours):
        model.partial_fit(X, LABELS)
    np.testing.assert_allclose(
        plain.decision_function(TEST),  # type: ignore[attr-defined]
        ours.decision_function(TEST, balanced=False),  # type: ignore[attr-defined]
        rtol=1e-9,
        atol=1e-12,
    )
    assert has_two_heads(ours)
    assert not has_two_heads(plain)


def test_settings_reach_the_classifier() -> None:
    ours = learner(
        "aefocl",
        gamma=3.0,
        buffer_size=32,
        noise=0.5,
        budget=7,
        sampler="antithetic",
        space="road",
        seed=9,
    )
    assert isinstance(ours, AEFOCLClassifier)
    held = ours.get_params()
    expected = {
        "gamma": 3.0,
        "buffer_size": 32,
        "noise": 0.5,
        "budget": 7,
        "sampler": "antithetic",
        "space": "road",
        "seed": 9,
        "covariance": "diag",
    }
    assert {name: held[name] for name in expected} == expected


def test_the_shared_covariance_draws_only_where_it_must() -> None:
    quiet = learner("aefocl-shared", gamma=1.0, buffer_size=None, sampler="antithetic")
    drawn = learner("aefocl-shared", gamma=1.0, buffer_size=16, sampler="antithetic")
    assert isinstance(quiet, AEFOCLClassifier)
    assert isinstance(drawn, AEFOCLClassifier)
    assert (quiet.sampler, drawn.sampler) == ("expected", "antithetic")
    assert quiet.covariance == drawn.covariance == "diag+shared"


@pytest.mark.parametrize("name", METHODS)
def test_each_learns_a_stream_with_a_late_class(name: str) -> None:
    model = learner(name, gamma=1.0, buffer_size=None)
    for late in (["car", "bus"], ["tram"], ["bike"]):
        mine = np.isin(LABELS, late)
        model.partial_fit(X[mine], LABELS[mine])
    assert set(model.predict(X)) <= set(NAMES)
    assert (model.predict(X) == LABELS).mean() > 0.6


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidSetting, match=r"'icarl' is none of aefocl, .*plain"):
        learner("icarl", gamma=1.0, buffer_size=None)
