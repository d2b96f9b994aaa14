"""Noise from the operating system's secure source.

A cipher's stream under a fresh key from that source gives the random words (`lipogram`'s
:class:`~lipogram.discrete_gaussian.Stream`); no seed of NumPy or PyTorch has a part in it. What is
made of them in floating point is released on a grid only, see :mod:`privacyrestore.noise_grid`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lipogram.discrete_gaussian import Stream, noise_key

Numbers = NDArray[np.float64]


def secure_stream(seed: int | None = None) -> Stream:
    """Random words under a fresh key of the system's secure source; under a seed's for a study."""
    return Stream(noise_key(seed))


def uniforms(stream: Stream, size: int) -> Numbers:
    """(size,) odd multiples of 2⁻⁵³ between 0 and 1, all 2⁵² equally likely.

    Neither end is among them, and none is rounded: an even multiple more, and the last would be 1.
    """
    return ((stream.words(size) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def gamma_ball(stream: Stream, size: int, epsilon: float) -> Numbers:
    """(size,) noise of density ∝ exp(−ε‖x‖).

    Its direction is a normalised Gaussian; its length is Gamma(size, 1/ε), the sum of as many
    exponential draws.
    """
    from scipy.special import ndtri

    normal = ndtri(uniforms(stream, size))
    length = -np.log(uniforms(stream, size)).sum() / epsilon
    return normal * (length / np.linalg.norm(normal))
