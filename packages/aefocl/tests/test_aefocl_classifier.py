"""The classifier as scikit-learn and a stream use it: any form, any moment, nothing by half."""

import copy
import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import check_estimator

from aefocl import AEFOCLClassifier
from lipogram.analytic.state import read_state, write_state
from lipogram.errors import (
    ClosedClass,
    CorruptState,
    FewPseudoFeatures,
    IncompatibleFeatures,
    InvalidSetting,
    OverBudget,
    UnknownClass,
)

D, SIZES = 5, (40, 15, 4, 1)
RNG = np.random.default_rng(0)
Y = RNG.permutation(np.repeat(np.arange(4), SIZES))
X = 2 * RNG.standard_normal((4, D))[Y] + RNG.standard_normal((len(Y), D))
Array = NDArray[Any]
SETTINGS: list[dict[str, Any]] = [
    {"buffer_size": 20},
    {"buffer_size": None, "sampler": "expected", "covariance": "diag+shared"},
    {"buffer_size": 20, "solver": "recursive", "sampler": "antithetic"},
    {"buffer_size": None, "covariance": "lowrank:2", "min_std": "pooled", "fit_intercept": True},
]


def model(**options: Any) -> AEFOCLClassifier:
    return AEFOCLClassifier(**{"gamma": 0.5, "buffer_size": 16, **options})


def sorted_coef(head: AEFOCLClassifier) -> Array:
    coef: Array = head.coef_[np.argsort(head.classes_)]
    return coef


def close(one: AEFOCLClassifier, two: AEFOCLClassifier, rtol: float) -> bool:
    a, b = sorted_coef(one), sorted_coef(two)
    return bool(np.abs(a - b).max() <= rtol * np.abs(b).max())


# ---------------------------------------------------------------------- as scikit-learn uses it


