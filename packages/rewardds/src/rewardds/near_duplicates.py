"""Near duplicates among synthetic texts: MinHash proposes pairs, their shingles decide.

Broder 1997 (resemblance), Indyk and Motwani 1998 (bands). Private texts have no place here: what is
kept would then depend on them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from lipogram.errors import InvalidSetting
from rewardds.words import words

HASHES = 128
MISSED = 1e-3
"""Largest probability that a pair exactly at the threshold is not proposed."""


class NearDuplicates:
    """The distinct ones of texts that come one after another.

    Two texts are near duplicates where the Jaccard similarity of their sets of shingles (runs of
    characters of the folded words) reaches the threshold. A text is kept unless an earlier kept one
    is that near. Pairs that MinHash does not propose, one in a thousand at the threshold and far
    fewer above it, are not seen. The hash functions are fixed: what is kept depends on the texts
    and their order alone.

    Args:
        threshold: in (0, 1]; 1 takes out texts of the same shingles only.
        shingle: characters of one, at least 1.

    Raises:
        InvalidSetting: a setting outside its range.
    """

    def __init__(self, threshold: float = 0.8, *, shingle: int = 5):
        if not 0 < threshold <= 1 or shingle < 1:
            raise InvalidSetting(
                f"threshold is {threshold}, it must be in (0, 1]; shingle is {shingle}, at least 1"
            )
        self.threshold, self.shingle = threshold, shingle
        self._rows = band_rows(threshold)
        drawn = np.random.default_rng(20_110_421).integers(
            0, 2**64, size=(2, HASHES), dtype=np.uint64
        )
        self._factors, self._shifts = drawn[0] | np.uint64(1), drawn[1]
        self._kept: dict[str, frozenset[int]] = {}
        self._buckets: dict[bytes, list[str]] = defaultdict(list)

    def add(self, key: str, text: str) -> str | None:
        """Keep a text, or tell the key of a kept one that it nearly duplicates.

        Args:
            key: names the text; not one that was kept before.
            text: any; of texts without a word only the first is kept.

        Returns:
            None where the text was kept. Of several kept ones the most similar, then the earliest.

        Raises:
            InvalidSetting: a key that was kept before; nothing changes.
        """
        if key in self._kept:
            raise InvalidSetting(f"the key {key!r} was kept before: keys name one text")
        shingles = self._shingles(text)
        bands = self._bands(shingles)
        near: list[tuple[float, str]] = []
        for other in dict.fromkeys(other for band in bands for other in self._buckets[band]):
            similarity = jaccard(shingles, self._kept[other])
            if similarity >= self.threshold:
                near.append((similarity, other))
        if near:
            return max(near, key=lambda pair: pair[0])[1]
        self._kept[key] = shingles
        for band in bands:
            self._buckets[band].append(key)
        return None

    def _shingles(self, text: str) -> frozenset[int]:
        folded = " ".join(words(text)).encode("utf-32-le")  # four bytes a character
        size = 4 * self.shingle
        starts = range(0, max(1, len(folded) - size + 4), 4)
        pieces = {folded[i : i + size] for i in starts}
        return frozenset(
            int.from_bytes(hashlib.blake2b(piece, digest_size=8).digest(), "little")
            for piece in pieces
        )

    def _bands(self, shingles: frozenset[int]) -> list[bytes]:
        values: NDArray[np.uint64] = np.fromiter(shingles, dtype=np.uint64, count=len(shingles))
        with np.errstate(over="ignore"):  # multiply-shift hashing counts modulo 2⁶⁴
            hashed = values[:, None] * self._factors + self._shifts
        least = (hashed >> np.uint64(32)).astype(np.uint32).min(0)
        rows = self._rows
        return [
            start.to_bytes(2, "little") + least[start : start + rows].tobytes()
            for start in range(0, HASHES - rows + 1, rows)
        ]


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """Size of what two sets have in common over that of both together; neither may be empty."""
    both = len(a & b)
    return both / (len(a) + len(b) - both)


def band_rows(threshold: float) -> int:
    """The most hashes r a band so that a pair at the threshold s is proposed all but surely.

    With b = ⌊128/r⌋ bands it is missed with probability (1 − sʳ)ᵇ, at most :data:`MISSED`.
    """
    rows = 1
    while rows < HASHES and (1 - threshold ** (rows + 1)) ** (HASHES // (rows + 1)) <= MISSED:
        rows += 1
    return rows
