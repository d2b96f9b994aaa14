"""The laws of AIR: exact, order-free, foldable, re-weightable, forgetting, resumable."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.utils.estimator_checks import parametrize_with_checks

from air import AIRClassifier
from lipogram.analytic import RandomBuffer
from lipogram.analytic.scenarios import long_tailed_counts
from lipogram.errors import (
    ClosedClass,
    IncompatibleFeatures,
    InvalidFeatures,
    InvalidLabels,
    InvalidSetting,
    NotSeen,
    OverBudget,
    UnknownClass,
)

K, D = 8, 40
GAMMAS = (1e-3, 0.1, 1000.0)


def stream(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(K), long_tailed_counts(K, 120, 60.0))
    means = rng.standard_normal((K, D))
    return means[labels] + rng.standard_normal((len(labels), D)), labels


X, Y = stream()


def joint(
    rows: NDArray[np.float64], labels: NDArray[np.int64], gamma: float, scale: float | None = None
) -> NDArray[np.float64]:
    """(D, classes sorted): class-weighted ridge in float64 from the rows, the formula itself."""
    classes, counts = np.unique(labels, return_counts=True)
    pi = 1 / counts
    pi *= len(classes) / pi.sum() if scale is None else scale
    weight = pi[np.searchsorted(classes, labels)]
    targets = (labels[:, None] == classes).astype(float)
    weighted = rows * weight[:, None]
    return np.linalg.solve(rows.T @ weighted + gamma * np.eye(rows.shape[1]), weighted.T @ targets)


def weights_of(head: AIRClassifier) -> NDArray[np.float64]:
    return head.coef_[np.argsort(head.classes_)].T


def relative(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def orders() -> dict[str, NDArray[np.int64]]:
    return {
        "descending": np.argsort(Y, kind="stable"),
        "ascending": np.argsort(-Y, kind="stable"),
        "shuffled": np.random.default_rng(1).permutation(len(Y)),
    }


@pytest.mark.parametrize(
    ("gamma", "order", "batch"), list(itertools.product(GAMMAS, orders(), (1, 64, len(Y))))
)
def test_weights_are_the_joint_class_weighted_ridge(gamma: float, order: str, batch: int) -> None:
    head, rows = AIRClassifier(gamma=gamma, buffer_size=None), orders()[order]
    for i in range(0, len(Y), batch):
        head.partial_fit(X[rows[i : i + batch]], Y[rows[i : i + batch]])
    expected = joint(X, Y, gamma)
    assert relative(weights_of(head), expected) <= 1e-9
    np.testing.assert_array_equal(head.predict(X), (X @ expected).argmax(1))


def test_the_buffer_is_the_random_relu_map() -> None:
    head = AIRClassifier(gamma=1.0, buffer_size=64, seed=3).fit(X, Y)
    mapped = RandomBuffer(D, 64, seed=3)(torch.from_numpy(X)).numpy()
    assert relative(weights_of(head), joint(mapped, Y, 1.0)) <= 1e-9


@pytest.mark.parametrize("gamma", GAMMAS)
def test_balanced_data_need_no_rectifier(gamma: float) -> None:
    labels = np.arange(len(Y) // K * K) % K
    rows = X[: len(labels)]
    air = AIRClassifier(gamma=gamma, buffer_size=None).fit(rows, labels)
    ridge = AIRClassifier(gamma=gamma, buffer_size=None, class_weight="none").fit(rows, labels)
    assert relative(air.coef_, ridge.coef_) <= 1e-9


@pytest.mark.parametrize("normalize", ["seen", "slots"])
def test_normalising_is_another_gamma(normalize: str) -> None:
    scaled = AIRClassifier(gamma=0.5, buffer_size=None, normalize=normalize).fit(X, Y)  # type: ignore[arg-type]
    plain = AIRClassifier(gamma=scaled.gamma_effective_, buffer_size=None, normalize="none").fit(
        X, Y
    )
    assert relative(scaled.coef_, plain.coef_) <= 1e-9
    assert scaled.gamma_effective_ == pytest.approx(0.5 / (K / (1 / np.bincount(Y)).sum()))


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, K - 1), max_size=4), seed=st.integers(0, 99))
def test_folding_is_exact_for_any_tasks(cuts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(K)
    folded = AIRClassifier(gamma=0.1, buffer_size=None, policy="cil")
    open_head = AIRClassifier(gamma=0.1, buffer_size=None)
    for start, stop in itertools.pairwise([0, *sorted(set(cuts)), K]):
        rows = np.flatnonzero(np.isin(Y, order[start:stop]))
        folded.partial_fit(X[rows], Y[rows]).end_task()
        open_head.partial_fit(X[rows], Y[rows])
        assert relative(weights_of(folded), weights_of(open_head)) <= 1e-9


def test_folded_equals_open_at_width_500_and_its_size_does_not_grow_with_classes() -> None:
    rng = np.random.default_rng(5)
    rows, labels = rng.standard_normal((1200, 500)), np.arange(1200) % 20
    sizes, folded = [], AIRClassifier(gamma=0.1, buffer_size=None, policy="cil")
    for task in range(10):
        mine = labels // 2 == task
        folded.partial_fit(rows[mine], labels[mine]).end_task()
        sizes.append(folded.nbytes_)
    whole = AIRClassifier(gamma=0.1, buffer_size=None).fit(rows, labels)
    assert relative(weights_of(folded), weights_of(whole)) <= 1e-9
    assert max(sizes) - min(sizes) <= 20 * 500 * 8


@pytest.mark.parametrize("storage", ["auto", "dense", "packed", "memmap", "factor"])
def test_every_storage_gives_the_same_head(storage: str) -> None:
    head = AIRClassifier(gamma=0.1, buffer_size=None, storage=storage).fit(X, Y)  # type: ignore[arg-type]
    assert relative(weights_of(head), joint(X, Y, 0.1)) <= 1e-9


@settings(max_examples=15, deadline=None)
@given(parts=st.integers(1, 6), seed=st.integers(0, 99))
def test_merging_any_partition_is_the_whole(parts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, parts, len(Y))
    heads = [
        AIRClassifier(gamma=1.0, buffer_size=None).partial_fit(X[owner == p], Y[owner == p])
        for p in range(parts)
    ]
    for other in heads[1:]:
        heads[0].merge(other)
    whole = AIRClassifier(gamma=1.0, buffer_size=None).fit(X, Y)
    assert relative(weights_of(heads[0]), weights_of(whole)) <= 1e-12
    assert sorted(heads[0].class_count_) == sorted(whole.class_count_)


@pytest.mark.parametrize("storage", ["auto", "dense", "packed", "memmap", "factor"])
@pytest.mark.parametrize("gone", [slice(0, 50), slice(115, None), slice(0, 120)])
def test_forgotten_is_never_seen(storage: str, gone: slice) -> None:
    keep = np.ones(len(Y), dtype=bool)
    keep[gone] = False
    head = AIRClassifier(gamma=0.1, buffer_size=None, storage=storage).fit(X, Y)  # type: ignore[arg-type]
    never = AIRClassifier(gamma=0.1, buffer_size=None).fit(X[keep], Y[keep])
    head.forget(X[~keep], Y[~keep])
    np.testing.assert_array_equal(np.sort(head.classes_), never.classes_)
    assert relative(weights_of(head), weights_of(never)) <= 1e-8


def test_dropping_classes_takes_their_column_and_renormalises() -> None:
    head = AIRClassifier(gamma=0.1, buffer_size=None).fit(X, Y)
    head.drop_classes([1, 4])
    keep = ~np.isin(Y, [1, 4])
    assert 1 not in head.classes_
    assert relative(weights_of(head), joint(X[keep], Y[keep], 0.1)) <= 1e-9


@pytest.mark.parametrize("rule", [0.5, 0, "none", "effective:0.99"])
def test_reweighting_afterwards_is_a_fresh_fit(rule: str | float) -> None:
    head = AIRClassifier(gamma=0.1, buffer_size=None).fit(X, Y)
    before = head.coef_
    fresh = AIRClassifier(gamma=0.1, buffer_size=None, class_weight=rule).fit(X, Y)
    assert relative(head.reweight(rule).coef_, fresh.coef_) <= 1e-10
    np.testing.assert_array_equal(head.reweight("balanced").coef_, before)


def test_save_load_go_on_equals_uninterrupted(tmp_path: Path) -> None:
    half = len(Y) // 2
    for policy in ("gcil", "cil"):
        head = AIRClassifier(gamma=0.1, buffer_size=32, policy=policy)  # type: ignore[arg-type]
        head.partial_fit(X[:half], Y[:half])
        if policy == "cil":
            head.end_task([0])
        head.save(tmp_path / "head.safetensors")
        again = AIRClassifier.load(tmp_path / "head.safetensors")
        for h in (head, again):
            h.partial_fit(X[half:][Y[half:] > 0], Y[half:][Y[half:] > 0])
        np.testing.assert_array_equal(again.coef_, head.coef_)
        np.testing.assert_array_equal(again.class_count_, head.class_count_)
        assert again.policy == policy


# ------------------------------------------------------------------------------- bad input


def snapshot(head: AIRClassifier) -> tuple[bytes, bytes, list[object], object]:
    return (
        head.coef_.tobytes(),
        head.class_count_.tobytes(),
        head.classes_.tolist(),
        head.class_weight,
    )


@pytest.fixture
def head() -> AIRClassifier:
    return AIRClassifier(gamma=0.1, buffer_size=None).fit(X, Y)


@pytest.mark.parametrize(
    ("rows", "labels", "error", "match"),
    [
        (
            np.where(np.arange(3)[:, None] == 2, np.nan, X[:3]),
            Y[:3],
            InvalidFeatures,
            "NaN in row 2",
        ),
        (np.where(np.arange(3)[:, None] == 1, np.inf, X[:3]), Y[:3], InvalidFeatures, "row 1"),
        (X[:3] * 1e200, Y[:3], InvalidFeatures, "overflow"),
        (X[:3, :7], Y[:3], ValueError, "7 features.*40"),
        (X[:3], [1.5, 0, 0], InvalidLabels, "1.5"),
        (X[:3], ["a", "b", "c"], InvalidLabels, "str.*int"),
        (X[:3], [True, False, True], InvalidLabels, "bool.*int"),
        (X[:3], Y[:2], ValueError, "3.*2"),
    ],
)
def test_a_bad_batch_changes_nothing(
    head: AIRClassifier, rows: object, labels: object, error: type[Exception], match: str
) -> None:
    before = snapshot(head)
    with pytest.raises(error, match=match):
        head.partial_fit(rows, labels)
    assert snapshot(head) == before


def test_negative_weights_change_nothing(head: AIRClassifier) -> None:
    before = snapshot(head)
    with pytest.raises(InvalidSetting, match="row 1"):
        head.partial_fit(X[:2], Y[:2], sample_weight=[1.0, -1.0])
    assert snapshot(head) == before


def test_an_empty_batch_is_no_batch(head: AIRClassifier) -> None:
    before = snapshot(head)
    head.partial_fit(np.empty((0, D)), np.empty(0, dtype=int))
    assert snapshot(head) == before


@pytest.mark.parametrize("stray", [-1, 3_000_000])
def test_a_stray_label_costs_one_slot(head: AIRClassifier, stray: int) -> None:
    size = head.nbytes_
    head.partial_fit(X[:1], [stray])
    assert len(head.classes_) == K + 1
    assert head.nbytes_ - size <= 3 * D * 8


def test_a_closed_class_names_the_remedy() -> None:
    head = AIRClassifier(gamma=0.1, buffer_size=None, policy="cil").fit(X, Y).end_task()
    before = snapshot(head)
    for attempt in (
        lambda: head.partial_fit(X[:2], Y[:2]),
        lambda: head.forget(X[:2], Y[:2]),
        lambda: head.drop_classes([0]),
    ):
        with pytest.raises(ClosedClass, match=r'class 0.*policy="gcil"'):
            attempt()
    with pytest.raises(ClosedClass, match="common factor"):
        head.reweight(0.5)
    assert snapshot(head) == before


def test_ending_a_task_without_rows() -> None:
    head = AIRClassifier(buffer_size=None, policy="cil").partial_fit(
        X[:5], Y[:5], classes=np.arange(K)
    )
    with pytest.raises(NotSeen, match="class 7 has no row"):
        head.end_task([7])
    with pytest.raises(UnknownClass, match="99"):
        head.end_task([99])


def test_forgetting_more_than_was_seen(head: AIRClassifier) -> None:
    before = snapshot(head)
    with pytest.raises(NotSeen, match=r"4.*2"):
        head.forget(np.tile(X[-1], (4, 1)), np.full(4, Y[-1]))
    with pytest.raises(UnknownClass, match="77"):
        head.forget(X[:1], [77])
    with pytest.raises(NotSeen):
        head.forget(X[Y == 7] + 1.0, Y[Y == 7])
    assert snapshot(head) == before


def test_over_budget_is_said_before_anything_is_allocated() -> None:
    head = AIRClassifier(buffer_size=None, storage="dense", memory_budget=8 * D * D * 3)
    head.partial_fit(X[:5], [0, 1, 2, 0, 1])
    before = snapshot(head)
    with pytest.raises(OverBudget, match=f"{8 * D * D * 4:,} bytes"):
        head.partial_fit(X[:1], [3])
    assert snapshot(head) == before


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"gamma": 0.0}, "gamma"),
        ({"gamma": float("nan")}, "gamma"),
        ({"gamma": "best"}, "gamma"),
        ({"gamma": "gcv"}, "cv"),
        ({"gamma": "cv", "policy": "cil"}, "gcil"),
        ({"class_weight": "even"}, "class_weight"),
        ({"normalize": "all"}, "normalize"),
        ({"policy": "online"}, "policy"),
        ({"min_count": 0}, "min_count"),
        ({"storage": "disk"}, "storage"),
        ({"buffer_size": 0}, "buffer_size"),
    ],
)
def test_bad_settings(setting: dict[str, object], match: str) -> None:
    head = AIRClassifier(**{"buffer_size": None, **setting})  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match=match):
        head.fit(X, Y)
    assert not head.__sklearn_is_fitted__()


def test_heads_of_other_features_do_not_merge(head: AIRClassifier) -> None:
    before = snapshot(head)
    others = [
        AIRClassifier(buffer_size=None).fit(X[:, :5], Y),
        AIRClassifier(buffer_size=D).fit(X, Y),
        AIRClassifier(buffer_size=None, space="another backbone").fit(X, Y),
    ]
    for other in others:
        with pytest.raises(IncompatibleFeatures):
            head.merge(other)
    with pytest.raises(IncompatibleFeatures, match="buffer"):
        AIRClassifier(buffer_size=16, seed=1).fit(X, Y).merge(
            AIRClassifier(buffer_size=16).fit(X, Y)
        )
    assert snapshot(head) == before


def test_heads_with_other_normalisation_merge(head: AIRClassifier) -> None:
    other = AIRClassifier(buffer_size=None, normalize="none", class_weight=0.3).fit(X, Y)
    head.merge(other)
    assert head.n_samples_seen_ == 2 * len(Y)


def without_reason(head: AIRClassifier) -> dict[str, str]:
    """Checks that a head cannot pass, and why."""
    if head.fit_intercept:
        return {}
    return {
        "check_class_weight_classifiers": (
            "the paper's head has no intercept: on data around the origin a linear score cannot "
            "prefer one class everywhere, whatever the weights; with fit_intercept=True it passes"
        )
    }


@pytest.mark.filterwarnings("ignore::lipogram.errors.IllConditioned")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        AIRClassifier(buffer_size=None),
        AIRClassifier(buffer_size=None, fit_intercept=True),
        AIRClassifier(buffer_size=64),
        AIRClassifier(gamma="cv", buffer_size=None),
    ],
    expected_failed_checks=without_reason,
)
def test_scikit_learn_contract(estimator: AIRClassifier, check: object) -> None:
    check(estimator)  # type: ignore[operator]
