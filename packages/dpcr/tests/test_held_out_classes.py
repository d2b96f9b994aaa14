import numpy as np
import pytest
import torch

from dpcr import DriftCalibrator, HeldOutClasses, ShiftAccumulator, ShiftMap, calibrate
from dpcr.held_out_classes import RELATIVE_GRID
from dpcr.shift_ridge import few_axes, ridge_path
from lipogram.analytic import ClassStatistics
from lipogram.analytic.solve import RidgeSystem
from lipogram.errors import (
    CorruptState,
    IncompatibleFeatures,
    InvalidFeatures,
    InvalidLabels,
    InvalidSetting,
)

D, N = 9, 120


def task(classes=4, width=D, noise=0.3, seed=0):
    """Pairs of a drift that is linear but for what the features do not say."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, N)
    old = random.normal(size=(N, D)) + 2 * random.normal(size=(classes, D))[labels]
    operator = np.eye(D, width) + 0.4 * random.normal(size=(D, width))
    per_class = random.normal(size=(classes, width))[labels]
    return old, old @ operator + noise * (per_class + random.normal(size=(N, width))), labels


def ridge(old, new, eps, prior):
    start = np.eye(D) if prior == "identity" else np.zeros((D, new.shape[1]))
    gram = old.T @ old + eps * np.eye(D)
    return start + np.linalg.solve(gram, old.T @ (new - old @ start))


def by_hand(old, new, labels, prior, folds=5):
    """ε relative to the mean eigenvalue, map and covariance of leaving out classes, with rows."""
    classes = np.unique(labels)
    groups = [classes[i::folds] for i in range(min(folds, len(classes)))]
    errors = np.zeros(len(RELATIVE_GRID))
    left = [[] for _ in RELATIVE_GRID]
    for group in groups:
        out = np.isin(labels, group)
        unit = np.square(old[~out]).sum() / D
        for i, relative in enumerate(RELATIVE_GRID):
            fitted = ridge(old[~out], new[~out], relative * unit, prior)
            left[i].append(new[out] - old[out] @ fitted)
            errors[i] += np.square(left[i][-1]).sum()
    best = int(errors.argmin())
    if prior == "identity":
        best = int(
            np.flatnonzero(
                errors <= max(errors.min(), np.sqrt(errors.min() * np.square(new - old).sum()))
            )[-1]
        )
    missed = np.concatenate(left[best])
    eps = RELATIVE_GRID[best] * np.square(old).sum() / D
    return eps, ridge(old, new, eps, prior), missed.T @ missed / len(missed)


def gap(ours, reference):
    return float(np.abs(np.asarray(ours) - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize("prior", ["identity", "zero"])
@pytest.mark.parametrize(("classes", "noise"), [(2, 0.3), (4, 0.3), (7, 1.5)])
def test_sums_say_what_leaving_out_the_rows_of_classes_says(prior, classes, noise):
    old, new, labels = task(classes, noise=noise)
    shift = HeldOutClasses().update(old, new, labels).solve(prior=prior)
    eps, matrix, covariance = by_hand(old, new, labels, prior)
    assert shift.eps == pytest.approx(eps, rel=1e-9)
    assert gap(shift.matrix, matrix) < 1e-9
    assert gap(shift.noise, covariance) < 1e-8
    assert 0 < shift.rank <= D
    assert shift.rows == N


def test_the_less_a_map_gains_the_closer_it_stays_to_the_identity():
    found = []
    for noise in (0.01, 0.3, 3.0):
        old, new, labels = task(noise=noise)
        shift = HeldOutClasses().update(old, new, labels).solve(prior="identity")
        drift = np.linalg.norm(np.eye(D) - ridge(old, new, 0.0, "identity"))
        found.append(float(np.linalg.norm(shift.matrix.numpy() - np.eye(D)) / drift))
    assert found[0] > 0.95 > found[1] > 2 * found[2], found


def test_the_order_of_rows_and_workers_and_names_of_classes_do_not_matter():
    old, new, labels = task()
    whole = HeldOutClasses().update(old, new, labels).solve()
    order = np.random.default_rng(1).permutation(N)
    parts = [HeldOutClasses().update(old[i], new[i], labels[i]) for i in np.array_split(order, 3)]
    merged = parts[0].copy().merge(parts[1]).merge(parts[2]).merge(HeldOutClasses())
    assert HeldOutClasses().merge(merged).rows == N
    assert parts[0].rows == 40
    names = np.array(["d", "b", "c", "a"])[labels]
    for other in (merged.solve(), HeldOutClasses().update(old, new, names).solve()):
        assert other.eps == pytest.approx(whole.eps)
        assert gap(other.matrix, whole.matrix.numpy()) < 1e-10
        assert gap(other.noise, whole.noise.numpy()) < 1e-10


@pytest.mark.parametrize("width", [5, D, 14])
def test_an_exactly_linear_drift_leaves_nothing(width):
    old, _, labels = task()
    operator = np.random.default_rng(3).normal(size=(D, width))
    shift = HeldOutClasses().update(old, old @ operator, labels).solve()
    assert gap(shift.matrix, operator) < 1e-9
    assert float(shift.noise.abs().max()) < 1e-15 * np.square(operator).sum() * N


def test_one_class_has_none_to_leave_out():
    old, new, _ = task()
    shift = HeldOutClasses().update(old, new, np.zeros(N, dtype=int)).solve(prior="zero")
    by_rows = ShiftAccumulator().update(old, new).solve(prior="zero")
    assert gap(shift.matrix, by_rows.matrix.numpy()) < 1e-9
    missed = new - old @ by_rows.matrix.numpy()
    # Generalised cross-validation: each error over its share of free rows, n/(n − df).
    expected = missed.T @ missed / N * (N / (N - by_rows.rank)) ** 2
    assert gap(shift.noise, expected) < 1e-8
    alone = HeldOutClasses().update(old[:1], new[:1], [0]).solve()
    assert bool(torch.isfinite(alone.matrix).all() and torch.isfinite(alone.noise).all())


def test_few_rows_and_dead_units_stay_finite_and_symmetric():
    random = np.random.default_rng(0)
    old = np.maximum(random.normal(size=(6, 40)), 0)
    old[:, 30:] = 0
    shift = HeldOutClasses().update(old, old + 0.1, [0, 1, 2, 0, 1, 2]).solve()
    assert bool(torch.isfinite(shift.matrix).all())
    assert torch.equal(shift.noise, shift.noise.T)
    assert float(torch.linalg.eigvalsh(shift.noise)[0]) > -1e-12


def test_calibration_widens_by_what_the_map_misses():
    old, new, labels = task()
    shift = HeldOutClasses().update(old, new, labels).solve()
    held = ClassStatistics(D).update(*task(seed=1)[::2])
    moved = calibrate(held, shift)
    plain = calibrate(held, ShiftMap(shift.matrix))
    for label in held.classes:
        spread = held.mass[held.index.slot(label)] * shift.noise.numpy()
        assert gap(moved.gram(label), plain.gram(label).numpy() + spread) < 1e-12
    assert torch.equal(moved.sums, plain.sums)
    with pytest.raises(IncompatibleFeatures, match="noise"):
        calibrate(held, shift, cip="rank")


def test_maps_in_a_row_carry_their_noise():
    first, second = (HeldOutClasses().update(*task(seed=s)).solve() for s in (0, 1))
    held = ClassStatistics(D, pooled=True).update(*task(seed=2)[::2])
    both = calibrate(held, first.then(second)).reweight().gram.tril()
    steps = calibrate(calibrate(held, first), second).reweight().gram.tril()
    assert gap(both, steps.numpy()) < 1e-12


def test_a_calibrator_goes_on_from_its_file(tmp_path):
    def show(calibrator, number):
        old, new, labels = task(seed=number)
        calibrator.observe(old if number else None, new, labels + 4 * number)
        return calibrator

    whole, resumed = DriftCalibrator(gamma=1.0), DriftCalibrator(gamma=1.0)
    for number in range(3):
        whole, resumed = show(whole, number), show(resumed, number)
        resumed = DriftCalibrator.load(resumed.save(tmp_path / "state"))
        whole.finish()
        resumed.finish()
        resumed = DriftCalibrator.load(resumed.save(tmp_path / "state"))
    assert torch.equal(whole.head.weight, resumed.head.weight)
    assert torch.equal(whole.shift.noise, resumed.shift.noise)


def test_states_that_do_not_fit_are_refused():
    tensors, described = HeldOutClasses().update(*task()).state("p/")
    assert HeldOutClasses.of_state(tensors, described, "p/").rows == N
    with pytest.raises(CorruptState, match="18 of 18"):
        HeldOutClasses.of_state(tensors, described | {"d": 18}, "p/")
    shift_tensors, shift = HeldOutClasses().update(*task()).solve().state()
    for broken in (torch.eye(D + 1).double(), -torch.eye(D).double(), torch.ones(D, D).tril()):
        with pytest.raises(CorruptState, match="shift map"):
            ShiftMap.of_state(shift_tensors | {"noise": broken}, shift)


def test_bad_pairs_leave_the_sums_as_they_were():
    old, new, labels = task()
    held = HeldOutClasses().update(old, new, labels)
    before = held.joined.reweight().gram.clone()
    cases = [
        ((old[:3], new[:2], labels[:3]), InvalidFeatures, "3 rows of old"),
        ((old, new, labels[:5]), InvalidFeatures, "5 labels"),
        ((old[:, :4], new, labels), InvalidFeatures, "old features"),
        ((old, new * np.nan, labels), InvalidFeatures, "new features"),
        ((old, new, labels + 0.5), InvalidLabels, "whole number"),
    ]
    for arguments, kind, message in cases:
        with pytest.raises(kind, match=message):
            held.update(*arguments)
        assert torch.equal(held.joined.reweight().gram, before)
    with pytest.raises(IncompatibleFeatures, match="widths"):
        held.merge(HeldOutClasses().update(old[:, 1:], np.c_[new, new[:, 0]], labels))
    with pytest.raises(InvalidSetting, match="identity"):
        HeldOutClasses().update(old, new[:, 1:], labels).solve(prior="identity")
    with pytest.raises(InvalidSetting, match="folds"):
        HeldOutClasses(folds=1)
    with pytest.raises(InvalidFeatures, match="empty"):
        HeldOutClasses().solve()
    with pytest.raises(InvalidLabels, match="labels"):
        DriftCalibrator().observe(None, new, labels).observe(old, new)


@pytest.mark.parametrize("rows", [1, 7, 19])
def test_axes_of_few_rows_are_the_eigenvectors(rows):
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 50)) * np.logspace(0, -3, 50)
    x[:, 10:20] = 0
    x = np.concatenate([x, x[:1]])  # a row twice adds no axis
    gram = torch.from_numpy(x.T @ x)
    values, vectors = few_axes(gram.tril())
    expected = np.sort(np.linalg.svd(x, compute_uv=False))[-rows:] ** 2
    np.testing.assert_allclose(values, expected, rtol=1e-8)
    assert gap(vectors * values @ vectors.T, gram.numpy()) < 1e-12
    assert gap(vectors.T @ vectors, np.eye(rows)) < 1e-8
    zeros = torch.zeros(50)
    system = RidgeSystem(gram, gram, zeros, zeros, 1.0, float(gram.trace()), rows + 1)
    full = RidgeSystem(gram, gram, zeros, zeros, 1.0, float(gram.trace()), 100)
    assert gap(ridge_path(system).weight(0.1), ridge_path(full).weight(0.1).numpy()) < 1e-9


def test_no_row_that_says_anything():
    values, vectors = few_axes(torch.zeros(5, 5, dtype=torch.float64))
    assert (values.shape, vectors.shape) == ((0,), (5, 0))
