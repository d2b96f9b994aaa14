"""Random choices that follow from numbers, also where a library draws from the global generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_of(*numbers: int) -> int:
    """A seed below 2⁶³ that is a function of numbers ≥ 0, and another for any other numbers."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def generator_of(*numbers: int) -> torch.Generator:
    """A generator on the CPU that starts where the numbers say."""
    return torch.Generator().manual_seed(seed_of(*numbers))


@contextmanager
def drawn_from(*numbers: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Inside, torch's global generators stand where numbers put them; afterwards, where they were.

    The CPU's and, if that is an accelerator, the device's own: ``torch.manual_seed`` would reseed
    all devices of the machine.
    """
    generators = [torch.default_generator]
    device = torch.device(device)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    before = [each.get_state() for each in generators]
    for each in generators:
        each.manual_seed(seed_of(*numbers))
    try:
        yield
    finally:
        for each, state in zip(generators, before, strict=True):
            each.set_state(state)
