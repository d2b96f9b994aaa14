import numpy as np
import pytest
import torch

from dpcr import ShiftMap, calibrate, fit_shift, reconstruct, row_space_projector
from dpcr.projectors import class_projector
from lipogram.analytic import ClassStatistics
from lipogram.errors import ClosedClass, IncompatibleFeatures, InvalidSetting, UnknownClass

D, K = 12, 4
RANDOM = np.random.default_rng(0)
Y = RANDOM.integers(0, K, 90)
X = RANDOM.normal(size=(90, D)) + 0.5 * RANDOM.normal(size=(K, D))[Y]
OPERATOR = torch.from_numpy(np.eye(D) + 0.3 * RANDOM.normal(size=(D, D)))
SHIFT = ShiftMap(OPERATOR)


def bank(x=X, y=Y, **settings):
    return ClassStatistics(x.shape[1], **settings).declare(np.arange(K)).update(x, y)


def gap(ours, reference):
    return float((ours - reference).norm() / reference.norm())


def dense(projector):
    left, right = projector.factors()
    return left @ right


@pytest.mark.parametrize("storage", ["dense", "packed", "factor"])
@pytest.mark.parametrize("width", [5, D, 20])
def test_moved_statistics_are_those_of_moved_rows(storage, width):
    operator = torch.from_numpy(RANDOM.normal(size=(D, width)))
    offset = torch.from_numpy(RANDOM.normal(size=width))
    for shift in (ShiftMap(operator), ShiftMap(operator, offset)):
        for pooled in (False, True):
            held = bank(storage=storage, pooled=pooled)
            before = held.reweight().gram.clone()
            moved = calibrate(held, shift)
            direct = bank(shift(X).numpy(), pooled=pooled)
            assert gap(moved.reweight().gram.tril(), direct.reweight().gram.tril()) < 1e-9
            assert gap(moved.sums, direct.sums) < 1e-12
            assert moved.counts.tolist() == held.counts.tolist()
            assert torch.equal(held.reweight().gram, before)
            assert moved.classes == held.classes


def test_storages_agree_and_one_sum_is_all_classes():
    heads = {}
    for cip in ("none", "rank", "soft", "official"):
        for storage in ("dense", "packed", "factor"):
            moved = calibrate(bank(storage=storage), SHIFT, cip=cip)
            moved = calibrate(moved, SHIFT, cip=cip)
            heads[cip, storage] = reconstruct(moved, gamma=0.1, normalize=None).weight
            tolerance = 1e-5 if cip == "official" else 1e-9
            assert gap(heads[cip, storage], heads[cip, "dense"]) <= tolerance
    pooled = calibrate(calibrate(bank(pooled=True), SHIFT), SHIFT)
    folded = calibrate(calibrate(bank().fold(dict.fromkeys(range(K), 1.0)), SHIFT), SHIFT)
    for one in (pooled, folded):
        assert set(one.store.grams) == {-1}
        weight = reconstruct(one, gamma=0.1, normalize=None).weight
        assert gap(weight, heads["none", "dense"]) <= 1e-10


@pytest.mark.parametrize("cip", ["rank", "soft", "official"])
def test_category_projection_is_the_product_of_map_and_projector(cip):
    few = np.concatenate([np.flatnonzero(c == Y)[:7] for c in range(K)])
    held = bank(X[few], Y[few])
    moved = calibrate(held, SHIFT, cip=cip)
    for label in range(K):
        gram = held.gram(label)
        if cip == "official":
            projector = row_space_projector(gram.float(), rule="positive")
            assert projector.rank == D  # the rank is 7: float32 hides it
        else:
            projector = row_space_projector(gram, rule="soft" if cip == "soft" else "relative")
            assert projector.rank == 7
        w = OPERATOR @ dense(projector)
        tolerance = 1e-5 if cip == "official" else 1e-10
        assert gap(moved.gram(label), w.T @ gram @ w) < tolerance
        assert gap(moved.sums[label], held.sums[label] @ w) < tolerance
    if cip == "rank":
        for label in range(K):  # a regular map keeps the row space it started from
            before, after = (dense(class_projector(b, label)) for b in (held, moved))
            assert gap(after, before) < 1e-9


def test_a_full_row_space_changes_nothing():
    held = bank()
    assert min(held.counts) >= D
    assert gap(calibrate(held, SHIFT, cip="rank").gram(2), calibrate(held, SHIFT).gram(2)) < 1e-12


def test_projectors_that_are_known_are_used():
    held = bank()
    projectors = {label: row_space_projector(held.gram(label), rank=2) for label in range(K)}
    moved = calibrate(held, SHIFT, cip="rank", projectors=projectors)
    w = OPERATOR @ dense(projectors[3])
    assert gap(moved.gram(3), w.T @ held.gram(3) @ w) < 1e-12
    with pytest.raises(UnknownClass, match="no projector for class 1"):
        calibrate(held, SHIFT, cip="rank", projectors={0: projectors[0]})
    with pytest.raises(UnknownClass, match="no projector for class 0"):
        calibrate(held, SHIFT, cip="rank", projectors={})
    with pytest.raises(InvalidSetting, match="nothing would use them"):
        calibrate(held, SHIFT, projectors=projectors)


def test_an_exactly_linear_drift_gives_the_joint_head():
    task = np.random.default_rng(5).normal(size=(60, D))
    new = np.random.default_rng(6).normal(size=(40, D)) + 1
    shift = fit_shift(task, task @ OPERATOR.numpy())
    moved = calibrate(bank(), shift)
    rows = np.concatenate([X @ OPERATOR.numpy(), new])
    labels = np.concatenate([Y, np.full(40, K)])
    joint = ClassStatistics(D).declare(range(K)).update(rows, labels)
    current = ClassStatistics(D).update(new, [K] * 40)
    for normalize in (None, "category"):
        ours = reconstruct(moved, current=current, gamma=0.5, normalize=normalize)
        theirs = reconstruct(joint, gamma=0.5, normalize=normalize)
        assert gap(ours.weight, theirs.weight) <= 1e-7


def test_spaces_and_widths():
    named = bank(space="a")
    shift = ShiftMap(OPERATOR, old_space="a", new_space="b")
    assert calibrate(named, shift).space == "b"
    assert calibrate(bank(), shift).space == "b"
    with pytest.raises(IncompatibleFeatures, match=r"'a'.*'b'"):
        calibrate(named, ShiftMap(OPERATOR, old_space="b"))
    with pytest.raises(IncompatibleFeatures, match=r"hold 12 features.*takes 5"):
        calibrate(named, ShiftMap(torch.eye(5).double()))
    for wrong in (ShiftMap(OPERATOR[:, :5]), ShiftMap(OPERATOR, OPERATOR[0])):
        with pytest.raises(IncompatibleFeatures, match='use cip="none"'):
            calibrate(bank(), wrong, cip="rank")
    with pytest.raises(ClosedClass):
        calibrate(bank(pooled=True), SHIFT, cip="rank")
    with pytest.raises(InvalidSetting, match="cip is 'all'"):
        calibrate(bank(), SHIFT, cip="all")
    with pytest.raises(IncompatibleFeatures, match="NaN"):
        calibrate(bank(), ShiftMap(OPERATOR * float("nan")))
