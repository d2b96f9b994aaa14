"""The whole method written out in numpy, and the classifier held against it."""

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aefocl import AEFOCLClassifier
from lipogram.analytic import RandomBuffer
from lipogram.analytic.state import read_state
from lipogram.errors import (
    FewPseudoFeatures,
    IncompatibleFeatures,
    InvalidFeatures,
    InvalidLabels,
    InvalidSetting,
    LipogramError,
    NotSeen,
    OverBudget,
    SingularSystem,
    UnknownClass,
)

D, SIZES = 6, (60, 25, 9, 2, 1)
Array = NDArray[Any]
COVARIANCES = ("diag", "shared", "diag+shared", "lowrank:2")
FORGETTABLE = ("diag", "shared", "diag+shared")


def made_up(seed: int = 0) -> tuple[Array, Array]:
    """A long tail of correlated classes of different spread, shuffled."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(SIZES)), SIZES)
    mixing = rng.standard_normal((D, D)) * 0.5 + np.eye(D)
    x = 2 * rng.standard_normal((len(SIZES), D))[y]
    x += rng.standard_normal((len(y), D)) @ mixing * (0.5 + y[:, None] / 4)
    order = rng.permutation(len(y))
    return x[order], y[order]


X, Y = made_up()


def model(**options: Any) -> AEFOCLClassifier:
    return AEFOCLClassifier(**{"gamma": 0.3, "buffer_size": None, **options})


def mapped(rows: Array, buffer_size: int | None, seed: int = 0) -> Array:
    if buffer_size is None:
        return rows
    buffer = RandomBuffer(rows.shape[1], buffer_size, seed=seed)
    return buffer(torch.from_numpy(np.asarray(rows, dtype=float))).numpy()


def ridge(rows: Array, labels: Array, gamma: float, weight: Array | None = None) -> Array:
    """(D, classes sorted): the normal equations, written out."""
    w = np.ones(len(rows)) if weight is None else weight
    targets = (labels[:, None] == np.unique(labels)).astype(float)
    weighted = rows * w[:, None]
    return np.linalg.solve(rows.T @ weighted + gamma * np.eye(rows.shape[1]), weighted.T @ targets)


def weights_of(head: AEFOCLClassifier, balanced: bool = True) -> Array:
    """The weights (D, k) in the order of sorted labels."""
    held, head.balance = head.balance, "on_predict" if balanced else "off"
    weight = head.coef_[np.argsort(head.classes_)].T
    head.balance = held
    return weight


def relative(a: Array, b: Array) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def joint(head: AEFOCLClassifier, rows: Array, labels: Array, target: float) -> Array:
    """Ridge over the rows and the head's own pseudo-features, as many as are missing to target."""
    parts, names, weights = [rows], [labels], [np.ones(len(rows))]
    for label in np.unique(labels).tolist():
        missing = max(0, round(target) - int((labels == label).sum()))
        m = missing if head.budget is None else min(missing, head.budget)
        if m:
            parts.append(head.sample_pseudo(label, m))
            names.append(np.full(m, label))
            weights.append(np.full(m, missing / m))
    return ridge(
        mapped(np.concatenate(parts), head.buffer_size, head.seed),
        np.concatenate(names),
        float(head.gamma),
        np.concatenate(weights),
    )


def state(head: AEFOCLClassifier, path: Path) -> dict[str, Array]:
    """Everything that a file says of a classifier."""
    tensors, _ = read_state(head.save(path))
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def assert_same_bits(ours: dict[str, Array], theirs: dict[str, Array]) -> None:
    assert {n: t.tobytes() for n, t in ours.items()} == {n: t.tobytes() for n, t in theirs.items()}


# ---------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("batch", "buffer_size", "solver"),
    list(itertools.product((1, 10, 1000), (None, 24), ("accumulate", "recursive"))),
)
def test_both_heads_are_joint_ridges(batch: int, buffer_size: int | None, solver: Any) -> None:
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(Y))
        head = model(buffer_size=buffer_size, solver=solver)
        for i in range(0, len(Y), batch):
            head.partial_fit(X[order[i : i + batch]], Y[order[i : i + batch]])
        plain = ridge(mapped(X, buffer_size), Y, 0.3)
        assert relative(weights_of(head, balanced=False), plain) <= 1e-9
        assert relative(weights_of(head), joint(head, X, Y, 60)) <= 1e-9


