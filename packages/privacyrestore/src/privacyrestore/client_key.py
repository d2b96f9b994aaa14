"""The client's own secret: it names subjects, finds stored vectors and seals what is on disk."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import stat
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lipogram.errors import CorruptState, InvalidSetting

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

SECRET_BYTES = 32
PREFIX = b"privacyrestore-key/1 "
NONCE_BYTES = 12


def state_folder() -> Path:
    """Where the key and the ledger lie unless other places are named: the user's state folder."""
    from platformdirs import user_state_path

    return user_state_path("privacyrestore", appauthor=False)


class ClientKey:
    """Three keys derived (HKDF, SHA-256) from one secret: for names, for looking up, for sealing.

    Args:
        secret: 32 bytes from the operating system's generator.
    """

    def __init__(self, secret: bytes):
        if len(secret) != SECRET_BYTES:
            raise InvalidSetting(f"a client's secret has {SECRET_BYTES} bytes")
        self._secret = secret

    def __repr__(self) -> str:
        return "ClientKey(…)"

    @classmethod
    def new(cls) -> ClientKey:
        """A fresh one, kept nowhere."""
        return cls(secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def open(cls, path: str | Path, *, create: bool = True) -> ClientKey:
        """The key in a file; where there is none it is made, whole or not at all, with mode 0600.

        Args:
            path: the file. Its folder is made with mode 0700 if it isn't there.
            create: whether to make what is missing.

        Raises:
            InvalidSetting: a file or folder that other users can read or change.
            CorruptState: a file that is no key, or that is missing and must not be made.
        """
        path = Path(path)
        private_folder(path.parent)
        if not path.exists():
            if not create:
                raise CorruptState(
                    f"the key {path} is missing, and what was written with it is there: put it "
                    "back from a copy, or move both away and begin anew"
                )
            _make(path)
        check_private(path)
        held = path.read_bytes()
        with contextlib.suppress(ValueError):
            secret = bytes.fromhex(held.removeprefix(PREFIX).decode("ascii").strip())
            if held.startswith(PREFIX) and len(secret) == SECRET_BYTES:
                return cls(secret)
        raise CorruptState(f"{path} is no key of this package: put it back from a copy")

    def subject(self, name: str) -> bytes:
        """The name of a subject as 32 bytes that say nothing without the key."""
        return hmac.digest(self._names, name.encode("utf-8", "surrogatepass"), "sha256")

    def lookup(self, content: bytes) -> bytes:
        """A keyed digest, 32 bytes, by which stored content is found."""
        return hmac.digest(self._lookups, content, "sha256")

    def seal(self, content: bytes, belongs_to: bytes) -> bytes:
        """Encrypt and authenticate (ChaCha20-Poly1305, nonce in front).

        Args:
            content: what to hide.
            belongs_to: what it is the content of; has to be given again to open it.
        """
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, content, belongs_to)

    def unseal(self, sealed: bytes, belongs_to: bytes) -> bytes:
        """What :meth:`seal` hid.

        Raises:
            CorruptState: sealed with another key, for another place, or changed since.
        """
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], belongs_to)
        except (InvalidTag, ValueError):
            raise CorruptState(
                "what was kept was changed, or written with another key: put both back from one "
                "copy"
            ) from None

    @cached_property
    def _names(self) -> bytes:
        return self._derived(b"subject names")

    @cached_property
    def _lookups(self) -> bytes:
        return self._derived(b"noise cache keys")

    @cached_property
    def _cipher(self) -> ChaCha20Poly1305:
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        return ChaCha20Poly1305(self._derived(b"sealing"))

    def _derived(self, purpose: bytes) -> bytes:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = b"privacyrestore/1 " + purpose
        return HKDF(SHA256(), SECRET_BYTES, salt=None, info=info).derive(self._secret)


def private_folder(folder: Path) -> None:
    """Make a folder that only its owner can enter, or check that it is one.

    Raises:
        InvalidSetting: others can.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    check_private(folder)


def check_private(path: Path) -> None:
    """Refuse a file or folder that others than its owner can read, change or enter.

    Raises:
        InvalidSetting: such a one, or one that another user owns.
    """
    if os.name != "posix":
        return
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        wanted = "700" if path.is_dir() else "600"
        raise InvalidSetting(
            f"{path} has mode {mode:o}, so that other users reach it: chmod {wanted} it, or name "
            "another folder"
        )
    if found.st_uid != os.geteuid():
        raise InvalidSetting(f"{path} belongs to another user: name a folder of your own")


def _make(path: Path) -> None:
    """Put a new key at `path` unless another process has just done so."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with os.fdopen(os.open(part, flags, 0o600), "wb") as file:
            file.write(PREFIX + secrets.token_bytes(SECRET_BYTES).hex().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(part, path)  # unlike a rename, never replaces the key of another process
    finally:
        part.unlink(missing_ok=True)
    if os.name == "posix":
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
