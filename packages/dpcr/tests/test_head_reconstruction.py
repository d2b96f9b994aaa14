from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from dpcr import AnalyticHead, reconstruct
from dpcr.reconstruction import head_weights
from lipogram.analytic import ClassStatistics
from lipogram.analytic.state import write_state
from lipogram.errors import (
    CorruptState,
    IncompatibleFeatures,
    InvalidFeatures,
    InvalidLabels,
    InvalidSetting,
    NotSeen,
    SingularSystem,
)

D, K = 12, 5
RANDOM = np.random.default_rng(0)
Y = RANDOM.choice(K, 150, p=[0.5, 0.25, 0.15, 0.06, 0.04])
X = RANDOM.normal(size=(150, D)) + RANDOM.normal(size=(K, D))[Y]
OLD = Y < 3


def bank(rows=slice(None), **settings):
    return ClassStatistics(D, **settings).update(X[rows], Y[rows])


def gap(ours, reference):
    ours, reference = np.asarray(ours), np.asarray(reference)
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


def sklearn(gamma, classes):
    targets = (Y[:, None] == np.asarray(classes)).astype(float)
    return Ridge(alpha=gamma, fit_intercept=False, solver="svd").fit(X, targets).coef_


@pytest.mark.parametrize("pooled", [False, True])
def test_the_joint_ridge_with_true_counts(pooled):
    # Imbalanced classes in two parts: constant counts would scale the columns apart.
    held, current = bank(OLD, pooled=pooled), bank(~OLD)
    head = reconstruct(held, current=current, gamma=0.7, normalize=None)
    expected = sklearn(0.7, head.classes_)
    assert gap(head.weight, expected) < 1e-10
    head = reconstruct(held, current=current, gamma=0.7)
    assert gap(head.weight, expected / np.linalg.norm(expected, axis=1, keepdims=True)) < 1e-10
    whole = reconstruct(bank(), gamma=0.7)
    order = [whole.classes_.tolist().index(label) for label in head.classes_]
    assert gap(head.weight, whole.weight[order]) < 1e-10
    assert (held.n_rows, current.n_rows) == (OLD.sum(), (~OLD).sum())


def test_a_class_of_both_parts_adds_up():
    half = np.arange(150) % 2 == 0
    head = reconstruct(bank(half), current=bank(~half), gamma=0.7, normalize=None)
    assert gap(head.weight, sklearn(0.7, head.classes_)) < 1e-10


def test_category_normalisation_cancels_the_counts():
    system = bank().reweight()
    factors = torch.tensor([500, 0.01, 3, 77, 1], dtype=torch.float64)
    wrong = replace(system, cross=system.cross * factors)
    assert gap(head_weights(wrong, 0.7), head_weights(system, 0.7)) <= 1e-12
    assert gap(head_weights(wrong, 0.7, None), head_weights(system, 0.7, None)) > 1
    nothing = replace(system, cross=system.cross * 0)
    assert not head_weights(nothing, 0.7).any()


def test_classes_without_rows_have_no_weights():
    held = bank().declare([7, 8])
    assert 7 not in reconstruct(held).classes_
    assert len(reconstruct(held, gamma=0.1).weight) == K
    for empty in (ClassStatistics(D), ClassStatistics(D).declare([1])):
        with pytest.raises(NotSeen, match="no class has a row"):
            reconstruct(empty)


def test_no_ridge_needs_a_regular_matrix():
    expected = np.linalg.lstsq(X, (Y[:, None] == np.arange(K)).astype(float))[0].T
    head = reconstruct(bank(), gamma=0, normalize=None)
    assert gap(head.weight[np.argsort(head.classes_)], expected) < 1e-10
    dead = X * (np.arange(D) != 3)
    singular = ClassStatistics(D).update(dead, Y)
    with pytest.raises(SingularSystem, match=r"smallest eigenvalue.*raise gamma"):
        reconstruct(singular, gamma=0)
    weight = reconstruct(singular, gamma=1e-3).weight
    assert not weight[:, 3].any()
    assert torch.isfinite(weight).all()


