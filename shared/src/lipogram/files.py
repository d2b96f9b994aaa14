"""Files that are whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lipogram.errors import FolderInUse


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path`: killed at any instant, the old file or the new one is there, whole.

    Raises:
        OSError: the folder cannot be written; the old file is untouched.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync(path.parent)


@contextmanager
def locked(path: Path, *, seconds: float = 60.0) -> Iterator[None]:
    """Keep other processes out of the block while one reads, changes and writes `path`.

    The lock is a file beside it, which stays; the system lets go of it with the process.

    Raises:
        FolderInUse: another process held it all the time.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=seconds)
    try:
        lock.acquire()
    except Timeout:
        raise FolderInUse(f"another process has been using {path} for {seconds:g} s") from None
    try:
        yield
    finally:
        lock.release()


def move_folder(part: Path, home: Path) -> None:
    """Let the folder `part` become `home`, on the same disk: whole, or not there at all.

    Raises:
        OSError: `home` is a file or a folder that is not empty, or cannot be written.
    """
    folders = [part]
    for path in part.rglob("*"):
        if path.is_dir():
            folders.append(path)
        else:
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
    for folder in folders:
        _sync(folder)
    os.replace(part, home)
    _sync(home.parent)


def _sync(folder: Path) -> None:
    """Make a rename last: on POSIX the folder's own entry has to reach the disk too."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
