"""Records: a question and its answer. Private ones are of a type that no server takes."""

from __future__ import annotations

import hashlib
import hmac
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

from rewardds.data_key import data_key
from rewardds.errors import InvalidRecords, RepeatedRecords
from rewardds.record_files import raw_rows
from rewardds.record_layouts import check_columns, record_fields


@dataclass(frozen=True)
class Record:
    """One example.

    Attributes:
        id: names it in messages and logs, where its text never is.
        instruction: what is asked.
        response: what is to be answered; may be empty.
        group: whose it is, where one person has several; "" where it stands for itself.
    """

    id: str
    instruction: str
    response: str
    group: str = ""


@dataclass(frozen=True, repr=False)
class PrivateRecord(Record):
    """A record of the private set. Its representation is its id alone."""

    def __repr__(self) -> str:
        return f"PrivateRecord(id={self.id!r})"


class _Records(Sequence[Record]):
    """Records in order, each id once.

    Args:
        records: at least one.

    Raises:
        InvalidRecords: none, an id twice, or a field that is no text.
    """

    kind: type[Record] = Record

    def __init__(self, records: Iterable[Record]):
        self._records = tuple(self.kind(**_fields(record)) for record in records)
        if not self._records:
            raise InvalidRecords("no records: at least one is needed")
        seen: set[str] = set()
        for record in self._records:
            if record.id in seen:
                raise InvalidRecords(f"the id {record.id!r} is there twice: ids name one record")
            seen.add(record.id)

    @property
    def n(self) -> int:
        """How many records."""
        return len(self._records)

    def texts(self) -> list[str]:
        """Every instruction and response that is not empty, in order."""
        both = (text for record in self for text in (record.instruction, record.response))
        return [text for text in both if text]

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        if isinstance(index, slice):
            return type(self)(self._records[index])
        return self._records[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n={self.n})"


class PublicRecords(_Records):
    """Records that anyone may read: seeds, references, synthetic rows."""


class PrivateRecords(_Records):
    """The private set. Nothing on the server's side takes it, nor what was made of its texts.

    Args:
        records: at least one.
        key: secret of the client, that keys :attr:`fingerprint`.

    Raises:
        InvalidRecords: as for any records, or a key of fewer than 16 bytes.
    """

    kind = PrivateRecord

    def __init__(self, records: Iterable[Record], key: bytes):
        super().__init__(records)
        if not isinstance(key, bytes) or len(key) < 16:
            raise InvalidRecords("the key of the fingerprint needs 16 bytes or more")
        self._key = key
        self._warn_of_repeats()

    @property
    def key(self) -> bytes:
        """The secret that keys the fingerprint."""
        return self._key

    @cached_property
    def fingerprint(self) -> str:
        """HMAC-SHA-256 in hex of the texts and groups, in any order; ids do not count.

        Without the key nobody can find out whether a guessed set is this one.
        """
        digests = sorted(_digest(self._key, record) for record in self)
        return hmac.new(self._key, b"records/1" + b"".join(digests), hashlib.sha256).hexdigest()

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> PrivateRecords: ...
    def __getitem__(self, index: int | slice) -> Record | PrivateRecords:
        if isinstance(index, slice):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RepeatedRecords)  # told of the whole
                return PrivateRecords(self._records[index], self._key)
        return self._records[index]

    def _warn_of_repeats(self) -> None:
        own = [record for record in self if not record.group]
        texts = {(record.instruction, record.response) for record in own}
        if repeats := len(own) - len(texts):
            warnings.warn(
                f"{repeats} of {self.n} records repeat another word for word: if one person has "
                "several records, epsilon protects each of them, not the person; give the person "
                "as the column 'group'",
                RepeatedRecords,
                stacklevel=3,
            )


@overload
def read_records(
    source: str | Path | Iterable[Mapping[str, Any]],
    *,
    columns: Mapping[str, str] | None = None,
    private: Literal[True] = True,
    key: bytes | None = None,
) -> PrivateRecords: ...
@overload
def read_records(
    source: str | Path | Iterable[Mapping[str, Any]],
    *,
    columns: Mapping[str, str] | None = None,
    private: Literal[False],
) -> PublicRecords: ...
def read_records(
    source: str | Path | Iterable[Mapping[str, Any]],
    *,
    columns: Mapping[str, str] | None = None,
    private: bool = True,
    key: bytes | None = None,
) -> PrivateRecords | PublicRecords:
    """Read records; what cannot be read stops the whole, and says where it stands.

    Args:
        source: see :func:`rewardds.record_files.raw_rows`.
        columns: which column holds which field ("instruction", "response", and if there are
            "id" and "group"); None for the layouts in :mod:`rewardds.record_layouts`. Rows
            without an id are called by their number, from 0.
        private: whether they are to be protected.
        key: of the fingerprint; None for the key in the user's state folder, made if missing.

    Raises:
        MissingAsset, MissingExtra: see :func:`rewardds.record_files.raw_rows`.
        InvalidRecords: what cannot be read, no rows, or an id twice.
        InvalidSetting: `columns` that name no instruction and response.
    """
    if columns is not None:
        check_columns(columns)
    records = []
    for number, (where, row) in enumerate(raw_rows(source)):
        records.append(Record(**({"id": str(number)} | record_fields(row, where, columns))))
    if private:
        return PrivateRecords(records, data_key() if key is None else key)
    return PublicRecords(records)


def _fields(record: Record) -> Mapping[str, str]:
    if not isinstance(record, Record):
        raise InvalidRecords(f"a {type(record).__name__} is no Record: read_records makes them")
    fields = {name: getattr(record, name) for name in Record.__dataclass_fields__}
    for name, value in fields.items():
        if not isinstance(value, str):
            raise InvalidRecords(
                f"record {record.id!r}: {name} is a {type(value).__name__}, it must be text"
            )
    return fields


def _digest(key: bytes, record: Record) -> bytes:
    parts = [part.encode() for part in (record.instruction, record.response, record.group)]
    framed = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hmac.new(key, framed, hashlib.sha256).digest()
