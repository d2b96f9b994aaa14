"""Class statistics in a file, and what is checked before they are believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lipogram.analytic.class_sums import POOL
from lipogram.analytic.gram import FactorGram
from lipogram.analytic.state import read_state, write_state
from lipogram.analytic.statistics import ClassStatistics
from lipogram.analytic.statistics_state import describe, restore
from lipogram.errors import CorruptState

KIND = "dpcr-bank"
TOLERANCE = 1e-9  # of the trace: rounding of a transport is far below


def save_bank(bank: ClassStatistics, path: str | Path) -> Path:
    """Write statistics to one safetensors file, atomically.

    They say much about the rows: means and covariances of each class.
    """
    tensors, described = describe(bank)
    return write_state(path, tensors, {"kind": KIND, "bank": described})


def load_bank(
    path: str | Path, *, device: torch.device | str = "cpu", folder: str | None = None
) -> ClassStatistics:
    """The statistics that :func:`save_bank` wrote.

    Args:
        path: the file.
        device: where the sums shall live.
        folder: where files of memory-mapped storage go.

    Raises:
        FileNotFoundError: no such file.
        CorruptState: a damaged or hostile file, or second moments that no rows have.
    """
    tensors, described = read_state(path)
    if described.get("kind") != KIND:
        raise CorruptState(f"{path} holds {described.get('kind')!r}, not {KIND!r}")
    bank = restore(tensors, described.get("bank"), device=device, folder=folder)
    check_moments(bank)
    return bank


def check_moments(bank: ClassStatistics) -> None:
    """Raise CorruptState unless ``[Φ c; cᵀ m]`` of every class is positive semi-definite.

    That matrix is ``Σ w (x, 1)(x, 1)ᵀ``, so rows exist exactly where it is.
    """
    bank.flush()
    for slot, gram in bank.store.grams.items():
        if slot == POOL:
            sums, mass, name = bank._pool.row_sum, bank._pool.mass, "the pooled classes"
        else:
            sums, mass = bank._sums[slot], float(bank._mass[slot])
            name = f"class {bank.index.labels[slot]!r}"
        if isinstance(gram, FactorGram) and not mass:
            continue
        lower = gram.lower()
        if mass > 0:
            lower -= torch.outer(sums, sums / mass)
        trace = float(gram.diagonal().sum())
        lower.diagonal().add_(TOLERANCE * trace + 1e-300)
        _, failed = torch.linalg.cholesky_ex(lower)
        if int(failed):
            raise CorruptState(
                f"damaged or hostile state: the second moment of {name} is none of any rows "
                "(not positive semi-definite, or too small for its mean)"
            )


def part(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The tensors whose names start with a prefix, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
