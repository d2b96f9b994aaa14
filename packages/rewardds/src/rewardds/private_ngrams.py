"""Keyed hashes of the private set's word runs, by which the client knows its texts again.

The file and the key stay with the client: who has both can test guesses.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lipogram.errors import CorruptState, InvalidSetting, MissingAsset
from lipogram.files import write_atomically
from rewardds.data_key import data_key
from rewardds.records import PrivateRecords
from rewardds.words import words

LONG = 8
"""Words in a row that two texts do not share by chance."""
SHORT = 4
"""Fewest words that a text must have for a part of a longer one to count."""

_FORMAT = "rewardds-ngrams/1"


class PrivateNgrams:
    """Which texts share words with a private set.

    A text does where it holds 8 words in a row of a private text, or a whole private text of 4 to 7
    words, or is itself a part, of 4 to 7 words, of a private text, or is a private text of fewer
    than 4 words as a whole (which as a part of a text says nothing: "yes"). Words are compared as
    :func:`rewardds.words.words` folds them. Hashes are HMAC-like (keyed BLAKE2b, 8 bytes): of 10⁷
    stored ones a foreign run meets one with a probability of 5·10⁻¹³.

    Made by :meth:`of` or :meth:`load`.
    """

    def __init__(self, key: bytes, runs: NDArray[np.uint64], wholes: NDArray[np.uint64]):
        self._key = key
        self._runs, self._wholes = runs, wholes

    @classmethod
    def of(
        cls,
        records: PrivateRecords,
        key: bytes | None = None,
        *,
        instructions: bool = True,
        responses: bool = True,
    ) -> PrivateNgrams:
        """Those of the instructions and responses of a private set.

        Args:
            records: the set.
            key: secret of the client, 16 to 64 bytes; None for the key in its state folder.
            instructions: False where these are public texts, of which a record tells one by number.
            responses: likewise.

        Raises:
            InvalidSetting: a key of another length, or records of another type.
        """
        if not isinstance(records, PrivateRecords):
            raise InvalidSetting(f"a {type(records).__name__} is no private set")
        key = _checked(data_key() if key is None else key)
        runs: set[int] = set()
        wholes: set[int] = set()
        texts = [record.instruction for record in records] if instructions else []
        texts += [record.response for record in records] if responses else []
        for text in texts:
            folded = words(text)
            runs.update(_hash(key, run) for k in range(SHORT, LONG + 1) for run in _runs(folded, k))
            if 0 < len(folded) < LONG:
                wholes.add(_hash(key, folded))
        return cls(key, _sorted(runs), _sorted(wholes))

    def shared(self, text: str) -> int:
        """How many words in a row a text shares with the private set, 8 at most; 0 for none."""
        folded = words(text)
        whole = _hash(self._key, folded)
        if len(folded) < SHORT:
            return len(folded) if folded and _holds(self._wholes, [whole]) else 0
        if len(folded) < LONG and _holds(self._runs, [whole]):
            return len(folded)
        if _holds(self._runs, (_hash(self._key, run) for run in _runs(folded, LONG))):
            return LONG
        for k in range(min(LONG - 1, len(folded)), SHORT - 1, -1):
            if _holds(self._wholes, (_hash(self._key, run) for run in _runs(folded, k))):
                return k
        return 0

    def save(self, path: str | Path) -> None:
        """Write the hashes, without the key, to a file that only this user can read.

        Raises:
            OSError: the folder cannot be written.
        """
        from safetensors.numpy import save

        path = Path(path)
        tensors = {"runs": self._runs.view(np.int64), "wholes": self._wholes.view(np.int64)}
        write_atomically(path, save(tensors, {"format": _FORMAT, "key": _mark(self._key)}))
        os.chmod(path, 0o600)

    @classmethod
    def load(cls, path: str | Path, key: bytes | None = None) -> PrivateNgrams:
        """Read what :meth:`save` wrote.

        Raises:
            MissingAsset: no such file.
            CorruptState: another file, or one that was written with another key.
            InvalidSetting: a key of another length.
        """
        from safetensors import SafetensorError, safe_open

        key = _checked(data_key() if key is None else key)
        path = Path(path)
        if not path.is_file():
            raise MissingAsset(f"there is no file {path}")
        try:
            with safe_open(path, "numpy") as file:
                metadata = file.metadata() or {}
                held = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, ValueError) as error:
            raise CorruptState(f"{path} holds no n-grams of this version: {error}") from error
        arrays = [held.get("runs"), held.get("wholes")]
        if metadata.get("format") != _FORMAT or not all(_is_hashes(array) for array in arrays):
            raise CorruptState(f"{path} holds no n-grams of this version")
        if not hmac.compare_digest(metadata.get("key", ""), _mark(key)):
            raise CorruptState(
                f"{path} was written with another key: give that one, or make the n-grams again"
            )
        runs, wholes = (np.sort(array.view(np.uint64)) for array in arrays if array is not None)
        return cls(key, runs, wholes)

    def __repr__(self) -> str:
        return f"PrivateNgrams({len(self._runs)} runs)"


def _checked(key: bytes) -> bytes:
    if not isinstance(key, bytes) or not 16 <= len(key) <= 64:
        raise InvalidSetting("the key needs 16 to 64 bytes")
    return key


def _runs(folded: list[str], k: int) -> Iterator[list[str]]:
    return (folded[i : i + k] for i in range(len(folded) - k + 1))


def _hash(key: bytes, run: list[str]) -> int:
    digest = hashlib.blake2b(" ".join(run).encode(), digest_size=8, key=key, person=b"ngrams")
    return int.from_bytes(digest.digest(), "little")


def _mark(key: bytes) -> str:
    return hashlib.blake2b(b"", digest_size=16, key=key, person=b"ngrams-key").hexdigest()


def _sorted(hashes: set[int]) -> NDArray[np.uint64]:
    return np.sort(np.fromiter(hashes, dtype=np.uint64, count=len(hashes)))


def _holds(stored: NDArray[np.uint64], hashes: Iterable[int]) -> bool:
    asked = np.fromiter(hashes, dtype=np.uint64)
    if not len(asked) or not len(stored):
        return False
    places = np.searchsorted(stored, asked).clip(max=len(stored) - 1)
    return bool((stored[places] == asked).any())


def _is_hashes(array: object) -> bool:
    return isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype == np.int64
