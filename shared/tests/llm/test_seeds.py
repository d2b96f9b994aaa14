import os
import random

import numpy as np
import pytest
import torch

from lipogram.llm.seeds import rng, seed_all


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002


def restore(states: tuple) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])


def test_all_global_generators_are_seeded():
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        seed_all(5, deterministic=False)
        first = draws()
        seed_all(5, deterministic=False)
        assert draws() == first
        seed_all(2**40 + 6, deterministic=False)  # wider than NumPy takes
        assert not set(draws()) & set(first)
    finally:
        restore(states)
    assert not torch.are_deterministic_algorithms_enabled()


def test_deterministic_kernels_are_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        seed_all(0)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
        restore(states)


def test_generators_of_purposes_are_their_own():
    before = torch.get_rng_state()
    one = torch.randn(8, generator=rng("relearn", 1))
    assert torch.equal(one, torch.randn(8, generator=rng("relearn", 1)))
    for purpose, seed in (("relearn", 2), ("split", 1), ("relearn\0", 1), ("relear", 1)):
        assert not torch.equal(one, torch.randn(8, generator=rng(purpose, seed)))
    assert torch.equal(before, torch.get_rng_state())
    # The same on every machine and in every process, unlike Python's hash.
    assert rng("relearn", 1).initial_seed() == 6569187464734915603
