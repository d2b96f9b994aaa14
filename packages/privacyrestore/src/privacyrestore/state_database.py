"""The SQLite file of releases and their vectors: opened with distrust, sealed row by row."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lipogram.errors import CorruptState, FolderInUse, InvalidSetting
from privacyrestore.client_key import ClientKey, check_private, private_folder
from privacyrestore.errors import UnwritableState

APPLICATION = 0x50524C44
"""Stands in the file's header, so that a database of another program is known before it is opened.
"""
VERSION = 1
WAIT_SECONDS = 60.0
SCHEMA = (
    "CREATE TABLE about (canary BLOB NOT NULL)",
    "CREATE TABLE releases "
    "(number INTEGER PRIMARY KEY, subject BLOB NOT NULL, sealed BLOB NOT NULL)",
    "CREATE INDEX releases_by_subject ON releases (subject)",
    "CREATE TABLE noise (key BLOB PRIMARY KEY, sealed BLOB NOT NULL) WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)
CANARY = b"privacyrestore"


class StateDatabase:
    """One file of tables, which only this key reads and any number of processes may use.

    Args:
        path: made, with mode 0600, where there is none; its folder is one's own, mode 0700.
        key: None for the key in `key` beside the file, which is made along with a new file.

    Raises:
        CorruptState: no database of this package, a damaged one, one written with another key, or
            one whose key is missing. It is left as it is.
        InvalidSetting: a file or folder that other users can read or change.
    """

    def __init__(self, path: str | Path, key: ClientKey | None = None):
        self.path = Path(path).expanduser()
        if self.path.is_dir():
            raise InvalidSetting(f"{self.path} is a folder: name a file")
        private_folder(self.path.parent)
        fresh = not self.path.exists()
        self.key = key or ClientKey.open(self.path.with_name("key"), create=fresh)
        if fresh:
            flags = os.O_RDWR | os.O_CREAT
            os.close(os.open(self.path, flags, 0o600))
        check_private(self.path)
        self._check_header()
        with self.transaction() as connection:
            if connection.execute("PRAGMA application_id").fetchone() == (0,):
                for statement in SCHEMA:
                    connection.execute(statement)
                canary = self.key.seal(CANARY, b"canary")
                connection.execute("INSERT INTO about VALUES (?)", (canary,))
            self._check(connection)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection that alone may write; all or nothing of the block is on disk after it.

        Raises:
            FolderInUse: other processes kept it for a minute.
            CorruptState: a damaged file.
            UnwritableState: a disk that is full or may not be written.
        """
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:  # some failures have rolled back by themselves
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to look things up; errors as in :meth:`transaction`."""
        with self._connection() as connection:
            yield connection

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        # One for each use: none is shared by threads or carried over a fork.
        uri = f"{self.path.resolve().as_uri()}?mode=rw"  # never makes a file that has gone
        try:
            connection = sqlite3.connect(uri, uri=True, timeout=WAIT_SECONDS, isolation_level=None)
        except sqlite3.Error as error:
            raise self._typed(error) from None
        try:
            # FULL, and the folder too: what is committed stays so when the power fails.
            connection.execute("PRAGMA synchronous = EXTRA")
            yield connection
        except sqlite3.Error as error:
            raise self._typed(error) from None
        finally:
            connection.close()

    def _check_header(self) -> None:
        with open(self.path, "rb") as file:
            head = file.read(100)
        ours = head[:16] == b"SQLite format 3\0" and head[68:72] == APPLICATION.to_bytes(4, "big")
        if head and not ours:
            raise CorruptState(
                f"{self.path} was not written by this package, or is damaged: name another file, "
                "or put this one back from a copy"
            )

    def _check(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            raise CorruptState(
                f"{self.path} has format {version}; this version reads format {VERSION}"
            )
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise self._damaged()
        canaries = connection.execute("SELECT canary FROM about").fetchall()
        if len(canaries) != 1 or self.key.unseal(canaries[0][0], b"canary") != CANARY:
            raise self._damaged()

    def _damaged(self) -> CorruptState:
        return CorruptState(f"{self.path} is damaged: put it back from a copy, its key with it")

    def _typed(self, error: sqlite3.Error) -> Exception:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return FolderInUse(f"other processes have been using {self.path} all the time")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
            return self._damaged()
        return UnwritableState(
            f"{self.path} could not be read or written ({type(error).__name__} {code}): is the "
            "disk full, or the file not yours?"
        )
