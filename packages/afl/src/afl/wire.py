"""Statistics as bytes: one safetensors message with its description, read with suspicion.

The same bytes travel over a network, by e-mail, or on a disk.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from afl.byte_planes import join_bytes, split_bytes
from afl.claims import read_claim
from afl.client_stats import ClientStats
from afl.errors import RejectedUpload
from afl.limits import Precision
from lipogram.analytic.buffer import buffer_from_settings
from lipogram.analytic.settings import one_of, whole
from lipogram.errors import LipogramError
from lipogram.files import write_atomically

FORMAT = "lipogram-afl/2"
MOST_BYTES = 2**31
MOST_HEADER = 2**22


@dataclass(frozen=True)
class Envelope:
    """A message that was read and found plausible.

    Attributes:
        client: who says to have sent it.
        round: the sender's number for it.
        stats: what it holds.
        digest: SHA-256 of what it holds.
        n_bytes: its length.
    """

    client: str
    round: int
    stats: ClientStats
    digest: str
    n_bytes: int


def to_bytes(
    stats: ClientStats, *, client: str = "", round: int = 0, dtype: Precision = "float64"
) -> bytes:
    """The message: half of G, the class sums, the counts; floats deflated without loss.

    Args:
        stats: what to send.
        client: name of the sender.
        round: its number for this message, at least 0.
        dtype: precision of G and of the class sums. float32 moves a head by about 2⁻²⁴ times the
            condition number of its system, bfloat16 by 2⁻⁹ times.

    Raises:
        InvalidSetting: another precision, or a round that is no whole number.
    """
    one_of("dtype", dtype, get_args(Precision))
    kind = getattr(torch, dtype)
    described = {
        "format": FORMAT,
        "client": client,
        "round": whole("round", round, least=0),
        "n_features": stats.n_features,
        "classes": stats.classes,
        "space": stats.space,
        "clip": stats.clip,
        "noise": stats.noise,
        "dtype": dtype,
        "per_class": stats.per_class,
        "feature_map": None if stats.feature_map is None else stats.feature_map.settings(),
    }
    tensors = {"counts": torch.from_numpy(stats.counts)}
    planes = {}
    for name, sums in (("gram", stats.gram_packed), ("cross", stats.sums.cpu())):
        tensors[name], planes[name] = split_bytes(sums.to(kind))
    if (stats.mass != stats.counts).any():
        tensors["mass"] = torch.from_numpy(stats.mass)
    if stats.feature_map is not None:
        tensors |= {f"map/{name}": t for name, t in stats.feature_map.tensors().items()}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    described["planes"] = planes
    described["crc32"] = _checksum(described, contiguous)
    return safetensors.torch.save(contiguous, {"afl": json.dumps(described, allow_nan=False)})


def from_bytes(data: bytes, *, max_bytes: int = MOST_BYTES) -> Envelope:
    """Read a message; nothing in it is believed before it was checked.

    Args:
        data: what came.
        max_bytes: most bytes of the message, and of its sums in float64 before any is inflated.

    Raises:
        RejectedUpload: too large, truncated, of another format, or sums that no rows can have.
    """
    if len(data) > max_bytes:
        raise RejectedUpload(f"the message has {len(data):,} bytes, at most {max_bytes:,} are read")
    try:
        return _read(data, max_bytes)
    except RejectedUpload:
        raise
    except (
        LipogramError,
        SafetensorError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:
        raise RejectedUpload(
            f"the message is no statistics, or damaged ({type(error).__name__}): send it again"
        ) from None


def save(
    stats: ClientStats,
    path: str | Path,
    *,
    client: str = "",
    round: int = 0,
    dtype: Precision = "float64",
) -> Path:
    """Write the message of :func:`to_bytes` to a file, whole or not at all."""
    target = Path(path)
    write_atomically(target, to_bytes(stats, client=client, round=round, dtype=dtype))
    return target


def load(path: str | Path, *, max_bytes: int = MOST_BYTES) -> Envelope:
    """Read a file of :func:`save`.

    Raises:
        FileNotFoundError: no such file.
        RejectedUpload: see :func:`from_bytes`; the file is named.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"there is no file {source}")
    if source.stat().st_size > max_bytes:
        raise RejectedUpload(f"{source} is larger than {max_bytes:,} bytes")
    try:
        return from_bytes(source.read_bytes(), max_bytes=max_bytes)
    except RejectedUpload as error:
        raise RejectedUpload(f"{source}: {error}") from None


