import time

import pytest
import torch
from threadpoolctl import threadpool_info

from lipogram.threads import libraries, one_thread, timed


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def fail_on_one_thread() -> None:
    with one_thread():
        assert torch.get_num_threads() == 1
        assert blas_threads() == {1}
        assert libraries().startswith("1 thread, ")
        assert libraries().endswith(f"torch {torch.__version__}")
        raise ZeroDivisionError


def test_one_thread_inside_and_as_many_as_before_afterwards() -> None:
    before = torch.get_num_threads(), blas_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            fail_on_one_thread()
        assert torch.get_num_threads() == 2
        assert libraries().startswith("2 threads, ")
        assert blas_threads() == before[1]
    finally:
        torch.set_num_threads(before[0])


def test_a_call_is_timed_and_answers() -> None:
    seconds, answer = timed(lambda: time.sleep(0.02) or 7)
    assert answer == 7
    assert 0.02 <= seconds < 5
