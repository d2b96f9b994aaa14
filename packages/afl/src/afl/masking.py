"""Keys that two clients share without telling the server, and the masks drawn from them."""

from __future__ import annotations

import json

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from afl.errors import RejectedUpload
from afl.fixed_point import Ring

KEY_BYTES = 32


def private_key() -> bytes:
    """A fresh X25519 private key."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_key(private: bytes) -> bytes:
    """Its public key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def shared_key(private: bytes, public: bytes, purpose: str, session: str, *names: str) -> bytes:
    """The 32 bytes that only the two owners can derive, for one purpose in one session.

    X25519, then HKDF-SHA256 over purpose, session and the sorted names.

    Raises:
        RejectedUpload: a public key that is none.
    """
    try:
        secret = X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError:
        raise RejectedUpload("a public key is damaged, or of the kind that leaks keys") from None
    info = json.dumps([purpose, session, *sorted(names)]).encode()
    return HKDF(SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def mask(seed: bytes, size: int) -> Ring:
    """A mask (size,) of uniform integers: the ChaCha20 stream of a seed that is used once."""
    stream = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None).encryptor()
    return np.frombuffer(stream.update(bytes(8 * size)), dtype="<u8").astype(np.uint64)


def mask_seed(private: bytes, public: bytes, session: str, mine: str, theirs: str) -> bytes:
    """Seed of the mask between two clients, the same for both."""
    return shared_key(private, public, "mask", session, mine, theirs)


def signed(values: Ring, positive: bool) -> Ring:
    """The mask, or its negative: of two clients the first by name adds, the other subtracts."""
    return values if positive else np.uint64(0) - values


def seal(key: bytes, text: bytes, about: str) -> bytes:
    """Encrypt and sign a text; the key must be used for one text and direction only."""
    return ChaCha20Poly1305(key).encrypt(bytes(12), text, about.encode())


def unseal(key: bytes, sealed: bytes, about: str) -> bytes:
    """The text of :func:`seal`.

    Raises:
        RejectedUpload: it was changed on its way, or is meant for something else.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, about.encode())
    except InvalidTag:
        raise RejectedUpload("an encrypted share was changed on its way") from None
