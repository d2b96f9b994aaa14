"""Randomness that says what it is for."""

import hashlib
import os
import random

import numpy as np
import torch


def rng(purpose: str, seed: int) -> torch.Generator:
    """A generator on the CPU of its own for one purpose: another purpose does not shift it.

    Args:
        purpose: what it draws.
        seed: of the run.
    """
    digest = hashlib.sha256(f"{purpose}\0{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def seed_all(seed: int, *, deterministic: bool = True) -> None:
    """Seed Python, NumPy and torch, whose global generators the libraries underneath draw from.

    Args:
        seed: of all three.
        deterministic: also ask torch for deterministic kernels; one without such a kernel warns.
            Results are then equal for equal numbers of threads.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the libraries' own generator
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
