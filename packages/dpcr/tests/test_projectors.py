import numpy as np
import pytest
import torch

from dpcr import row_space_projector
from dpcr.projectors import class_projector
from lipogram.analytic import ClassStatistics
from lipogram.errors import ClosedClass, InvalidFeatures, InvalidSetting, UnknownClass


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def assert_close(ours, reference, atol=1e-9):
    assert float((ours - reference).abs().max()) <= atol


def dense(projector):
    left, right = projector.factors()
    return left @ right


@pytest.mark.parametrize(("n", "d"), [(1, 6), (5, 16), (20, 64), (80, 16)])
def test_the_projector_of_the_row_space(n, d):
    rows = normal(n, d)
    projector = row_space_projector(rows.T @ rows)
    r = min(n, d)
    assert projector.rank == int(torch.linalg.matrix_rank(rows)) == r
    identity = torch.eye(r, dtype=torch.float64)
    assert_close(projector.vectors.T @ projector.vectors, identity, atol=1e-10)
    full = dense(projector)
    assert_close(full @ full, full, atol=1e-10)
    assert_close(full, full.T, atol=1e-12)
    assert_close(full, torch.linalg.pinv(rows) @ rows, atol=1e-9)
    assert_close(projector(rows), rows, atol=1e-9)


def test_positive_singular_values_in_float32_keep_everything():
    rows = normal(20, 48).float()
    gram = rows.T @ rows
    positive = row_space_projector(gram, rule="positive")
    assert positive.rank == 48  # the released code's rank, of a matrix of rank 20
    assert_close(dense(positive), torch.eye(48, dtype=torch.float64), atol=1e-5)
    assert row_space_projector(gram.double(), tol=1e-5).rank == 20


def test_rules_on_known_eigenvalues():
    basis = torch.linalg.qr(normal(5, 5)).Q
    values = torch.tensor([60.0, 30, 9, 0.9, 0], dtype=torch.float64)
    gram = basis * values @ basis.T
    ranks = {
        (): 4,
        ("energy", 0.6): 1,
        ("energy", 0.61): 2,
        ("energy", 0.99): 3,
        ("energy", None): 3,
        ("energy", 1.0): 4,
        ("relative", 0.1): 3,
        ("relative", 0.3): 2,
    }
    for case, rank in ranks.items():
        rule, tol = case or ("relative", None)
        assert row_space_projector(gram, rule=rule, tol=tol).rank == rank
    for rule in ("relative", "energy", "positive"):
        best = row_space_projector(gram, rule=rule, rank=2)
        assert_close(dense(best), basis[:, :2] @ basis[:, :2].T)
    soft = row_space_projector(gram, rule="soft", tol=0.5)
    kept = basis[:, :4] * (values[:4] / (values[:4] + 30)) @ basis[:, :4].T
    assert_close(dense(soft), kept, atol=1e-12)
    assert row_space_projector(gram * 0).rank == 0
    assert row_space_projector(gram * 0, rule="energy").rank == 0


@pytest.mark.parametrize("rule", ["relative", "energy", "soft", "positive"])
def test_a_factor_gives_the_projector_of_its_matrix(rule):
    rows = normal(9, 20)
    banks = [
        ClassStatistics(20, storage=storage).update(rows, ["a"] * 9)
        for storage in ("factor", "dense", "packed")
    ]
    first, *others = [dense(class_projector(bank, "a", rule=rule)) for bank in banks]
    for other in others:
        assert_close(first, other, atol=1e-5 if rule == "positive" else 1e-9)
    waiting = ClassStatistics(20, storage="factor", chunk_rows=5)
    waiting.update(rows[:6], ["a"] * 6).update(rows[6:], ["a"] * 3)  # the last three wait
    assert_close(dense(class_projector(waiting, "a", rule=rule)), first)
    declared = banks[0].copy().declare(["b"])
    assert class_projector(declared, "b").rank == 0
    with pytest.raises(UnknownClass, match="'c'"):
        class_projector(declared, "c")
    with pytest.raises(ClosedClass):
        class_projector(declared.fold({"a": 1.0}), "a")


def test_bad_matrices_and_settings():
    gram = torch.eye(3, dtype=torch.float64)
    for wrong in (gram[:2], gram[0], torch.zeros(0, 0), gram * float("nan")):
        with pytest.raises(InvalidFeatures):
            row_space_projector(wrong)
    cases = [
        ({"rule": "best"}, "rule is 'best'"),
        ({"tol": 0}, "tol is 0"),
        ({"tol": 1.5}, "at most 1"),
        ({"rank": 0}, "rank is 0"),
        ({"rule": "positive", "tol": 0.1}, "takes no tol"),
    ]
    bank = ClassStatistics(3, storage="factor").update(gram, [0, 0, 0])
    for options, message in cases:
        with pytest.raises(InvalidSetting, match=message):
            row_space_projector(gram, **options)
        with pytest.raises(InvalidSetting, match=message):
            class_projector(bank, 0, **options)
