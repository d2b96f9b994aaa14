"""Secrets in shares: t of them give a secret back, t − 1 say nothing about it.

Shamir, "How to Share a Secret", CACM 1979, over the prime field of 2⁵²¹ − 1.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from afl.errors import BelowThreshold
from lipogram.analytic.settings import whole
from lipogram.errors import InvalidSetting

PRIME = 2**521 - 1
SECRET_BYTES, SHARE_BYTES = 32, 66


def split(secret: bytes, threshold: int, places: int) -> list[bytes]:
    """One share (66 bytes) for each place 1 … ``places`` of a secret of 32 bytes.

    Raises:
        InvalidSetting: a threshold that is not 1 to ``places``, or a secret of another length.
    """
    whole("threshold", threshold, most=places)
    if len(secret) != SECRET_BYTES:
        raise InvalidSetting(f"the secret has {len(secret)} bytes, it must have {SECRET_BYTES}")
    polynomial = [int.from_bytes(secret, "big")]
    polynomial += [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    shares = []
    for x in range(1, places + 1):
        y = 0
        for coefficient in reversed(polynomial):
            y = (y * x + coefficient) % PRIME
        shares.append(y.to_bytes(SHARE_BYTES, "big"))
    return shares


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret, from shares by their place (1, 2, …); the first ``threshold`` of them are used.

    Raises:
        BelowThreshold: too few shares, or shares of no common secret.
    """
    if len(shares) < threshold:
        raise BelowThreshold(f"{len(shares)} shares, {threshold} are needed")
    used = {x: int.from_bytes(shares[x], "big") for x in sorted(shares)[:threshold]}
    secret = 0
    for x, y in used.items():
        top = bottom = 1
        for other in used:
            if other != x:
                top, bottom = top * other % PRIME, bottom * (other - x) % PRIME
        secret = (secret + y * top * pow(bottom, -1, PRIME)) % PRIME
    if secret >= 1 << (8 * SECRET_BYTES):
        raise BelowThreshold("the shares do not belong to one secret")
    return secret.to_bytes(SECRET_BYTES, "big")
