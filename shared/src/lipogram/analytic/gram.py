"""Four ways to hold one class's uncentred second moment ``A = Σ x xᵀ``, all exact.

=========  =======================================  ================================
storage    bytes                                    where
=========  =======================================  ================================
dense      8 d²                                     any device
packed     4 d(d+1)                                 memory of the host
memmap     4 d(d+1)                                 a file
factor     8 d · min(rows, 2d)                      any device, ``A = RᵀR``
=========  =======================================  ================================
"""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lipogram.analytic.blas import (
    Accumulate,
    add_gram,
    add_gram_packed,
    matmul,
    pack,
    packed_diagonal,
    symmetric,
    unpack,
)


class Gram(ABC):
    """Uncentred second moment of the rows of one class (or of a pool of classes).

    Attributes:
        n_features: width d of the rows.
        storage: ``"dense"``, ``"packed"``, ``"memmap"`` or ``"factor"``.
        folder: where the file of a memory-mapped Gram is made; None elsewhere.
    """

    storage: ClassVar[str]
    folder: Path | None = None

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features

    @abstractmethod
    def add_rows(self, rows: Float[Tensor, "n d"], accumulate: Accumulate = "float64") -> None:
        """``A += rowsᵀ rows``; rows (n, d) float64, multiplied by the root of their weights."""

    @abstractmethod
    def add(self, other: Gram, scale: float = 1.0) -> None:
        """``A += scale · A_other``, scale ≥ 0, whatever the other's storage."""

    @abstractmethod
    def subtract(self, other: Gram) -> None:
        """``A -= A_other``; a factor first looks for the very rows, to leave no digit of them."""

    @abstractmethod
    def add_into(self, lower: Float[Tensor, "d d"], scale: float = 1.0) -> None:
        """``lower += scale · A`` on the lower triangle of a dense tensor on the same device."""

    @abstractmethod
    def diagonal(self) -> Float[Tensor, " d"]:
        """Diagonal of A."""

    @abstractmethod
    def tensor(self) -> Tensor:
        """The tensor that holds everything, for saving; see :func:`from_tensor`."""

    @abstractmethod
    def copy(self) -> Gram:
        """An independent copy."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        held = self.tensor()
        return held.numel() * held.element_size()

    @property
    def device(self) -> torch.device:
        """Device of the numbers."""
        return self.tensor().device

    def lower(self) -> Float[Tensor, "d d"]:
        """A as a new dense tensor whose lower triangle is valid."""
        result = torch.zeros(
            self.n_features, self.n_features, dtype=torch.float64, device=self.device
        )
        self.add_into(result)
        return result

    def full(self) -> Float[Tensor, "d d"]:
        """A as a new symmetric tensor."""
        return symmetric(self.lower())

    def transport(self, *operators: Tensor) -> Gram:
        """``Tᵀ A T`` as a new Gram, in this storage; T is the product of the operators in order.

        The product itself is never formed, so a T of low rank costs what its factors cost.
        """
        moved = self.full()
        for operator in operators:
            moved = matmul(operator.T.contiguous(), matmul(moved, operator))
        return from_lower((moved + moved.T) / 2, self.storage, self.folder)


class DenseGram(Gram):
    """A as a square tensor whose lower triangle is valid."""

    storage = "dense"

    def __init__(self, n_features: int, *, device: torch.device | str = "cpu") -> None:
        super().__init__(n_features)
        self._lower = torch.zeros(n_features, n_features, dtype=torch.float64, device=device)

    def add_rows(self, rows: Float[Tensor, "n d"], accumulate: Accumulate = "float64") -> None:
        """One product, added in place."""
        add_gram(self._lower, rows, 1.0, accumulate)

    def add(self, other: Gram, scale: float = 1.0) -> None:
        """In place, from any storage."""
        other.add_into(self._lower, scale)

    def subtract(self, other: Gram) -> None:
        """In place, from any storage."""
        other.add_into(self._lower, -1.0)

    def add_into(self, lower: Float[Tensor, "d d"], scale: float = 1.0) -> None:
        """One sum of two squares."""
        lower.add_(self._lower, alpha=scale)

    def diagonal(self) -> Float[Tensor, " d"]:
        """A view."""
        return self._lower.diagonal()

    def tensor(self) -> Tensor:
        """(d, d), lower triangle valid."""
        return self._lower

    def copy(self) -> DenseGram:
        """A twin with its own square."""
        twin = DenseGram.__new__(DenseGram)
        Gram.__init__(twin, self.n_features)
        twin._lower = self._lower.clone()
        return twin


class PackedGram(Gram):
    """A as the d(d+1)/2 numbers of its triangle (rectangular full packed), in host memory."""

    storage = "packed"

    def __init__(self, n_features: int, packed: Tensor | None = None) -> None:
        super().__init__(n_features)
        size = n_features * (n_features + 1) // 2
        self._packed = torch.zeros(size, dtype=torch.float64) if packed is None else packed

    def add_rows(self, rows: Float[Tensor, "n d"], accumulate: Accumulate = "float64") -> None:
        """One product, added in place."""
        add_gram_packed(self._packed, rows, 1.0, accumulate)

    def add(self, other: Gram, scale: float = 1.0) -> None:
        """In place; only a dense A is repacked for it."""
        if isinstance(other, PackedGram):
            self._packed.add_(other._packed, alpha=scale)
        elif isinstance(other, FactorGram):
            for block in other.blocks:
                add_gram_packed(self._packed, block, scale)
        else:
            self._packed.add_(pack(other.lower()), alpha=scale)

    def subtract(self, other: Gram) -> None:
        """In place, from any storage."""
        self.add(other, -1.0)

    def add_into(self, lower: Float[Tensor, "d d"], scale: float = 1.0) -> None:
        """Unpacks into one temporary square."""
        lower.add_(unpack(self._packed, self.n_features), alpha=scale)

    def diagonal(self) -> Float[Tensor, " d"]:
        """Picked out of the packed numbers."""
        return packed_diagonal(self._packed, self.n_features)

    def tensor(self) -> Tensor:
        """(d(d+1)/2,), rectangular full packed."""
        return self._packed

    def copy(self) -> PackedGram:
        """A twin with its own numbers."""
        return PackedGram(self.n_features, self._packed.clone())


class MemmapGram(PackedGram):
    """A packed Gram whose numbers live in a file without a name, which ends with the process.

    Args:
        n_features: width d of the rows.
        folder: existing folder for the scratch file; the system's temporary folder by default.

    Raises:
        OSError: the folder's disk is full.
    """

    storage = "memmap"

    def __init__(self, n_features: int, folder: Path | None = None) -> None:
        size = n_features * (n_features + 1) // 2
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                # A hole in the file that meets a full disk later would end the process.
                os.posix_fallocate(file.fileno(), 0, size * 8)
            numbers = np.memmap(file, dtype=np.float64, mode="w+", shape=(size,))
        super().__init__(n_features, torch.from_numpy(numbers))
        self.folder = folder

    def copy(self) -> MemmapGram:
        """A twin with its own file."""
        twin = MemmapGram(self.n_features, self.folder)
        twin._packed.copy_(self._packed)
        return twin

    def __reduce__(self) -> tuple[object, ...]:
        # A mapping does not travel between processes: the numbers do, into host memory.
        return (PackedGram, (self.n_features, self._packed.clone()))


class FactorGram(Gram):
    """A as ``RᵀR``: the rows themselves, reduced by QR to d of them when they pass 2d."""

    storage = "factor"

    def __init__(self, n_features: int, *, device: torch.device | str = "cpu") -> None:
        super().__init__(n_features)
        self.blocks: list[Tensor] = []
        self._device = torch.device(device)

    @property
    def rows(self) -> int:
        """Rows held now."""
        return sum(block.shape[0] for block in self.blocks)

    def add_rows(self, rows: Float[Tensor, "n d"], accumulate: Accumulate = "float64") -> None:
        """Keep the rows; the precision of their product is decided when it is formed."""
        self.blocks.append(rows.clone())
        if self.rows > 2 * self.n_features:
            self.compress()

    def compress(self) -> None:
        """Reduce R to at most d rows; A changes by rounding only."""
        stacked = self.tensor()
        if stacked.shape[0] > self.n_features:
            stacked = torch.linalg.qr(stacked, mode="r").R
        self.blocks = [stacked]

    def add(self, other: Gram, scale: float = 1.0) -> None:
        """Append the other's rows, or a root of its matrix where it has none."""
        block = other.tensor() if isinstance(other, FactorGram) else _root(other.lower())
        self.add_rows(block * scale**0.5)

    def subtract(self, other: Gram) -> None:
        """Take the other's rows out; where they are not found, a root of the difference."""
        kept = _without(self.tensor(), other.tensor()) if isinstance(other, FactorGram) else None
        if kept is None:
            lower = self.lower()
            other.add_into(lower, -1.0)
            kept = _root(lower)
        self.blocks = [kept]

    def add_into(self, lower: Float[Tensor, "d d"], scale: float = 1.0) -> None:
        """One product a block of rows."""
        for block in self.blocks:
            add_gram(lower, block, scale)

    def diagonal(self) -> Float[Tensor, " d"]:
        """Squared norms of the columns of R."""
        return self.tensor().square().sum(0)

    def transport(self, *operators: Tensor) -> FactorGram:
        """``R T``, without forming A."""
        rows = self.tensor()
        for operator in operators:
            rows = matmul(rows, operator)
        moved = FactorGram(rows.shape[1], device=self._device)
        moved.add_rows(rows)
        return moved

    def tensor(self) -> Tensor:
        """R (rows, d)."""
        if len(self.blocks) != 1:
            empty = torch.zeros(0, self.n_features, dtype=torch.float64, device=self._device)
            self.blocks = [torch.cat([empty, *self.blocks])]
        return self.blocks[0]

    def copy(self) -> FactorGram:
        """A twin with its own rows."""
        twin = FactorGram(self.n_features, device=self._device)
        twin.blocks = [self.tensor().clone()]
        return twin


