"""Checks of single settings."""

import numpy as np
import pytest

from lipogram.analytic.settings import flag, one_of, positive, whole
from lipogram.errors import InvalidSetting


@pytest.mark.parametrize("value", [1, 7, np.int32(3), np.uint8(9), 10])
def test_whole_numbers(value):
    taken = whole("size", value, most=10)
    assert taken == value
    assert type(taken) is int


@pytest.mark.parametrize("value", [0, 11, True, np.True_, 2.0, "3", None, [1], 2**70])
def test_no_whole_number(value):
    with pytest.raises(InvalidSetting, match="size is"):
        whole("size", value, most=10)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(2), np.int64(4), 1e300])
def test_positive_numbers(value):
    taken = positive("scale", value)
    assert taken == value
    assert type(taken) is float


@pytest.mark.parametrize(
    "value", [0, -1.0, float("nan"), float("inf"), 10**400, True, np.True_, "1", None, 1j], ids=repr
)
def test_no_positive_number(value):
    with pytest.raises(InvalidSetting, match="scale is"):
        positive("scale", value)


@pytest.mark.parametrize("value", [True, False, np.True_])
def test_flags(value):
    assert flag("pooled", value) is bool(value)


@pytest.mark.parametrize("value", [0, 1, "yes", None])
def test_no_flag(value):
    with pytest.raises(InvalidSetting, match="pooled is"):
        flag("pooled", value)


def test_names():
    assert one_of("storage", "dense", ("auto", "dense")) == "dense"


@pytest.mark.parametrize("value", ["sparse", None, 1, ["dense"], {}])
def test_no_name(value):
    with pytest.raises(InvalidSetting, match=r"storage is .* one of auto, dense"):
        one_of("storage", value, ("auto", "dense"))
