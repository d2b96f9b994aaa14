"""The client's secret that keys the fingerprint of a private set."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from lipogram.errors import CorruptState, InvalidSetting
from lipogram.files import locked

KEY_BYTES = 32
PREFIX = b"rewardds-key/1 "


def state_folder() -> Path:
    """Where the key and the ledger lie unless other places are named: the user's state folder."""
    from platformdirs import user_state_path

    return user_state_path("rewardds", appauthor=False)


def data_key(path: str | Path | None = None) -> bytes:
    """32 bytes, the same ones as long as the file is there; made where it is not, mode 0600.

    Args:
        path: None for `key` in the user's state folder.

    Raises:
        CorruptState: a file that is no key.
        InvalidSetting: a file that other users can read or change.
    """
    path = state_folder() / "key" if path is None else Path(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(path):
        if not path.exists():
            _make(path)
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise InvalidSetting(f"{path} can be read by other users: chmod 600 {path}")
    held = path.read_bytes()
    try:
        key = bytes.fromhex(held.removeprefix(PREFIX).decode("ascii").strip())
    except ValueError:
        key = b""
    if not held.startswith(PREFIX) or len(key) != KEY_BYTES:
        raise CorruptState(
            f"{path} is no key of this package: put it back from a copy; with a new one, what was "
            "spent on a set before is not found again"
        )
    return key


def _make(path: Path) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(PREFIX + secrets.token_bytes(KEY_BYTES).hex().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