@pytest.mark.parametrize("options", SETTINGS[:3], ids=str)
def test_it_is_an_estimator_of_scikit_learn(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # else one check is skipped
    results = check_estimator(AEFOCLClassifier(gamma=0.1, **options), on_skip=None)
    assert len(results) > 50
    assert {result["status"] for result in results} == {"passed"}


def test_folds_and_clones() -> None:
    scores = cross_val_score(model(), X[Y < 3], Y[Y < 3], cv=3)
    assert scores.mean() > 0.7
    head = model(noise=0.3).fit(X, Y)
    assert clone(head).get_params() == head.get_params()
    twin = copy.deepcopy(head)
    before = head.coef_
    twin.partial_fit(X[:9], Y[:9])
    np.testing.assert_array_equal(head.coef_, before)
    assert twin.n_samples_seen_ == head.n_samples_seen_ + 9


def test_before_the_first_row() -> None:
    asked: list[Any] = [
        lambda m: m.predict(X),
        lambda m: m.predict(X, balanced=False),
        lambda m: m.sample_pseudo(0, 3),
        lambda m: m.class_mean_,
        lambda m: m.class_std_,
        lambda m: m.pseudo_count_,
        lambda m: m.as_module(),
        lambda m: m.coef_,
        lambda m: m.gamma_,
        lambda m: m.forget(X, Y),
    ]
    for ask in asked:
        with pytest.raises(NotFittedError):
            ask(model())
    declared = model().partial_fit(X[:0], Y[:0], classes=[0, 1])
    np.testing.assert_array_equal(declared.class_count_, [0, 0])
    for balanced in (True, False):
        with pytest.raises(NotFittedError):
            declared.predict(X, balanced=balanced)


def test_rows_in_any_form_are_the_same_rows() -> None:
    plain = model().fit(X, Y)
    for rows, labels in (
        (X.tolist(), Y.tolist()),
        (torch.from_numpy(X), torch.from_numpy(Y)),
        (pandas.DataFrame(X), pandas.Series(Y)),
        (np.asfortranarray(X), Y.astype(np.int16)),
        (X[::-1].copy()[::-1], Y),
    ):
        for solver in ("accumulate", "recursive"):
            other = model(solver=solver).partial_fit(rows, labels)
            other.predict(rows)
            other.partial_fit(rows, labels).forget(rows, labels)
            order = np.argsort(other.classes_)
            np.testing.assert_allclose(other.class_mean_[order], plain.class_mean_, rtol=1e-9)
            assert close(other, plain, 1e-8)


def test_two_classes_score_on_one_side_or_the_other() -> None:
    pair = model().fit(X[Y < 2], np.where(Y[Y < 2] == 0, "many", "rare"))
    scores = pair.decision_function(X)
    assert scores.shape == (len(X),)
    np.testing.assert_array_equal(pair.predict(X), pair.classes_[(scores > 0).astype(int)])
    assert pair.predict_proba(X).shape == (len(X), 2)
    one = model().fit(X[Y == 1], Y[Y == 1])
    assert set(one.predict(X)) == {1}
    np.testing.assert_array_equal(one.pseudo_count_, [0])


# ---------------------------------------------------------------------- any order and batching


@settings(max_examples=20)
@given(
    cuts=st.lists(st.integers(0, len(Y)), max_size=5),
    seed=st.integers(0, 99),
    options=st.sampled_from(SETTINGS[:3]),
    asks=st.booleans(),
)
def test_any_stream_of_the_rows_gives_one_head(
    cuts: list[int], seed: int, options: dict[str, Any], asks: bool
) -> None:
    order = np.random.default_rng(seed).permutation(len(Y))
    whole, stream = model(**options).fit(X, Y), model(**options)
    for i in np.split(order, sorted(cuts)):
        stream.partial_fit(X[i], Y[i])
        if asks and stream.n_samples_seen_:
            stream.predict(X)
    assert close(stream, whole, 1e-8)
    order = np.argsort(stream.classes_)
    np.testing.assert_array_equal(stream.class_count_[order], SIZES)
    np.testing.assert_allclose(stream.class_std_[order], whole.class_std_, rtol=1e-12, atol=1e-12)
    for label in range(4):
        np.testing.assert_allclose(
            stream.sample_pseudo(label, 4), whole.sample_pseudo(label, 4), rtol=1e-9, atol=1e-9
        )


@settings(max_examples=20)
@given(
    gone=st.sets(st.integers(0, len(Y) - 1), max_size=len(Y) - 5),
    covariance=st.sampled_from(["diag", "shared", "diag+shared"]),
    asked=st.booleans(),
)
def test_forgotten_rows_were_never_seen(gone: set[int], covariance: str, asked: bool) -> None:
    out = np.array(sorted(gone), dtype=int)
    kept = np.setdiff1d(np.arange(len(Y)), out)
    head = model(covariance=covariance).fit(X, Y)
    if asked:
        head.predict(X)
    head.forget(X[out], Y[out])
    never = model(covariance=covariance).fit(X[kept], Y[kept])
    np.testing.assert_array_equal(head.classes_, never.classes_)
    assert close(head, never, 1e-7)
    np.testing.assert_allclose(head.class_mean_, never.class_mean_, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(head.class_std_, never.class_std_, rtol=1e-7, atol=1e-7)
    np.testing.assert_array_equal(head.pseudo_count_, never.pseudo_count_)


# ---------------------------------------------------------------------- the recursion


@pytest.mark.parametrize("balance", ["on_predict", "off"])
def test_the_recursion_goes_along_with_every_verb(balance: Any) -> None:
    fast, slow = (model(solver=s, balance=balance) for s in ("recursive", "accumulate"))

    def step(verb: str, *arguments: Any, **more: Any) -> None:
        for head in (fast, slow):
            other = [a.partial_fit(X[:8], Y[:8]) for a in (model(solver=head.solver),)]
            getattr(head, verb)(*(arguments or other), **more)
        np.testing.assert_array_equal(fast.classes_, slow.classes_)
        assert fast.coef_.shape == slow.coef_.shape
        np.testing.assert_allclose(fast.coef_, slow.coef_, rtol=1e-8, atol=1e-9)
        np.testing.assert_array_equal(fast.predict(X), slow.predict(X))

    step("partial_fit", X[:20], Y[:20])
    step("partial_fit", X[20:30], Y[20:30])
    step("partial_fit", X[:4], [7, 0, 7, 8], classes=[9, 8])  # declared before they are seen
    step("partial_fit", X[:0], Y[:0])
    step("partial_fit", X[:0], Y[:0], classes=[11])
    step("merge")
    step("forget", X[:4], [7, 0, 7, 8])
    step("drop_classes", [9])
    step("partial_fit", X[30:], Y[30:])
    fast.gamma = slow.gamma = 3.0
    step("partial_fit", X[:2], Y[:2])
    fast.budget = slow.budget = 20  # rows of a weight
    step("fit", X, Y)


def test_the_recursion_takes_no_weights() -> None:
    head = model(solver="recursive").fit(X, Y)
    with pytest.raises(InvalidSetting, match="sample_weight"):
        head.partial_fit(X[:2], Y[:2], sample_weight=[1, 1])
    assert head.n_samples_seen_ == len(Y)
    assert np.isnan(head.condition_)


def test_labels_in_a_column_are_taken_by_both_solvers() -> None:
    for solver in ("accumulate", "recursive"):
        head = model(solver=solver).fit(X, Y)
        head.predict(X)
        with pytest.warns(UserWarning, match="column-vector"):
            head.partial_fit(X[:3], Y[:3, None])
        assert close(head, model().fit(np.r_[X, X[:3]], np.r_[Y, Y[:3]]), 1e-8)


# ---------------------------------------------------------------------- settings and their change


def test_both_heads_are_solved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    head = model().fit(X, Y)
    solved: list[bool] = []
    solve = AEFOCLClassifier._balanced_solution

    def counted(self: AEFOCLClassifier) -> Any:
        solved.append(True)
        return solve(self)

    monkeypatch.setattr(AEFOCLClassifier, "_balanced_solution", counted)
    for _ in range(3):
        head.predict(X)
        head.predict(X, balanced=False)
        head.predict_proba(X)
    assert len(solved) == 1
    head.partial_fit(X[:1], Y[:1]).predict(X, balanced=False)
    assert len(solved) == 1  # nobody asked for the balanced head
    head.predict(X)
    assert len(solved) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gamma", 4.0),
        ("noise", 0.1),
        ("budget", 20),
        ("balance", "off"),
        ("balance_to", "median"),
        ("balance_to", 90),
        ("sampler", "sobol"),
        ("min_std", "pooled"),
        ("solver", "recursive"),
        ("fit_intercept", True),
    ],
)
def test_a_setting_that_changes_is_used_next(name: str, value: Any) -> None:
    head = model().fit(X, Y)
    before = head.coef_
    head.set_params(**{name: value})
    fresh = model(**{name: value}).fit(X, Y)
    np.testing.assert_allclose(head.coef_, fresh.coef_, rtol=1e-9, atol=1e-10)
    if name != "solver":
        assert not np.allclose(head.coef_, before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise", -1),
        ("budget", 0),
        ("sampler", "halton"),
        ("covariance", "full"),
        ("balance_to", "least"),
        ("min_std", 3),
        ("solver", "newton"),
        ("gamma", -1),
        ("gamma", "cv"),
        ("sampler", "expected"),
    ],
)
def test_a_setting_that_becomes_impossible_is_named_and_can_be_put_back(
    name: str, value: Any
) -> None:
    head = model().fit(X, Y)
    before = getattr(head, name), head.coef_
    head.set_params(**{name: value})
    with pytest.raises(InvalidSetting, match=name):
        head.predict(X)
    with pytest.raises(InvalidSetting, match=name):
        head.fit(X[:5], Y[:5])
    assert head.n_samples_seen_ == len(Y)
    head.set_params(**{name: before[0]})
    np.testing.assert_array_equal(head.coef_, before[1])


