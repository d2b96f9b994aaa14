import pytest
import torch

from lipogram.errors import InvalidSetting
from lipogram.llm import precision
from lipogram.llm.precision import LARGE, fast_dtype, resolve_dtype

CPU, CUDA, MPS = (torch.device(kind) for kind in ("cpu", "cuda", "mps"))


@pytest.mark.parametrize(
    ("name", "device", "stored", "parameters", "expected"),
    [
        ("auto", CPU, "bfloat16", LARGE, torch.float32),
        ("auto", CUDA, "float16", 1, torch.float16),
        ("auto", CUDA, "bfloat16", LARGE, torch.bfloat16),
        ("auto", CUDA, "float32", LARGE - 1, torch.float32),
        ("auto", CUDA, "float32", LARGE, torch.bfloat16),
        ("auto", CUDA, None, None, torch.float32),
        ("auto", MPS, "float16", 1, torch.float32),
        ("float16", CPU, "float32", 1, torch.float16),
        (torch.float64, CUDA, "float32", LARGE, torch.float64),
    ],
)
def test_type_by_device_and_size(name, device, stored, parameters, expected):
    assert resolve_dtype(name, device, stored=stored, parameters=parameters) is expected


@pytest.mark.parametrize("name", ["int8", "half-ish", "", "Tensor", "bool"])
def test_what_is_no_floating_point_type(name: str):
    with pytest.raises(InvalidSetting, match="floating-point"):
        resolve_dtype(name, CPU, stored=None, parameters=None)


@pytest.mark.parametrize(("bf16", "expected"), [(0.5, torch.bfloat16), (0.95, torch.float32)])
def test_fast_is_what_the_clock_says_once(bf16: float, expected, monkeypatch):
    asked = []

    def timed(dtype: torch.dtype) -> float:
        asked.append(dtype)
        return bf16 if dtype is torch.bfloat16 else 1.0

    monkeypatch.setattr(precision, "_time", timed)
    fast_dtype.cache_clear()
    try:
        for _ in range(3):
            assert resolve_dtype("fast", CPU, stored="float32", parameters=1) is expected
    finally:
        fast_dtype.cache_clear()
    assert len(asked) == 2


def test_a_real_product_is_timed():
    assert 0 < precision._time(torch.float32) < 5