def from_lower(lower: Float[Tensor, "d d"], storage: str, folder: Path | None = None) -> Gram:
    """A Gram of the given storage holding the matrix of a lower triangle."""
    gram = empty_gram(lower.shape[0], storage, device=lower.device, folder=folder)
    if isinstance(gram, FactorGram):
        gram.blocks = [_root(lower)]
    elif isinstance(gram, PackedGram):
        gram.tensor().copy_(pack(lower))
    else:
        gram.tensor().copy_(lower)
    return gram


def from_tensor(tensor: Tensor, n_features: int, storage: str, folder: Path | None = None) -> Gram:
    """The Gram that ``tensor()`` of the same storage described."""
    gram = empty_gram(n_features, storage, device=tensor.device, folder=folder)
    if isinstance(gram, FactorGram):
        gram.blocks = [tensor.clone()]
    else:
        gram.tensor().copy_(tensor)
    return gram


def empty_gram(
    n_features: int, storage: str, *, device: torch.device | str = "cpu", folder: Path | None = None
) -> Gram:
    """A zero Gram of the given storage."""
    match storage:
        case "dense":
            return DenseGram(n_features, device=device)
        case "factor":
            return FactorGram(n_features, device=device)
        case "packed":
            return PackedGram(n_features)
        case "memmap":
            return MemmapGram(n_features, folder)
    raise AssertionError(storage)  # checked where users name it


def _root(lower: Float[Tensor, "d d"]) -> Tensor:
    """R of at most d rows with ``RᵀR = A`` for a positive semi-definite A, singular or not."""
    values, vectors = torch.linalg.eigh(lower)  # reads the lower triangle
    keep = values > values[-1].clamp(min=0) * lower.shape[0] * torch.finfo(torch.float64).eps
    root: Tensor = values[keep].sqrt()[:, None] * vectors[:, keep].T
    return root


def _without(stacked: Tensor, rows: Tensor) -> Tensor | None:
    """The stacked rows less the given ones, or None if one is not there to the last bit."""
    where: dict[bytes, list[int]] = {}
    for i, row in enumerate(stacked.cpu().numpy()):
        where.setdefault(row.tobytes(), []).append(i)
    keep = torch.ones(stacked.shape[0], dtype=torch.bool)
    for row in rows.cpu().numpy():
        found = where.get(row.tobytes())
        if not found:
            return None
        keep[found.pop()] = False
    return stacked[keep.to(stacked.device)]