@pytest.mark.parametrize("gamma", [-1, float("nan"), float("inf"), "auto", None, True])
def test_a_ridge_that_is_none(gamma):
    with pytest.raises(InvalidSetting, match="gamma is"):
        reconstruct(bank(), gamma=gamma)


def test_parts_that_do_not_fit():
    with pytest.raises(InvalidSetting, match="normalize is 'l1'"):
        reconstruct(bank(), normalize="l1")
    with pytest.raises(IncompatibleFeatures, match=r"n_features of the bank is 12.*3"):
        reconstruct(bank(), current=ClassStatistics(3))
    with pytest.raises(IncompatibleFeatures, match=r"'a'.*'b'.*calibrate"):
        reconstruct(bank(space="a"), current=bank(space="b"))
    with pytest.raises(InvalidLabels, match="kind"):
        reconstruct(bank(), current=ClassStatistics(D).update(X, Y.astype(str)))


# ---------------------------------------------------------------------------- the head


def test_a_head_scores_and_predicts():
    names = np.array(["ant", "bee", "cat", "dog", "eel"])
    held = ClassStatistics(D).update(X, names[Y])
    head = reconstruct(held, gamma=0.7)
    scores = head(torch.from_numpy(X))
    assert scores.shape == (150, K)
    assert gap(scores, X @ head.weight.numpy().T) < 1e-12
    best = head.classes_[scores.argmax(1).numpy()]
    assert head.predict(X).tolist() == best.tolist()
    assert head.predict(torch.from_numpy(X).float()).tolist() == best.tolist()
    assert head.score(X, names[Y]) == np.mean(best == names[Y]) > 0.8
    single = head.float()
    assert single(torch.from_numpy(X)).dtype == torch.float32
    assert single.in_features == D
    assert set(single.state_dict()) == {"weight"}


def test_a_head_refuses_what_it_cannot_score():
    head = reconstruct(bank())
    with pytest.raises(InvalidFeatures, match=r"\(n, 12\)"):
        head.predict(X[:, :5])
    with pytest.raises(InvalidFeatures, match="NaN in row 2"):
        head.predict(np.where(np.arange(150)[:, None] == 2, np.nan, X))
    weight = head.weight
    for wrong, classes in ((weight, [1, 2]), (weight[0], [1]), (weight[:0], [])):
        with pytest.raises(IncompatibleFeatures, match="a head of"):
            AnalyticHead(wrong, classes)
    with pytest.raises(InvalidLabels, match="twice"):
        AnalyticHead(weight[:2], [1, 1])


def test_a_head_comes_back_bit_by_bit(tmp_path):
    for head in (reconstruct(bank()), reconstruct(bank()).float()):
        back = AnalyticHead.load(head.save(tmp_path / "head.safetensors"))
        assert torch.equal(back.weight, head.weight)
        assert back.weight.dtype == head.weight.dtype
        assert back.classes_.tolist() == head.classes_.tolist()
        assert back.predict(X).tolist() == head.predict(X).tolist()


def test_a_damaged_head_is_refused(tmp_path):
    path = tmp_path / "head.safetensors"
    weight = reconstruct(bank()).weight
    good = {"kind": "dpcr-head", "classes": [0, 1, 2, 3, 4]}
    cases = [
        ({"weight": weight}, good | {"kind": "air"}),
        ({"weight": weight}, good | {"classes": [0, 1]}),
        ({"weight": weight}, good | {"classes": [0, 0, 1, 2, 3]}),
        ({"weight": weight}, {"kind": "dpcr-head"}),
        ({"weight": weight.long()}, good),
        ({"weight": weight * float("nan")}, good),
        ({}, good),
    ]
    for tensors, described in cases:
        write_state(path, tensors, described)
        with pytest.raises(CorruptState):
            AnalyticHead.load(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CorruptState):
        AnalyticHead.load(path)
    with pytest.raises(FileNotFoundError):
        AnalyticHead.load(tmp_path / "none")