@pytest.mark.parametrize(
    ("sampler", "covariance", "solver"),
    list(
        itertools.product(("iid", "antithetic", "sobol"), COVARIANCES, ("accumulate", "recursive"))
    ),
)
def test_the_balanced_head_is_joint_with_what_is_sampled(
    sampler: Any, covariance: str, solver: Any
) -> None:
    for budget, target, balance_to in ((None, 60, "max"), (27, 60, "max"), (30, 40, 40)):
        head = model(
            buffer_size=24,
            sampler=sampler,
            covariance=covariance,
            solver=solver,
            budget=budget,
            balance_to=balance_to,
            noise=0.7,
            seed=3,
        ).fit(X, Y)
        assert relative(weights_of(head), joint(head, X, Y, target)) <= 1e-9


def test_classes_are_filled_up_to_the_median() -> None:
    head = model(balance_to="median", buffer_size=24).fit(X, Y)
    np.testing.assert_array_equal(head.pseudo_count_[np.argsort(head.classes_)], [0, 0, 0, 7, 8])
    assert relative(weights_of(head), joint(head, X, Y, 9)) <= 1e-9


def test_an_intercept_is_fitted_over_pseudo_features_too() -> None:
    head = model(fit_intercept=True, gamma=1e-9).fit(X, Y)
    rows = [X] + [head.sample_pseudo(c, 60 - n) for c, n in enumerate(SIZES) if n < 60]
    labels = np.concatenate([Y, *(np.full(60 - n, c) for c, n in enumerate(SIZES) if n < 60)])
    centred = np.concatenate(rows)
    centred = centred - centred.mean(0)
    targets = (labels[:, None] == np.arange(5)).astype(float)
    expected = np.linalg.lstsq(centred, targets - targets.mean(0), rcond=None)[0]
    assert relative(weights_of(head), expected) <= 1e-6


# ---------------------------------------------------------------------- moments


@pytest.mark.parametrize(("offset", "digits"), [(0.0, 1e-12), (1e8, 1e-6)])
@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_moments_are_numpys_at_any_offset(offset: float, digits: float, batch: int) -> None:
    rows = X + offset
    head = model()
    for i in range(0, len(Y), batch):
        head.partial_fit(rows[i : i + batch], Y[i : i + batch])
    for slot, label in enumerate(head.classes_):
        mine = rows[label == Y]
        np.testing.assert_allclose(head.class_mean_[slot], mine.mean(0), rtol=1e-12, atol=1e-12)
        std = mine.std(0, ddof=1) if len(mine) > 1 else np.zeros(D)
        np.testing.assert_allclose(head.class_std_[slot], std, rtol=digits, atol=1e-12)


@settings(max_examples=25)
@given(data=st.data())
def test_whole_weights_are_repetitions(data: st.DataObject) -> None:
    weight = np.array(data.draw(st.lists(st.integers(0, 3), min_size=12, max_size=12)))
    if not weight.any():
        weight[0] = 1
    rows, labels = X[:12], Y[:12]
    weighted = model().fit(rows, labels, sample_weight=weight)
    repeated = model().fit(np.repeat(rows, weight, 0), np.repeat(labels, weight))
    for label in np.unique(labels[weight > 0]):
        one, two = (list(head.classes_).index(label) for head in (weighted, repeated))
        np.testing.assert_allclose(
            weighted.class_std_[one], repeated.class_std_[two], rtol=1e-9, atol=1e-12
        )
    np.testing.assert_allclose(
        weights_of(weighted)[:, np.isin(np.unique(labels), repeated.classes_)],
        weights_of(repeated),
        rtol=1e-7,
        atol=1e-9,
    )


