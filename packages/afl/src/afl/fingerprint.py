"""The name of a feature space: clients whose names differ cannot be added up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from lipogram.analytic.backbones import Backbone
from lipogram.errors import InvalidSetting

DIGITS = 3


def feature_fingerprint(
    backbone: Backbone | nn.Module | Callable[..., Any],
    preprocess: str = "",
    probe: ArrayLike | None = None,
) -> str:
    """SHA-256 that all clients of a federation must agree on.

    Args:
        backbone: a :class:`lipogram.analytic.Backbone` (its own fingerprint counts), a module
            (names, shapes and bytes of its parameters and buffers count), or any other callable.
        preprocess: how rows are prepared, in words; part of the name.
        probe: for any other callable, an array that it is called with. Its output counts, rounded
            to three digits of its largest magnitude: machines whose arithmetic differs by more than
            that, or that fall on two sides of a rounding edge, get two names, so prefer a module.

    Raises:
        InvalidSetting: a callable without a probe, or one that gives NaN.
    """
    sha = hashlib.sha256(json.dumps(["afl", preprocess]).encode())
    if isinstance(backbone, Backbone):
        sha.update(backbone.fingerprint.encode())
    elif isinstance(backbone, nn.Module):
        for name, tensor in sorted(backbone.state_dict().items()):
            plain = tensor.detach().cpu().contiguous()
            sha.update(json.dumps([name, str(plain.dtype), list(plain.shape)]).encode())
            sha.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    else:
        if probe is None:
            raise InvalidSetting("a callable is known by what it does: give a probe to call it on")
        given = np.asarray(probe)
        output = np.asarray(backbone(given), dtype=np.float64)
        largest = float(np.abs(output).max(initial=0.0))
        if not np.isfinite(largest):
            raise InvalidSetting("the callable gives NaN or infinity on the probe")
        grid = np.rint(output / (largest or 1.0) * 10**DIGITS).astype("<i4")
        sha.update(json.dumps([list(given.shape), list(output.shape)]).encode() + grid.tobytes())
    return sha.hexdigest()
