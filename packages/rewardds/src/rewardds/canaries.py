"""Canaries: made-up records, each planted in the private set or not by a fair coin of its own.

What a training gives away of its records shows in whether the planted ones can be told from the
others. Their words are nonsense, and harmless.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lipogram.analytic.settings import whole
from lipogram.errors import CorruptState, InvalidSetting, MissingAsset
from lipogram.files import write_atomically
from rewardds.data_key import data_key
from rewardds.records import PrivateRecords, Record

FORMAT = 1
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
THINGS = ("lid", "back", "label", "handle", "bottom", "left side", "first page", "wrapper")


@dataclass(frozen=True, repr=False)
class Canaries:
    """Canaries, and the secret of which are planted.

    Attributes:
        records: all of them, planted or not; their order says nothing of the coins.
        included: for each whether it is planted.

    Raises:
        InvalidSetting: fewer than two, an id twice, or coins of another number.
    """

    records: tuple[Record, ...]
    included: tuple[bool, ...]

    def __post_init__(self) -> None:
        if len(self.records) < 2 or len(self.records) != len(self.included):
            raise InvalidSetting(
                f"{len(self.records)} canaries and {len(self.included)} coins: two canaries or "
                "more are needed, and a coin for each"
            )
        if len({record.id for record in self.records}) < len(self.records):
            raise InvalidSetting("two canaries have one id: ids name one record")

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"Canaries({len(self)})"

    def planted(self, records: PrivateRecords, *, key: bytes | None = None) -> PrivateRecords:
        """The set to train on: `records`, and behind them those canaries whose coin says so.

        ε does not change by them: it is counted with the public n of the plan. The training reads
        the records and belongs into their ledger like any other.

        Args:
            records: the private set.
            key: of the new set's fingerprint; None for the one in the user's state folder.

        Raises:
            InvalidRecords: a record has the id of a planted canary.
        """
        chosen = [record for record, coin in zip(self.records, self.included, strict=True) if coin]
        return PrivateRecords([*records, *chosen], data_key() if key is None else key)

    def save(self, path: str | Path) -> None:
        """Write them as JSON that the owner alone can read: it holds the secret.

        Raises:
            OSError: it cannot be written.
        """
        content = {
            "format": FORMAT,
            "records": [asdict(record) for record in self.records],
            "included": list(self.included),
        }
        previous = os.umask(0o077)
        try:
            write_atomically(Path(path), json.dumps(content).encode())
        finally:
            os.umask(previous)

    @classmethod
    def read(cls, path: str | Path) -> Canaries:
        """What :meth:`save` wrote.

        Raises:
            CorruptState: a file that cannot be read, or is none of ours.
            MissingAsset: no such file.
        """
        if not Path(path).is_file():
            raise MissingAsset(f"there are no canaries in {path}: `rewardds plant` writes them")
        try:
            content = json.loads(Path(path).read_bytes())
            if content["format"] != FORMAT:
                raise CorruptState(
                    f"{path} has format {content['format']!r}; this version reads {FORMAT}"
                )
            coins = content["included"]
            records = tuple(Record(**fields) for fields in content["records"])
            texts = [text for record in records for text in asdict(record).values()]
            if not all(type(coin) is bool for coin in coins):
                raise TypeError("coins are true or false")
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("fields of a record are texts")
            return cls(records, tuple(coins))
        except CorruptState:
            raise
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorruptState(f"{path} holds no canaries: {error}") from error


def make_canaries(size: int = 200, *, words: int = 8, seed: int | None = None) -> Canaries:
    """Draw canaries and their coins.

    Args:
        size: m; the bound that an audit can reach grows with it, see
            :func:`rewardds.one_run_audit.highest_bound`.
        words: of each response; the more, the easier a planted one is told.
        seed: None for the system's own randomness. With a seed whoever knows it knows the coins.

    Raises:
        InvalidSetting: fewer than two canaries, or no words.
    """
    whole("size", size, least=2)
    whole("words", words)
    start = secrets.randbits(128) if seed is None else whole("seed", seed, least=0)
    texts, coins = (np.random.default_rng([start, purpose]) for purpose in (1, 2))
    names: dict[str, None] = {}
    while len(names) < size:
        names[_word(texts, 4)] = None
    records = []
    for number, name in enumerate(names):
        thing = THINGS[texts.integers(len(THINGS))]
        told = " ".join(_word(texts, 3) for _ in range(words))
        asked = f"What is written on the {thing} of the {name}?"
        records.append(Record(f"canary-{number}", asked, told))
    return Canaries(tuple(records), tuple(bool(coin) for coin in coins.integers(0, 2, size)))


def _word(generator: np.random.Generator, syllables: int) -> str:
    return "".join(
        _letter(generator, CONSONANTS) + _letter(generator, VOWELS) for _ in range(syllables)
    )


def _letter(generator: np.random.Generator, letters: str) -> str:
    return letters[int(generator.integers(len(letters)))]