def test_a_chosen_gamma_serves_the_plain_head() -> None:
    for gamma in ("cv", "gcv"):
        head = model(gamma=gamma, balance="off", folds=3, buffer_size=None).fit(X, Y)
        assert head.gamma_ > 0
        plain = model(gamma=head.gamma_, balance="off", buffer_size=None).fit(X, Y)
        np.testing.assert_allclose(head.coef_, plain.coef_, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(head.class_std_, plain.class_std_, rtol=1e-12)
        np.testing.assert_allclose(head.sample_pseudo(1, 3), plain.sample_pseudo(1, 3), rtol=1e-12)
        with pytest.raises(InvalidSetting, match="real rows only"):
            head.predict(X, balanced=True)
        head.set_params(gamma=0.5)
        np.testing.assert_allclose(
            head.decision_function(X, balanced=True),
            model(buffer_size=None).fit(X, Y).decision_function(X),
            rtol=1e-8,
            atol=1e-9,
        )


def test_what_is_drawn_is_counted() -> None:
    head = model(balance_to=30).fit(X, Y)
    np.testing.assert_array_equal(head.pseudo_count_, [0, 15, 26, 29])
    np.testing.assert_array_equal(head.drawn_count_, [0, 15, 26, 29])
    head.budget = 20
    np.testing.assert_array_equal(head.drawn_count_, [0, 15, 20, 20])
    with pytest.raises(InvalidSetting, match="budget"):
        head.set_params(budget=-3).predict(X)
    half = model(buffer_size=None).fit(X, Y, np.full(len(Y), 0.5))
    np.testing.assert_allclose(half.pseudo_count_, [0, 12.5, 18, 19.5])
    np.testing.assert_array_equal(half.drawn_count_, [0, 13, 18, 20])
    assert half.set_params(sampler="expected").drawn_count_.sum() == 0


def test_fractions_of_rows_are_drawn_as_weights() -> None:
    weight = np.full(len(Y), 0.5)
    head = model(buffer_size=None).fit(X, Y, weight)
    gram, cross = 0.5 * X.T @ X, 0.5 * X.T @ np.eye(4)[Y]
    for label, (mass, m) in enumerate(zip(head.pseudo_count_, head.drawn_count_, strict=True)):
        if m:
            rows = head.sample_pseudo(label, int(m))
            gram += mass / m * rows.T @ rows
            cross[:, label] += mass / m * rows.sum(0)
    expected = np.linalg.solve(gram + 0.5 * np.eye(D), cross).T
    np.testing.assert_allclose(head.coef_, expected, rtol=1e-9, atol=1e-11)


def test_the_warning_of_a_small_budget_points_at_the_caller() -> None:
    with pytest.warns(FewPseudoFeatures, match="budget of 3") as caught:
        model(budget=3).fit(X, Y).predict(X)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(budget=3, sampler="expected", buffer_size=None).fit(X, Y).predict(X)


# ---------------------------------------------------------------------- refusals


def test_classes_cannot_be_dropped_without_their_rows() -> None:
    head = model().partial_fit(X, Y, classes=[9])
    before = head.coef_
    with pytest.raises(ClosedClass):
        head.drop_classes([9, 0])
    with pytest.raises(UnknownClass):
        head.drop_classes([77])
    assert 9 in head.classes_
    np.testing.assert_array_equal(head.coef_, before)
    head.drop_classes([9])
    assert list(head.classes_) == [0, 1, 2, 3]
    assert head.class_mean_.shape == (4, D)


def test_over_the_memory_budget_nothing_is_learnt() -> None:
    head = model(memory_budget=100)
    with pytest.raises(OverBudget):
        head.partial_fit(X, Y)
    assert not hasattr(head, "statistics_")
    assert not hasattr(head, "n_features_in_")


@pytest.mark.parametrize(
    ("one", "two"),
    list(itertools.permutations(("diag", "shared", "lowrank:2", "lowrank:3"), 2)),
)
def test_heads_that_keep_other_moments_do_not_merge(one: str, two: str) -> None:
    head, other = (model(covariance=c).fit(X, Y) for c in (one, two))
    before = head.coef_
    with pytest.raises(IncompatibleFeatures):
        head.merge(other)
    np.testing.assert_array_equal(head.coef_, before)
    np.testing.assert_array_equal(head.class_count_, SIZES)


# ---------------------------------------------------------------------- keeping


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_at_any_batch_a_file_is_the_classifier(options: dict[str, Any], tmp_path: Path) -> None:
    names = np.array(["ä", "bee", "cow", "dog"])[Y]
    head = model(**options, space="camera")
    for i, batch in enumerate(np.array_split(np.arange(len(Y)), 7)):
        head.partial_fit(X[batch], names[batch])
        loaded = AEFOCLClassifier.load(head.save(tmp_path / "head"))
        assert loaded.get_params() == head.get_params()
        np.testing.assert_array_equal(loaded.class_count_, head.class_count_)
        label = head.classes_[i % len(head.classes_)]
        np.testing.assert_array_equal(loaded.sample_pseudo(label, 5), head.sample_pseudo(label, 5))
        np.testing.assert_allclose(loaded.coef_, head.coef_, rtol=1e-9, atol=1e-11)
        np.testing.assert_array_equal(loaded.predict(X), head.predict(X))
        np.testing.assert_array_equal(
            loaded.predict(X, balanced=False), head.predict(X, balanced=False)
        )
        if i % 2:
            head = loaded


def edit(**changes: Any) -> Any:
    return lambda tensors, said: said["settings"].update(changes)


HOSTILE: dict[str, Any] = {
    "noise": edit(noise=-1.0),
    "noise as text": edit(noise="1"),
    "budget": edit(budget=0),
    "a covariance that was not kept": edit(covariance="shared"),
    "directions that were not kept": edit(covariance="lowrank:2"),
    "an impossible sampler": edit(sampler="expected"),
    "an unknown setting": edit(command="rm"),
    "no moments": lambda tensors, said: tensors.pop("0/own/moments/m2"),
    "moments of other classes": lambda tensors, said: tensors.update(
        {"0/own/moments/mean": tensors["0/own/moments/mean"][:2].clone()}
    ),
    "a negative spread": lambda tensors, said: tensors["0/own/moments/m2"].neg_(),
    "an infinite mean": lambda tensors, said: tensors["0/own/moments/mean"].fill_(torch.inf),
    "another method": lambda tensors, said: said.update(method="AIRClassifier"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str, tmp_path: Path) -> None:
    path = model().fit(X, Y).save(tmp_path / "head")
    tensors, said = read_state(path)
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    HOSTILE[name](tensors, said)
    write_state(path, tensors, said)
    with pytest.raises(CorruptState):
        AEFOCLClassifier.load(path)


def test_a_file_cut_short(tmp_path: Path) -> None:
    path = model(covariance="lowrank:2").fit(X, Y).save(tmp_path / "head")
    whole = path.read_bytes()
    for length in (0, 7, 8, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptState):
            AEFOCLClassifier.load(path)
