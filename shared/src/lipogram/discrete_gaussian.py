"""Gaussian noise on whole numbers, drawn exactly: no floating-point number decides anything.

The discrete Gaussian of parameter σ has ``P(x) ∝ exp(−x²/2σ²)`` on the integers (Canonne, Kamath &
Steinke, "The Discrete Gaussian for Differential Privacy", NeurIPS 2020, definition 1). With a whole
σ an integer is ``±(kσ + x)`` with x below σ, and its weight falls apart into
``exp(−k/2) · exp(−k(k−1)/2) · exp(−u(2k+u)/2)`` with ``u = x/σ``: a geometric draw and two
rejections, as in Karney, "Sampling Exactly from the Normal Distribution", ACM Transactions on
Mathematical Software 42(1), 2016, section 4. Each needs coins of probability ``exp(−γ)`` only, for
rational γ ≤ 1, which fall as in Canonne et al., algorithm 1. All coins come from a cipher's stream.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from lipogram.analytic.settings import whole

Words = NDArray[np.uint64]
Places = NDArray[np.intp]
Coins = NDArray[np.bool_]
LARGEST_WORD = np.uint64(2**64 - 1)
TRIALS = 2.2  # a little over one in two is rejected
LARGEST_SIGMA = 2**56


class Stream:
    """Uniform whole numbers: the ChaCha20 stream of a key that is used once.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    def words(self, size: int) -> Words:
        """(size,) integers below 2⁶⁴."""
        return np.frombuffer(self._cipher.update(bytes(8 * size)), dtype="<u8").astype(np.uint64)

    def below(self, limits: Words) -> Words:
        """(n,) integers below each limit (n,), without the bias of a remainder."""
        drawn = self.words(limits.size)
        surplus = (LARGEST_WORD % limits + np.uint64(1)) % limits
        while (bad := np.flatnonzero(drawn > LARGEST_WORD - surplus)).size:
            drawn[bad] = self.words(bad.size)
        return drawn % limits


def noise_key(seed: int | None = None) -> bytes:
    """32 bytes from the system's secure source, or, for tests, from a seed."""
    if seed is None:
        return secrets.token_bytes(32)
    return hashlib.sha256(f"seed {seed}".encode()).digest()


def discrete_gaussian(key: bytes, size: int, sigma: int) -> NDArray[np.int64]:
    """(size,) independent integers with ``P(x) ∝ exp(−x²/2σ²)``.

    Args:
        key: 32 bytes that are used once, see :func:`noise_key`.
        size: how many.
        sigma: σ, whole, from 1 to 2⁵⁶.

    Raises:
        InvalidSetting: a σ that is not.
    """
    whole("sigma", sigma, most=LARGEST_SIGMA)
    stream, parts, missing = Stream(key), [np.zeros(0, dtype=np.int64)], size
    while missing > 0:
        parts.append(_accepted(stream, int(TRIALS * missing) + 64, np.uint64(sigma))[:missing])
        missing -= parts[-1].size
    return np.concatenate(parts)


def _accepted(stream: Stream, trials: int, sigma: np.uint64) -> NDArray[np.int64]:
    """What is left of so many trials, in their order."""
    k = _powers(stream, trials)
    k = k[_all_of(k * (k - np.minimum(k, np.uint64(1))), lambda at: _exp_half(stream, at.size))]
    x = stream.below(np.full(k.size, sigma))
    kept = _all_of(k + np.uint64(1), lambda at: _exp_part(stream, x[at], k[at], sigma))
    magnitude = (k[kept] * sigma + x[kept]).astype(np.int64)
    negative = stream.words(magnitude.size) >> np.uint64(63) == 1
    once = (magnitude > 0) | ~negative  # zero has no sign
    return np.where(negative, -magnitude, magnitude)[once]


def _powers(stream: Stream, size: int) -> Words:
    """(size,) k ≥ 0 with ``P(k) ∝ exp(−k/2)``."""
    k = np.zeros(size, dtype=np.uint64)
    going = np.arange(size)
    while going.size:
        going = going[_exp_half(stream, going.size)]
        k[going] += np.uint64(1)
    return k


def _all_of(tosses: Words, coin: Callable[[Places], Coins]) -> Coins:
    """Whether all of so many tosses (n,) fell on the right side; ``coin`` tosses once at places."""
    won = np.ones(tosses.size, dtype=bool)
    going = np.flatnonzero(tosses)
    done = 0
    while going.size:
        fell = coin(going)
        won[going[~fell]] = False
        done += 1
        going = going[fell & (tosses[going] > done)]
    return won


def _exp_half(stream: Stream, size: int) -> Coins:
    """(size,) coins of probability ``exp(−1/2)``."""
    return _series(size, lambda at, j: stream.below(np.full(at.size, 2 * j, dtype=np.uint64)) == 0)


def _exp_part(stream: Stream, x: Words, k: Words, sigma: np.uint64) -> Coins:
    """Coins (n,) of probability ``exp(−u(2k+u)/(2k+2))`` with ``u = x/σ``."""
    two = np.uint64(2)

    def below_u(at: Places) -> Coins:
        return stream.below(np.full(at.size, sigma)) < x[at]

    def coin(at: Places, j: int) -> Coins:
        face = stream.below(two * k[at] + two)
        ratio = (face < two * k[at]) | ((face == two * k[at]) & below_u(at))  # (2k+u)/(2k+2)
        return ratio & below_u(at) & (stream.below(np.full(at.size, j, dtype=np.uint64)) == 0)

    return _series(x.size, coin)


def _series(size: int, coin: Callable[[Places, int], Coins]) -> Coins:
    """Coins (size,) of probability ``exp(−γ)``; ``coin(places, j)`` has probability ``γ/j``.

    The first j that fails is odd with probability ``1 − γ + γ²/2! − …``.
    """
    odd = np.zeros(size, dtype=bool)
    going, j = np.arange(size), 1
    while going.size:
        fell = coin(going, j)
        odd[going[~fell]] = j % 2 == 1
        going, j = going[fell], j + 1
    return odd
