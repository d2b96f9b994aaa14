"""Networks as named tensors in safetensors files, and back into modules with everything checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpcr.study_data import Samples, taken
from lipogram.errors import CorruptState, InvalidFeatures, NotFinite

PROBES = 32  # samples that tell one data set from another
_AS = {torch.bool: torch.uint8, torch.float16: torch.float32, torch.bfloat16: torch.float32}


def module_tensors(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and persistent buffers of a module, their names under ``prefix``.

    Half precision is widened and truth becomes 0 and 1, which files hold; both come back exactly.

    Raises:
        NotFinite: a weight is NaN or infinite.
        InvalidFeatures: a tensor of a type that no file holds, such as a complex one.
    """
    tensors = {}
    for name, value in module.state_dict().items():
        held = value.detach().to(_AS.get(value.dtype, value.dtype))
        if held.dtype not in (torch.float64, torch.float32, torch.int64, torch.uint8):
            raise InvalidFeatures(f"{name!r} of the network is {value.dtype}, which is not kept")
        if held.is_floating_point() and not bool(torch.isfinite(held).all()):
            raise NotFinite(f"{name!r} of the network holds NaN or infinity")
        tensors[prefix + name] = held
    return tensors


def load_module(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
    """Put back what :func:`module_tensors` gave; on an error the module is as it was.

    Raises:
        CorruptState: see :func:`tensors_of`.
    """
    module.load_state_dict(tensors_of(module, tensors, prefix))


def tensors_of(
    module: nn.Module, tensors: Mapping[str, Tensor], prefix: str = ""
) -> dict[str, Tensor]:
    """Those under a prefix, by the module's names, once they are seen to fit it.

    Raises:
        CorruptState: other names, shapes or types than the module's: damaged, or of another
            architecture.
    """
    own = module.state_dict()
    named = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    strange = sorted(own.keys() ^ named.keys())
    if strange:
        where = "is missing in the file" if strange[0] in own else "is in the file only"
        raise CorruptState(f"{strange[0]!r} {where}: it is of another network than this one")
    for name, value in own.items():
        given = named[name]
        if given.shape != value.shape or given.dtype != _AS.get(value.dtype, value.dtype):
            raise CorruptState(
                f"{name!r} is {given.dtype} {tuple(given.shape)} in the file, the network's is "
                f"{value.dtype} {tuple(value.shape)}: it is of another network than this one"
            )
    return named


def data_digest(samples: Samples, rows: NDArray[Any], slots: NDArray[Any]) -> str:
    """16 hexadecimal digits that tell one task's data from another's, by labels and some samples.

    Args:
        samples: as they are un-augmented.
        rows: (n,) positions among them.
        slots: (n,) their classes' columns.
    """
    digest = hashlib.sha256(np.ascontiguousarray(rows, dtype=np.int64).tobytes())
    digest.update(np.ascontiguousarray(slots, dtype=np.int64).tobytes())
    some = rows[np.unique(np.linspace(0, len(rows) - 1, min(PROBES, len(rows))).astype(np.int64))]
    looked = taken(samples, some).detach().cpu().contiguous()
    digest.update(f"{looked.dtype} {tuple(looked.shape)}".encode())
    digest.update(looked.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
