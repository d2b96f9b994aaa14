import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipogram.analytic import blas

WIDTHS = range(1, 10)


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("n", [0, 1, 7])
@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_gram_is_the_product_on_the_lower_triangle(d, n, scale):
    start, rows = random(d, d, seed=1), random(n, d)
    start = start + start.T
    expected = start + scale * rows.T @ rows
    lower = start.clone()
    blas.add_gram(lower, rows, scale)
    assert torch.allclose(lower.tril(), expected.tril(), rtol=1e-13, atol=1e-13)
    packed = blas.pack(start)
    blas.add_gram_packed(packed, rows, scale)
    assert torch.allclose(blas.unpack(packed, d).tril(), expected.tril(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("d", WIDTHS)
def test_packing_holds_every_number_once(d):
    matrix = random(d, d)
    matrix = matrix + matrix.T
    packed = blas.pack(matrix)
    assert packed.shape == (d * (d + 1) // 2,)
    assert torch.equal(blas.unpack(packed, d).tril(), matrix.tril())
    assert torch.equal(blas.packed_diagonal(packed, d), matrix.diagonal())
    assert torch.equal(blas.symmetric(matrix.tril() + 9 * matrix.triu(1)), matrix)


@pytest.mark.parametrize("layout", ["transposed", "strided", "reversed"])
def test_rows_of_any_memory_layout(layout):
    array = np.random.default_rng(0).normal(size=(6, 6))
    view = {"transposed": array.T, "strided": np.repeat(array, 2, 0)[::2], "reversed": array}[
        layout
    ]
    rows = torch.from_numpy(view)
    rows = rows.flip(0) if layout == "reversed" else rows
    lower, packed = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(21, dtype=torch.float64)
    blas.add_gram(lower, rows)
    blas.add_gram_packed(packed, rows)
    expected = (rows.T @ rows).tril()
    assert torch.allclose(lower.tril(), expected)
    assert torch.allclose(blas.unpack(packed, 6).tril(), expected)


@given(st.integers(-60, 60), st.integers(1, 3000))
def test_float32_products_neither_overflow_nor_vanish(exponent, n):
    rows = random(n, 3, seed=n) * 10.0**exponent
    expected = (rows.T @ rows).tril()
    lower, packed = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    blas.add_gram(lower, rows, accumulate="float32")
    blas.add_gram_packed(packed, rows, accumulate="float32")
    for result in (lower.tril(), blas.unpack(packed, 3).tril()):
        # |error of an entry| <= few eps * the product of the two columns' norms
        assert float((result - expected).abs().max()) <= 3e-6 * float(expected.diagonal().max())


def test_float32_products_are_cut_to_short_blocks():
    # All entries positive, so the rounding of one long float32 sum has a direction.
    rows = torch.from_numpy(np.random.default_rng(0).uniform(0.5, 1.5, size=(20_000, 2)))
    exact = rows.T @ rows
    lower = torch.zeros(2, 2, dtype=torch.float64)
    blas.add_gram(lower, rows, accumulate="float32")
    whole = torch.zeros(2, 2, dtype=torch.float64)
    blas.add_gram(whole, rows)
    assert torch.allclose(whole.tril(), exact.tril(), rtol=1e-13)
    assert 0 < float((lower - exact).tril().abs().max() / exact.max()) < 1e-6
    blocks = torch.zeros(2, 2, dtype=torch.float64)
    for block in torch.split(rows, blas.FLOAT32_ROWS):
        blas.add_gram(blocks, block, accumulate="float32")
    assert torch.equal(lower, blocks)


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch < 2.9")
@pytest.mark.parametrize("before", ["none", "ieee", "tf32"])
def test_tf32_is_off_inside_and_restored_after(before):
    setting = torch.backends.cuda.matmul
    kept = setting.fp32_precision
    try:
        setting.fp32_precision = before
        with contextlib.suppress(KeyError), blas.full_precision():
            assert setting.fp32_precision == "ieee"
            raise KeyError
        assert setting.fp32_precision == before
    finally:
        setting.fp32_precision = kept


def test_the_legacy_precision_setting_survives():
    kept = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with blas.full_precision():
            pass
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_float32_matmul_precision(kept)