def within() -> Array:
    off = np.concatenate([X[c == Y] - X[c == Y].mean(0) for c in range(len(SIZES))])
    covariance: Array = off.T @ off / (len(Y) - len(SIZES))
    return covariance


def oracle_covariance(covariance: str, label: int) -> Array:
    own = np.cov(X[label == Y], rowvar=False)
    if covariance == "diag":
        return np.diag(own.diagonal())
    if covariance == "shared":
        return within()
    if covariance == "diag+shared":
        return np.diag(own.diagonal()) + within()
    values, vectors = np.linalg.eigh(own)
    strong: Array = vectors[:, -2:] * values[-2:] @ vectors[:, -2:].T
    return strong + np.diag(own.diagonal() - strong.diagonal())


@pytest.mark.parametrize(
    ("covariance", "buffer_size"), list(itertools.product(COVARIANCES, (None, 24)))
)
def test_draws_have_the_mean_and_covariance_they_name(
    covariance: str, buffer_size: int | None
) -> None:
    head = model(covariance=covariance, sampler="sobol", noise=1.5, buffer_size=buffer_size).fit(
        X, Y
    )
    for label in (0, 2):
        drawn = head.sample_pseudo(label, 4096)
        expected = 2.25 * oracle_covariance(covariance, label)
        scale = np.sqrt(expected.diagonal())
        assert np.abs((drawn.mean(0) - X[label == Y].mean(0)) / scale).max() <= 0.01
        gap = (np.cov(drawn, rowvar=False) - expected) / np.outer(scale, scale)
        assert np.abs(gap).max() <= 0.05
        kurtosis = (((drawn - drawn.mean(0)) / drawn.std(0)) ** 4).mean(0)
        assert np.abs(kurtosis - 3).max() <= 0.3


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_the_expected_head_is_the_closed_form(covariance: str) -> None:
    head = model(covariance=covariance, sampler="expected", noise=0.8).fit(X, Y)
    gram = X.T @ X + 0.3 * np.eye(D)
    cross = X.T @ (Y[:, None] == np.arange(5))
    for label, n in enumerate(SIZES):
        mean, missing = X[label == Y].mean(0), 60 - n
        if missing and n > 1:
            sigma = oracle_covariance(covariance, label)
        else:
            sigma = within() if "shared" in covariance else np.zeros((D, D))
        gram += missing * (np.outer(mean, mean) + 0.64 * sigma)
        cross[:, label] += missing * mean
    assert relative(weights_of(head), np.linalg.solve(gram, cross)) <= 1e-9
    assert head.drawn_count_.sum() == 0


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_many_draws_approach_the_expected_head(covariance: str) -> None:
    expected = weights_of(model(covariance=covariance, sampler="expected").fit(X, Y))
    drawn = model(covariance=covariance, sampler="sobol", balance_to=60).fit(X, Y)
    assert relative(weights_of(drawn), expected) <= 0.15
    off = {}
    for target in (200, 20000):
        one = model(covariance=covariance, sampler="iid", balance_to=target).fit(X, Y)
        two = model(covariance=covariance, sampler="expected", balance_to=target).fit(X, Y)
        off[target] = relative(weights_of(one), weights_of(two))
    assert off[20000] < 0.03
    assert off[20000] < off[200]


def test_mirrored_draws_have_the_very_mean() -> None:
    head = model(sampler="antithetic").fit(X, Y)
    np.testing.assert_allclose(head.sample_pseudo(0, 10).mean(0), X[Y == 0].mean(0), atol=1e-12)


def test_draws_of_classes_and_counts_are_unlike() -> None:
    def noise(head: AEFOCLClassifier, label: int, n: int) -> Array:
        slot = list(head.classes_).index(label)
        drawn: Array = (head.sample_pseudo(label, n) - head.class_mean_[slot]) / head.class_std_[
            slot
        ]
        return drawn[:5]

    head = model().fit(X, Y)
    seen = [noise(head, 0, 5), noise(head, 1, 5), noise(head, 0, 6)]
    seen.append(noise(model(seed=1).fit(X, Y), 0, 5))
    seen.append(noise(model().fit(X, Y).partial_fit(X[:20], Y[:20]), 0, 5))
    for one, two in itertools.combinations(seen, 2):
        assert np.abs(one - two).max() > 0.1
    names = model().fit(X, Y.astype(str))  # "0" is not 0, and neither depends on the slot
    reversed_slots = model().partial_fit(X[::-1], Y[::-1])
    assert not np.allclose(names.sample_pseudo("0", 5), head.sample_pseudo(0, 5))
    np.testing.assert_allclose(reversed_slots.sample_pseudo(1, 5), head.sample_pseudo(1, 5))


