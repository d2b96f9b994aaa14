"""Certificates and keys for a federation that has none: an authority, a server, nodes."""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lipogram.errors import InvalidSetting
from lipogram.files import write_atomically

VALID_DAYS = 825


def server_keys(folder: Path, hosts: Sequence[str]) -> list[Path]:
    """Write ``ca.crt``, ``server.crt`` and ``server.key`` (PEM, P-384, for 825 days).

    The authority's own key is thrown away: it signs this one certificate.

    Args:
        folder: where to.
        hosts: names and addresses under which nodes reach the server.

    Raises:
        InvalidSetting: no host, or a key that lies there already.
    """
    if not hosts:
        raise InvalidSetting("a server's certificate needs the host that nodes will connect to")
    _check_free(folder / "server.key")
    authority, server = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    issuer = _name("afl federation")
    root = (
        _certificate(issuer, issuer, authority.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), critical=False
        )
        .sign(authority, SHA256())
    )
    leaf = (
        _certificate(_name(hosts[0]), issuer, server.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_host(h) for h in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),
            critical=False,
        )
        .sign(authority, SHA256())
    )
    return [
        _public(folder / "ca.crt", root.public_bytes(Encoding.PEM)),
        _public(folder / "server.crt", leaf.public_bytes(Encoding.PEM)),
        _secret(
            folder / "server.key",
            server.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        ),
    ]


def node_keys(folder: Path, name: str) -> list[Path]:
    """Write ``NAME.key`` and ``NAME.pub`` (OpenSSH, P-384), by which the server knows a node.

    Raises:
        InvalidSetting: a name that is no file's, or a key that lies there already.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise InvalidSetting(f"{name!r} cannot be the name of a key file")
    _check_free(folder / f"{name}.key")
    key = ec.generate_private_key(ec.SECP384R1())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return [
        _secret(folder / f"{name}.key", secret),
        _public(folder / f"{name}.pub", public + b"\n"),
    ]


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _check_free(path: Path) -> None:
    if path.exists():
        raise InvalidSetting(f"{path} is there already: choose another folder, or remove it")


def _public(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
    return path


def _secret(path: Path, data: bytes) -> Path:
    """Readable by its owner from the first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    return path
