import os
import signal
import threading

import numpy as np
import pytest
import scipy.sparse
import torch

from lipogram.analytic.rows import LARGEST, LARGEST_WEIGHT, as_rows, as_weights, uninterrupted
from lipogram.errors import InvalidFeatures, InvalidSetting

VALUES = np.array([[1.0, -2.0, 0.5], [4.0, 8.0, -16.0]])
read_only = VALUES.copy()
read_only.flags.writeable = False


@pytest.mark.parametrize(
    "features",
    [VALUES.astype(kind) for kind in ("f2", "f4", "f8", ">f4", ">f8", ">f2", "longdouble", "O")]
    + [torch.from_numpy(VALUES).to(kind) for kind in (torch.float16, torch.bfloat16, torch.float32)]
    + [
        VALUES.tolist(),
        read_only,
        np.asfortranarray(VALUES),
        np.repeat(VALUES, 2, axis=1)[:, ::2],
        VALUES[::-1][::-1],
        torch.from_numpy(VALUES.T.copy()).T,
        torch.from_numpy(VALUES).requires_grad_(),
    ],
    ids=lambda x: str(getattr(x, "dtype", "list")),
)
def test_every_float_width_and_layout_is_read_exactly(features):
    rows = as_rows(features, 3)
    assert rows.dtype in (torch.float32, torch.float64)
    assert rows.double().tolist() == VALUES.tolist()
    assert not rows.requires_grad


@pytest.mark.parametrize("kind", ["i1", "u1", "i8", ">i4", "?"])
def test_integers_become_float64(kind):
    assert as_rows(np.eye(2, dtype=kind), 2).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert as_rows(np.eye(2, dtype=kind), 2).dtype == torch.float64


def test_float32_rows_are_not_copied():
    array = np.ones((2, 3), dtype=np.float32)
    assert as_rows(array, 3).data_ptr() == array.ctypes.data


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "longdouble"])
@pytest.mark.parametrize("torch_tensor", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(kind, torch_tensor, value):
    array = np.zeros((9, 4), dtype=kind)
    array[6, 1] = value
    if torch_tensor and kind != "longdouble":
        array = torch.from_numpy(array)
    word = "NaN" if np.isnan(value) else "infinity"
    with pytest.raises(InvalidFeatures, match=f"{word} in row 6"):
        as_rows(array, 4)
    assert as_rows(array, 4, check_finite=False).shape == (9, 4)


def test_what_overflows_is_named():
    array = np.zeros((9, 4))
    array[3, 0] = -1e200
    with pytest.raises(InvalidFeatures, match="row 3 exceed 1e"):
        as_rows(array, 4)
    array[3, 0] = -LARGEST
    as_rows(array, 4)
    if np.finfo(np.longdouble).max > np.finfo(np.float64).max:
        long = np.zeros((2, 1), dtype=np.longdouble)
        long[1] = np.longdouble(10) ** 400
        with pytest.raises(InvalidFeatures, match="infinity in row 1"):
            as_rows(long, 1)


@pytest.mark.parametrize("shape", [(2, 4), (2, 2), (3,), (2, 3, 1), (), (0,)])
def test_a_wrong_shape_is_named_with_the_right_one(shape):
    with pytest.raises(InvalidFeatures) as raised:
        as_rows(np.zeros(shape), 3)
    assert str(shape) in str(raised.value)
    assert "(n, 3)" in str(raised.value)


@pytest.mark.parametrize(
    "features",
    [
        np.array([["1", "2"]]),
        np.array([["1", "a"]], dtype=object),
        np.array([[b"1", b"2"]]),
        np.zeros((1, 2), dtype="M8[s]"),
        np.ones((1, 2), dtype=np.complex64),
        np.ones((1, 2), dtype=np.complex128),
        np.array([[1j, 2]], dtype=object),
        torch.ones(1, 2, dtype=torch.complex64),
        torch.eye(2).to_sparse(),
        scipy.sparse.csr_matrix(np.eye(2)),
        [[1.0], [1.0, 2.0]],
        None,
        "12",
    ],
    ids=lambda x: f"{type(x).__name__}-{getattr(x, 'dtype', '')}",
)
def test_what_holds_no_real_numbers_is_refused(features):
    with pytest.raises(InvalidFeatures):
        as_rows(features, 2)


@pytest.mark.parametrize("kind", [np.complex64, np.complex128, np.clongdouble])
def test_complex_features_are_named_as_such(kind):
    with pytest.raises(InvalidFeatures, match="features are complex"):
        as_rows(np.ones((1, 2), dtype=kind), 2)


def test_no_rows_are_rows():
    assert as_rows(np.zeros((0, 3)), 3).shape == (0, 3)


@pytest.mark.parametrize(
    "weights",
    [
        [0, 1, 2],
        np.array([0, 1, 2], dtype=">f4"),
        torch.tensor([0, 1, 2]),
        torch.tensor([0.0, 1.0, 2.0]).bfloat16().requires_grad_(),
    ],
    ids=lambda x: type(x).__name__,
)
def test_weights_are_read_as_a_copy(weights):
    result = as_weights(weights, 3)
    assert result.dtype == torch.float64
    assert result.tolist() == [0, 1, 2]
    for own in (np.ones(3), torch.ones(3, dtype=torch.float64)):
        copied = as_weights(own, 3)
        own[0] = 5
        assert copied.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ([1, -1, 1], "-1.0 in row 1"),
        ([1, 1, np.nan], "nan in row 2"),
        ([np.inf, 1, 1], "inf in row 0"),
        ([1, 10 * LARGEST_WEIGHT, 1], "row 1"),
        ([1, 1], r"\(2,\), there are 3"),
        ([[1], [1], [1]], r"\(3, 1\)"),
        (1.0, r"\(\)"),
        (["1", "2", "3"], "real numbers"),
        ([1j, 1, 1], "real numbers"),
        ([None, 1, 1], "real numbers"),
    ],
    ids=repr,
)
def test_impossible_weights_are_named(weights, named):
    with pytest.raises(InvalidSetting, match=named):
        as_weights(weights, 3)


def test_no_weights():
    assert as_weights(None, 3) is None


def test_an_interrupt_waits_for_the_end_of_the_outermost_block():
    done = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with uninterrupted():
            with uninterrupted():
                os.kill(os.getpid(), signal.SIGINT)
                done.append("inner")
            done.append("outer")
        done.append("after")
    assert done == ["inner", "outer"]


def test_the_callers_handler_gets_the_interrupt_once_and_comes_back():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        handler = signal.getsignal(signal.SIGINT)
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            assert not seen
        assert seen == [1]
        assert signal.getsignal(signal.SIGINT) is handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_the_block_just_runs():
    ran = []

    def work():
        with uninterrupted():
            ran.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ran
