"""Affine maps of class statistics: offsets, and operators that stay in factors."""

import numpy as np
import pytest
import torch

from lipogram.analytic.operators import common_width, product
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import IncompatibleFeatures

D, K = 8, 3
RANDOM = np.random.default_rng(0)
X, Y, W = RANDOM.normal(size=(50, D)), RANDOM.integers(0, K, 50), RANDOM.exponential(size=50)


def fed(rows, **settings):
    statistics = ClassStatistics(rows.shape[1], **settings).declare(np.arange(K + 1))
    return statistics.update(rows, Y, sample_weight=W)


def matrix(*shape):
    return torch.from_numpy(RANDOM.normal(size=shape))


def assert_close(ours, reference):
    assert float((ours - reference).abs().max()) <= 1e-10 * (1 + float(reference.abs().max()))


def every(*operators):
    return {label: list(operators) for label in range(K + 1)}


def assert_same_sums(ours, theirs):
    ours, theirs = ours.reweight(), theirs.reweight()
    for name in ("gram", "cross", "row_sum", "target_sum"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        if name == "gram":
            mine, other = mine.tril(), other.tril()
        assert_close(mine, other)
    assert (ours.mass, ours.energy, ours.rows) == (theirs.mass, theirs.energy, theirs.rows)


@pytest.mark.parametrize("storage", ["auto", "dense", "packed", "memmap", "factor"])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("width", [3, D, 20])
def test_an_offset_moves_every_row(storage, pooled, width):
    operator, offset = matrix(D, width), matrix(width)
    rows = X @ operator.numpy() + offset.numpy()
    statistics = fed(X, storage=storage, pooled=pooled)
    moved = statistics.transport(operator, offset=offset, space="new")
    assert_same_sums(moved, fed(rows, pooled=pooled))
    assert moved.space == "new"
    assert statistics.space == ""
    assert_same_sums(statistics, fed(X, pooled=pooled))
    moved.update(rows, Y)
    assert moved.n_rows == 100


def test_an_offset_moves_folded_classes():
    operator, offset = matrix(D, D), matrix(D)
    folded = fed(X).fold({0: 2.0, 1: 0.5}).transport(operator, offset=offset)
    direct = fed(X @ operator.numpy() + offset.numpy()).fold({0: 2.0, 1: 0.5})
    assert_same_sums(folded, direct)


@pytest.mark.parametrize("storage", ["dense", "packed", "factor"])
def test_factors_are_their_product(storage):
    statistics = fed(X, storage=storage)
    factors = [matrix(D, 2), matrix(2, 5), matrix(5, D)]
    whole = factors[0] @ factors[1] @ factors[2]
    assert_same_sums(statistics.transport(every(*factors)), fed(X @ whole.numpy()))
    ranks = {label: [matrix(D, label), matrix(label, D)] for label in range(K + 1)}
    moved = statistics.transport(ranks)
    for label, (left, right) in ranks.items():
        direct = fed(X @ (left @ right).numpy())
        assert_close(moved.gram(label), direct.gram(label))
        assert_close(moved.sums[label], direct.sums[label])


def test_maps_that_do_not_fit():
    good, statistics = matrix(D, 4), fed(X)
    cases = [
        ({"operator": good, "offset": matrix(5)}, r"\(5,\).*4 features"),
        ({"operator": good, "offset": matrix(4) * torch.nan}, "NaN"),
        ({"operator": every(good, good)}, r"\(8, 4\) · \(8, 4\)"),
        ({"operator": every()}, "one width"),
        ({"operator": every(good, matrix(4, 3) * torch.inf)}, "infinity"),
        ({"operator": {0: good, 1: good, 2: good, 3: [good, matrix(4, 3)]}}, "one width"),
    ]
    before = statistics.reweight().gram.clone()
    for arguments, message in cases:
        with pytest.raises(IncompatibleFeatures, match=message):
            statistics.transport(**arguments)
    assert torch.equal(statistics.reweight().gram, before)
    assert common_width([[good]], D) == 4
    assert product(torch.from_numpy(X), [good, matrix(4, 2)]).shape == (50, 2)
