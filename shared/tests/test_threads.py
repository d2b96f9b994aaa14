import time
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from lipogram import threads
from lipogram.threads import libraries, one_thread, timed


def blas_threads():
    np.ones((2, 2)) @ np.ones((2, 2))
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


@pytest.fixture
def two_threads():
    held = torch.get_num_threads()
    with threadpool_limits(limits=2):
        torch.set_num_threads(2)
        yield
    torch.set_num_threads(held)


def leave_by_an_error(seen):
    with one_thread():
        seen.append((torch.get_num_threads(), set(blas_threads())))
        raise KeyError


def test_one_thread_inside_and_as_many_as_before_after_an_error(two_threads):
    seen, before = [], blas_threads()
    with pytest.raises(KeyError):
        leave_by_an_error(seen)
    assert seen == [(1, {1})]
    assert torch.get_num_threads() == 2
    assert blas_threads() == before


def test_torch_is_told_even_where_its_threads_are_of_no_known_library(two_threads, monkeypatch):
    monkeypatch.setattr(threads, "threadpool_limits", lambda limits: nullcontext())
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_what_a_timing_ran_on_is_told_with_the_threads_of_now(two_threads):
    assert libraries().startswith("2 threads, ")
    with one_thread():
        assert libraries().startswith("1 thread, ")
    assert libraries().endswith(f", torch {torch.__version__}")
    names = {pool["internal_api"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    assert all(name in libraries() for name in names)


def test_a_call_is_timed_and_answers():
    seconds, answer = timed(lambda: time.sleep(0.02) or 7)
    assert answer == 7
    assert 0.02 <= seconds < 5