def _read(data: bytes, max_bytes: int) -> Envelope:
    described = _description(data)
    tensors = safetensors.torch.load(data)
    if described.pop("crc32") != _checksum(described, tensors):
        raise RejectedUpload("the message was damaged on its way: send it again")
    d = whole("n_features", described["n_features"], most=2**20)
    labels = _labels(described["classes"])
    dtype = one_of("dtype", described["dtype"], get_args(Precision))
    if tensors["counts"].dtype != torch.int64 or not isinstance(described["space"], str):
        raise RejectedUpload("the parts of the message have other types than they must")
    half = d * (d + 1) // 2
    shapes = {
        "gram": (len(labels), half) if described["per_class"] is True else (half,),
        "cross": (len(labels), d),
    }
    needed = 8 * sum(math.prod(shape) for shape in shapes.values())
    if needed > max_bytes:
        raise RejectedUpload(f"the sums take {needed:,} bytes, at most {max_bytes:,} are read")
    planes = described["planes"]
    gram, cross = (
        join_bytes(tensors[name], planes[name], getattr(torch, dtype), math.prod(shape)).reshape(
            shape
        )
        for name, shape in shapes.items()
    )
    settings = described["feature_map"]
    maps = {n.removeprefix("map/"): t for n, t in tensors.items() if n.startswith("map/")}
    if settings is not None and settings.get("out_features", d) != d:
        raise RejectedUpload("the random map has another width than the sums")
    mass = tensors.get("mass")
    stats = ClientStats.from_parts(
        gram,
        cross.T,
        tensors["counts"].numpy(),
        labels,
        n_features=d,
        mass=None if mass is None else mass.double().numpy(),
        space=described["space"],
        clip=described["clip"],
        feature_map=None if settings is None else buffer_from_settings(settings, maps),
        noise=read_claim(described["noise"], described["clip"]),
    )
    stats.rounding = dtype
    client = described["client"]
    if not isinstance(client, str) or len(client) > 200 or not client.isprintable():
        raise RejectedUpload("the sender's name is no printable text of at most 200 characters")
    number = whole("round", described["round"], least=0)
    return Envelope(client, number, stats.verify(), stats.digest, len(data))


def _description(data: bytes) -> dict[str, Any]:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(MOST_HEADER, len(data) - 8):
        raise RejectedUpload("the message is truncated, or no statistics at all")
    header = json.loads(data[8 : 8 + size])
    described = json.loads(header["__metadata__"]["afl"])
    if described["format"] != FORMAT:
        raise RejectedUpload(f"format {described['format']!r}, this version reads {FORMAT!r}")
    return dict(described)


def _checksum(described: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> int:
    """CRC-32 of the description and of all tensors in the order of their names."""
    found = zlib.crc32(json.dumps(described, sort_keys=True).encode())
    for name in sorted(tensors):
        held = np.ascontiguousarray(tensors[name].numpy())
        low_first = held.astype(held.dtype.newbyteorder("<"), copy=False)
        found = zlib.crc32(low_first.reshape(-1).view(np.uint8).data, found)
    return found


def _labels(classes: Any) -> list[Any]:
    kinds = {type(label) for label in classes} if isinstance(classes, list) else {None}
    if len(kinds) > 1 or not kinds <= {int, str, bool}:
        raise RejectedUpload("the classes are no list of integers or of strings")
    return list(classes)
