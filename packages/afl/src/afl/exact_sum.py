"""Sums of float64 numbers without rounding: order, repetition and removal leave no trace.

A number is held as an integer of 126 bits, 64 before the binary point and 62 after it. Numbers of
magnitude 1 to 2⁶¹ enter with all the digits that 2⁻⁶² has room for, smaller ones are rounded once,
to 2⁻⁵³ or finer, and always to the same integer. Integers add and subtract without rounding, so
what was added and taken out again is gone to the last bit; floating-point sums cannot promise that.
"""

from __future__ import annotations

import hashlib
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lipogram.errors import InvalidFeatures

LARGEST = 2.0**61
BLOCK = 8192  # numbers at a time: the temporaries stay in a processor's cache
_BITS = 62
_UNIT = 2.0**_BITS
_MASK = np.int64(2**_BITS - 1)


class ExactSum:
    """An exact running sum of vectors of float64.

    Args:
        size: numbers to a vector.
    """

    def __init__(self, size: int) -> None:
        self.whole = np.zeros(size, dtype=np.int64)
        self.fraction = np.zeros(size, dtype=np.int64)
        self._bound = 0.0

    def add(self, values: NDArray[np.float64]) -> Self:
        """Add a vector (size,).

        Raises:
            InvalidFeatures: another size, NaN, infinity, or a number that the sum cannot hold; the
                sum stays as it was.
        """
        return self._accumulate(values, negative=False)

    def subtract(self, values: NDArray[np.float64]) -> Self:
        """Take a vector (size,) out; after :meth:`add` of the same, nothing of it is left.

        Raises:
            InvalidFeatures: see :meth:`add`.
        """
        return self._accumulate(values, negative=True)

    def value(self) -> NDArray[np.float64]:
        """The sum (size,), rounded to float64."""
        negative = self.whole < 0
        borrowed = self.fraction != 0
        whole = np.where(negative, -self.whole - borrowed, self.whole)
        fraction = np.where(negative & borrowed, _MASK + 1 - self.fraction, self.fraction)
        magnitude = whole.astype(np.float64) + fraction.astype(np.float64) / _UNIT
        return np.where(negative, -magnitude, magnitude)

    @property
    def is_zero(self) -> bool:
        """Whether nothing is in the sum, or what is cancels exactly."""
        return not (self.whole.any() or self.fraction.any())

    def copy(self) -> ExactSum:
        """An independent copy."""
        return ExactSum.of(self.whole.copy(), self.fraction.copy())

    @classmethod
    def of(cls, whole: NDArray[np.int64], fraction: NDArray[np.int64]) -> ExactSum:
        """The sum whose two halves these are, taken over as they stand."""
        made = cls(0)
        made.whole, made.fraction = whole, fraction
        made._bound = float(np.abs(whole).max(initial=0)) + 1
        return made

    def update_digest(self, digest: hashlib._Hash) -> None:
        """Feed the integers, little-endian, to a hash."""
        digest.update(self.whole.astype("<i8", copy=False).data)
        digest.update(self.fraction.astype("<i8", copy=False).data)

    def _accumulate(self, values: NDArray[np.float64], *, negative: bool) -> Self:
        if values.shape != self.whole.shape:
            raise InvalidFeatures(
                f"a vector of shape {values.shape} for a sum of {self.whole.shape}"
            )
        largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
        if not largest < LARGEST:  # NaN too
            raise InvalidFeatures(
                f"the sums hold {largest:g}: they must be finite and below 2^61; scale the features"
            )
        if self._bound + largest >= 2 * LARGEST:
            self._bound = float(np.abs(self.whole).max(initial=0)) + 1
            if self._bound + largest >= 2 * LARGEST:
                raise InvalidFeatures("the total would pass 2^62: scale the features")
        self._bound += largest
        for start in range(0, values.size, BLOCK):
            part = slice(start, start + BLOCK)
            _add_block(self.whole[part], self.fraction[part], values[part], negative)
        return self


def _add_block(
    whole: NDArray[np.int64],
    fraction: NDArray[np.int64],
    values: NDArray[np.float64],
    negative: bool,
) -> None:
    floor = np.floor(values)
    part = values - floor
    part *= _UNIT
    low, high = part.astype(np.int64), floor.astype(np.int64)
    if negative:
        fraction -= low
        whole -= high
    else:
        fraction += low
        whole += high
    whole += fraction >> _BITS  # the carry, or the borrow
    fraction &= _MASK