def test_the_callers_generators_are_left_alone() -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index] # noqa: NPY002
    for sampler in ("iid", "antithetic", "sobol"):
        model(sampler=sampler, buffer_size=12).fit(X, Y).predict(X)
    assert torch.equal(before[0], torch.random.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # type: ignore[index] # noqa: NPY002


def test_a_single_row_is_repeated_unless_its_spread_is_pooled() -> None:
    np.testing.assert_array_equal(model().fit(X, Y).sample_pseudo(4, 3), np.repeat(X[Y == 4], 3, 0))
    pooled = model(min_std="pooled", sampler="sobol").fit(X, Y)
    np.testing.assert_allclose(
        pooled.sample_pseudo(4, 2048).std(0), np.sqrt(within().diagonal()), rtol=0.05
    )


# ---------------------------------------------------------------------- asking changes nothing


@pytest.mark.parametrize("solver", ["accumulate", "recursive"])
def test_asking_between_batches_leaves_no_trace(solver: Any, tmp_path: Path) -> None:
    asked, silent = model(buffer_size=24, solver=solver), model(buffer_size=24, solver=solver)
    for batch in np.array_split(np.arange(len(Y)), 50):
        asked.partial_fit(X[batch], Y[batch])
        silent.partial_fit(X[batch], Y[batch])
        first = asked.decision_function(X)
        np.testing.assert_array_equal(asked.decision_function(X), first)
        asked.predict(X, balanced=False)
        asked.sample_pseudo(Y[batch[0]], 4)
    assert relative(weights_of(asked, balanced=False), weights_of(silent, balanced=False)) <= 1e-12
    ours, theirs = state(asked, tmp_path / "a"), state(silent, tmp_path / "b")
    assert ours.keys() == theirs.keys()
    for name, held in ours.items():  # asking brings waiting rows into the sums, and rounds there
        if "moments" in name:
            np.testing.assert_array_equal(held, theirs[name])
        np.testing.assert_allclose(held, theirs[name], rtol=1e-12, atol=1e-12)


def test_both_heads_can_be_asked_in_turns() -> None:
    head = model(buffer_size=24).fit(X, Y)
    plain = model(buffer_size=24, balance="off").fit(X, Y)
    for _ in range(2):
        for ask in ("decision_function", "predict", "predict_proba"):
            ours, theirs = getattr(head, ask), getattr(plain, ask)
            np.testing.assert_array_equal(ours(X, balanced=False), theirs(X))
            np.testing.assert_array_equal(ours(X), theirs(X, balanced=True))
            np.testing.assert_array_equal(ours(X, balanced=True), ours(X))
        assert not np.allclose(head.decision_function(X), head.decision_function(X, balanced=False))
    rows = torch.from_numpy(X).float()
    for balanced in (True, False):
        np.testing.assert_allclose(
            head.as_module(balanced=balanced)(rows).detach(),
            head.decision_function(X, balanced=balanced),
            atol=1e-4,
        )


def test_a_setting_that_is_changed_is_used_from_the_next_prediction_on() -> None:
    head = model(buffer_size=24).fit(X, Y)
    head.predict(X)
    for name, value in (
        ("gamma", 2.0),
        ("noise", 0.2),
        ("budget", 30),
        ("balance_to", 30),
        ("sampler", "antithetic"),
        ("min_std", "pooled"),
    ):
        setattr(head, name, value)
        assert head.budget is None or head.budget >= 24
        fresh = model(**{**head.get_params()}).fit(X, Y)
        np.testing.assert_array_equal(head.coef_, fresh.coef_)


# ---------------------------------------------------------------------- merge, forget, keep


@pytest.mark.parametrize("covariance", FORGETTABLE)
@pytest.mark.parametrize("buffer_size", [None, 24])
def test_four_parts_are_the_whole_in_any_order(covariance: str, buffer_size: int | None) -> None:
    options: dict[str, Any] = {"covariance": covariance, "buffer_size": buffer_size}
    whole = model(**options).fit(X, Y)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        parts = [
            model(**options).partial_fit(X[i], Y[i])
            for i in np.array_split(rng.permutation(len(Y)), 4)
        ]
        merged = parts[0]
        for part in parts[1:]:
            merged.merge(part)
        order = np.argsort(merged.classes_)
        for name, theirs in (("class_mean_", whole.class_mean_), ("class_std_", whole.class_std_)):
            np.testing.assert_allclose(getattr(merged, name)[order], theirs, rtol=1e-12, atol=1e-12)
        assert relative(weights_of(merged), weights_of(whole)) <= 1e-10
        assert relative(weights_of(merged, False), weights_of(whole, False)) <= 1e-10


def test_merging_with_itself_doubles() -> None:
    head = model(buffer_size=24, covariance="shared").fit(X, Y)
    doubled = model(buffer_size=24, covariance="shared").fit(np.tile(X, (2, 1)), np.tile(Y, 2))
    assert relative(weights_of(head.merge(head)), weights_of(doubled)) <= 1e-10


@pytest.mark.parametrize("covariance", FORGETTABLE)
@pytest.mark.parametrize("buffer_size", [None, 24])
def test_forgotten_is_never_seen(covariance: str, buffer_size: int | None) -> None:
    options: dict[str, Any] = {"covariance": covariance, "buffer_size": buffer_size}
    rng = np.random.default_rng(1)
    gone = np.concatenate([rng.choice(np.flatnonzero(Y == c), 8, False) for c in (0, 1, 2)])
    gone = np.concatenate([gone, np.flatnonzero(Y == 4)])  # and one class altogether
    kept = np.setdiff1d(np.arange(len(Y)), gone)
    head = model(**options).fit(X, Y)
    head.forget(X[gone], Y[gone])
    never = model(**options).fit(X[kept], Y[kept])
    assert list(head.classes_) == list(never.classes_) == [0, 1, 2, 3]
    np.testing.assert_allclose(head.class_std_, never.class_std_, rtol=1e-8, atol=1e-8)
    assert relative(weights_of(head), weights_of(never)) <= 1e-8
    head.partial_fit(X[gone], Y[gone])
    assert relative(weights_of(head), weights_of(model(**options).fit(X, Y))) <= 1e-8


def test_low_rank_covariances_say_that_they_cannot_forget(tmp_path: Path) -> None:
    head = model(covariance="lowrank:2").fit(X, Y)
    before = state(head, tmp_path / "a")
    with pytest.raises(InvalidSetting, match="lowrank"):
        head.forget(X[:3], Y[:3])
    assert_same_bits(state(head, tmp_path / "b"), before)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("solver", ["accumulate", "recursive"])
def test_a_restart_changes_no_bit(covariance: str, solver: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"covariance": covariance, "buffer_size": 24, "solver": solver}
    straight, saved, resumed = (model(**options) for _ in range(3))
    for batch in np.array_split(np.arange(len(Y)), 6):
        for head in (straight, saved, resumed):
            head.partial_fit(X[batch], Y[batch])
        resumed = AEFOCLClassifier.load(resumed.save(tmp_path / "state"))
        saved.save(tmp_path / "other")
        label = Y[batch[0]].item()
        np.testing.assert_array_equal(
            straight.sample_pseudo(label, 9), resumed.sample_pseudo(label, 9)
        )
    assert resumed.get_params() == straight.get_params()
    if solver == "accumulate":
        np.testing.assert_array_equal(resumed.coef_, saved.coef_)
    assert relative(resumed.coef_, straight.coef_) <= 1e-9  # saving rounds what was waiting


# ---------------------------------------------------------------------- bad input


REJECTED: list[tuple[str, type[LipogramError], Any]] = [
    ("NaN", InvalidFeatures, lambda m: m.partial_fit([[np.nan] * D], [0])),
    ("a new class with infinity", InvalidFeatures, lambda m: m.partial_fit([[np.inf] * D], [9])),
    ("too large", InvalidFeatures, lambda m: m.partial_fit([[1e200] * D], [0])),
    ("lengths", InvalidFeatures, lambda m: m.partial_fit(X[:3], Y[:2])),
    ("kinds of label", InvalidLabels, lambda m: m.partial_fit(X[:1], ["cat"])),
    ("half a label", InvalidLabels, lambda m: m.partial_fit(X[:1], [0.5])),
    ("a weight", InvalidSetting, lambda m: m.partial_fit(X[:1], [0], sample_weight=[-1.0])),
    ("torch width", InvalidFeatures, lambda m: m.partial_fit(torch.zeros(2, D + 1), [0, 1])),
    ("unknown", UnknownClass, lambda m: m.forget(X[:1], [77])),
    ("never seen", NotSeen, lambda m: m.forget(np.repeat(X[Y == 3], 2, 0), [3] * 4)),
    ("larger", NotSeen, lambda m: m.forget(1e6 * X[Y == 4], [4])),
    ("other width", IncompatibleFeatures, lambda m: m.merge(model().fit(X[:, :4], Y))),
    ("other buffer", IncompatibleFeatures, lambda m: m.merge(model(buffer_size=9).fit(X, Y))),
    ("other space", IncompatibleFeatures, lambda m: m.merge(model(space="b").fit(X, Y))),
    (
        "other moments",
        IncompatibleFeatures,
        lambda m: m.merge(model(covariance="lowrank:3").fit(X, Y)),
    ),
    ("asked for", UnknownClass, lambda m: m.sample_pseudo(77, 3)),
    ("asked for none", InvalidSetting, lambda m: m.sample_pseudo(0, 0)),
]


@pytest.mark.parametrize(("what", "error", "call"), REJECTED, ids=[case[0] for case in REJECTED])
@pytest.mark.parametrize("solver", ["accumulate", "recursive"])
def test_what_is_rejected_changes_no_bit(
    what: str, error: Any, call: Any, solver: Any, tmp_path: Path
) -> None:
    head = model(solver=solver).fit(X, Y)
    before, scores = state(head, tmp_path / "a"), head.decision_function(X)
    with pytest.raises(error):
        call(head)
    assert_same_bits(state(head, tmp_path / "b"), before)
    np.testing.assert_array_equal(head.decision_function(X), scores)


def test_rows_too_large_before_the_buffer_are_refused_as_a_whole(tmp_path: Path) -> None:
    head = model(buffer_size=2, covariance="shared", seed=1).fit(X, Y)
    assert head.buffer_ is not None
    b = head.buffer_.weight.numpy()  # type: ignore[union-attr]
    unseen = -1e3 * (b @ np.linalg.solve(b.T @ b, np.ones(2)))  # the buffer maps it to 0
    before = state(head, tmp_path / "a")
    with pytest.raises(NotSeen):
        head.forget(unseen[None], [0])
    assert_same_bits(state(head, tmp_path / "b"), before)


def test_rows_that_only_the_buffer_tells_apart_are_refused_as_a_whole(tmp_path: Path) -> None:
    rows = np.outer(np.arange(1.0, 11), X[0])  # on one ray: what ReLU leaves of -x is none of it
    head = model(buffer_size=24, covariance="shared").fit(rows, np.zeros(10, dtype=int))
    before = state(head, tmp_path / "a")
    with pytest.raises(NotSeen):
        head.forget(-X[:1], [0])
    assert_same_bits(state(head, tmp_path / "b"), before)


def test_rows_beyond_the_budget_leave_no_moment(tmp_path: Path) -> None:
    head = model(memory_budget=3 * 8 * D).fit(X[:2], [0, 1])
    before = state(head, tmp_path / "a")
    with pytest.raises(OverBudget):
        head.partial_fit(X[2:40], Y[2:40] % 2)
    assert_same_bits(state(head, tmp_path / "b"), before)


@pytest.mark.parametrize("solver", ["accumulate", "recursive"])
def test_no_head_outlives_the_rows_it_was_solved_from(solver: Any) -> None:
    head = model(buffer_size=24, solver=solver).fit(X, Y)
    more, labels = X[:30] + 1, Y[:30]

    def current(rows: Array, names: Array) -> None:
        fresh = model(buffer_size=24).fit(rows, names)
        for balanced in (True, False):
            ours = head.decision_function(X, balanced=balanced)
            theirs = fresh.decision_function(X, balanced=balanced)
            order = [list(head.classes_).index(label) for label in fresh.classes_]
            assert relative(ours[:, order], theirs) <= 1e-6

    current(X, Y)
    head.partial_fit(more, labels)
    current(np.r_[X, more], np.r_[Y, labels])
    head.forget(more, labels)
    current(X, Y)
    head.merge(model(buffer_size=24, solver=solver).fit(more, labels))
    current(np.r_[X, more], np.r_[Y, labels])


def test_rows_whose_mapping_failed_wait_with_their_moments() -> None:
    class Full(RandomBuffer):
        def __call__(self, features: torch.Tensor) -> torch.Tensor:
            raise MemoryError("no room")

    head = model(buffer_size=24, covariance="shared").fit(X, Y)
    held, rows, labels = head.statistics_.feature_map, np.tile(X, (20, 1)), np.tile(Y, 20)
    head.statistics_.feature_map = Full(D, 24)
    with pytest.raises(MemoryError):
        head.partial_fit(rows, labels)
    head.statistics_.feature_map = held
    both = model(buffer_size=24, covariance="shared").fit(X, Y).partial_fit(rows, labels)
    np.testing.assert_array_equal(head.class_count_, both.class_count_)
    np.testing.assert_allclose(head.class_std_, both.class_std_, rtol=1e-12, atol=1e-12)
    assert relative(weights_of(head), weights_of(both)) <= 1e-9


@pytest.mark.parametrize("solver", ["accumulate", "recursive"])
def test_sparse_rows_are_rows(solver: Any) -> None:
    head = model(buffer_size=24, solver=solver).fit(X, Y)
    head.predict(X)
    head.partial_fit(scipy.sparse.csr_matrix(X[:9]), Y[:9]).partial_fit(X[9:12], Y[9:12])
    dense = model(buffer_size=24).fit(np.r_[X, X[:12]], np.r_[Y, Y[:12]])
    assert relative(weights_of(head, False), weights_of(dense, False)) <= 1e-9
    np.testing.assert_allclose(head.class_std_, dense.class_std_, rtol=1e-12, atol=1e-12)
    assert relative(weights_of(head), weights_of(dense)) <= 1e-9


@pytest.mark.parametrize("covariance", ["shared", "diag+shared"])
def test_a_covariance_that_rounding_ate_is_no_covariance(covariance: str) -> None:
    for offset in (1e4, 1e7):
        far = model(covariance=covariance, sampler="sobol").fit(X + offset, Y)
        spread = np.cov(far.sample_pseudo(0, 4096), rowvar=False)
        assert relative(spread, oracle_covariance(covariance, 0)) <= 0.1
    lost = model(covariance=covariance).fit(X * 1e-2 + 1e8, Y)
    with pytest.raises(SingularSystem, match="diag"):
        lost.predict(X)
    lost.covariance = "diag"
    assert np.isfinite(lost.predict(X)).all()


@pytest.mark.parametrize("covariance", ["shared", "diag+shared", "lowrank:2"])
def test_a_covariance_that_was_not_kept_is_refused(covariance: str) -> None:
    head = model(buffer_size=D).fit(X, Y)  # as wide as the features: the wrong sums would fit
    head.covariance = covariance
    with pytest.raises(InvalidSetting, match="before the first row"):
        head.predict(X)
    with pytest.raises(InvalidSetting, match="before the first row"):
        head.sample_pseudo(1, 3)
    head.covariance = "diag"
    np.testing.assert_array_equal(head.coef_, model(buffer_size=D).fit(X, Y).coef_)


def test_dimensions_of_a_sequence_are_those_of_the_features() -> None:
    wide = model(buffer_size=30_000, sampler="sobol").partial_fit(X[:0], Y[:0])
    assert wide.n_features_in_ == D
    zeros = np.zeros((2, 10_700))
    with pytest.raises(InvalidSetting, match="21400"):
        model(sampler="sobol", covariance="diag+shared").partial_fit(zeros, [0, 1])
    model(sampler="sobol").partial_fit(zeros, [0, 1])


def test_draws_come_in_parts_and_are_the_same_rows() -> None:
    for sampler in ("iid", "antithetic", "sobol"):
        head = model(sampler=sampler, balance_to=20_001).fit(X, Y)
        drawn = head.sample_pseudo(0, 19_941)
        assert drawn.shape == (19_941, D)
        assert len(np.unique(drawn, axis=0)) == len(drawn)
        assert relative(weights_of(head), joint(head, X, Y, 20_001)) <= 1e-9


@pytest.mark.parametrize(
    "options",
    [
        {"budget": 0},
        {"budget": 2.5},
        {"budget": True},
        {"noise": -0.1},
        {"noise": float("nan")},
        {"noise": float("inf")},
        {"noise": "1"},
        {"balance": "always"},
        {"balance_to": "min"},
        {"balance_to": 0},
        {"sampler": "halton"},
        {"covariance": "full"},
        {"covariance": "lowrank:0"},
        {"covariance": "lowrank:x"},
        {"covariance": 3},
        {"min_std": 0.1},
        {"solver": "newton"},
        {"sampler": "expected", "buffer_size": 8},
        {"sampler": "expected", "solver": "recursive"},
        {"solver": "recursive", "fit_intercept": True},
        {"gamma": 0},
        {"gamma": "cv"},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting) as caught:
        model(**options).fit(X, Y)
    assert any(name in str(caught.value) for name in options)
    head = model()
    with pytest.raises(InvalidSetting):
        head.set_params(**options).fit(X, Y)
    assert not hasattr(head, "statistics_")


# ---------------------------------------------------------------------- rare, late, absent


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("min_std", [None, "pooled"])
def test_one_row_is_enough_and_absent_classes_are_never_predicted(
    covariance: str, min_std: Any
) -> None:
    head = model(covariance=covariance, min_std=min_std, buffer_size=24)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head.partial_fit(X[:1], ["c"], classes=["a", "c"])
        assert set(head.predict(X)) == {"c"}
        head.partial_fit(X[1:40], np.where(Y[1:40] == 0, "a", "b"))
        for _ in range(3):
            assert np.isfinite(head.predict_proba(X)).all()
        head.partial_fit(X[40:41], ["late"])
        assert np.isfinite(head.decision_function(X)).all()
        assert np.isfinite(head.coef_).all()
    assert "absent" not in head.classes_
    assert (head.class_std_ >= 0).all()


def test_a_small_budget_is_warned_of_and_a_large_one_is_not() -> None:
    with pytest.warns(FewPseudoFeatures, match=r"10.*24.*48"):
        model(buffer_size=24, budget=10).fit(X, Y).predict(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(buffer_size=24, budget=24).fit(X, Y).predict(X)
        model(buffer_size=24, budget=10, balance="off").fit(X, Y).predict(X)
        few = X[np.isin(Y, (2, 3))]  # nine rows are the most, so no budget binds
        model(buffer_size=24, budget=10).fit(few, Y[np.isin(Y, (2, 3))]).predict(X)


def test_a_copy_of_the_statistics_has_moments_of_its_own(tmp_path: Path) -> None:
    head = model(buffer_size=24, covariance="shared").fit(X, Y)
    before = state(head, tmp_path / "a")
    head.statistics_.copy().update(X, Y).declare([9]).drop(9)
    assert_same_bits(state(head, tmp_path / "b"), before)
