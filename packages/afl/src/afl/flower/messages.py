"""What travels between the two apps: bytes in arrays, texts in records, nothing that runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from afl.cohort import Advert
from afl.errors import RejectedUpload
from afl.fixed_point import Ring
from afl.head import LinearHead
from lipogram.analytic.buffer import buffer_from_settings
from lipogram.errors import LipogramError

ASK, ANSWER, UPLOAD, REFUSED = "ask", "answer", "upload", "refused"
HELLO, DEAL, KEYS, OPEN = "query.hello", "query.deal", "query.keys", "query.open"
STATS, MASKED, HEAD = "train.stats", "train.masked", "evaluate.head"


def asking(**facts: Any) -> RecordDict:
    """A record that asks, with JSON facts."""
    return RecordDict({ASK: ConfigRecord({name: json.dumps(v) for name, v in facts.items()})})


def answering(**facts: Any) -> RecordDict:
    """A record that answers, with JSON facts."""
    return RecordDict({ANSWER: ConfigRecord({name: json.dumps(v) for name, v in facts.items()})})


def refusing(error: LipogramError) -> RecordDict:
    """An answer that says why there is none; the kind of error only, as its text may hold data."""
    return RecordDict({REFUSED: ConfigRecord({"error": type(error).__name__})})


def refusal(content: RecordDict) -> str | None:
    """What :func:`refusing` said, or None."""
    record = content.config_records.get(REFUSED)
    return None if record is None else str(record.get("error", "no reason given"))[:80]


def facts_of(content: RecordDict, name: str = ANSWER) -> dict[str, Any]:
    """The JSON facts of a record.

    Raises:
        RejectedUpload: there are none, or they are damaged.
    """
    record = content.config_records.get(name)
    if record is None:
        raise RejectedUpload(f"the message has no part {name!r}")
    try:
        return {key: json.loads(str(value)) for key, value in record.items()}
    except (ValueError, RecursionError):
        raise RejectedUpload("the facts of a message are damaged") from None


def with_bytes(data: bytes) -> RecordDict:
    """One message of :mod:`afl.wire`, byte by byte."""
    array = Array(dtype="uint8", shape=(len(data),), stype="bytes", data=data)
    return RecordDict({UPLOAD: ArrayRecord({"message": array})})


def bytes_of(content: RecordDict) -> bytes:
    """The bytes of :func:`with_bytes`.

    Raises:
        RejectedUpload: the message holds something else.
    """
    return _array(content, UPLOAD, "message").data


def with_ring(vector: Ring) -> RecordDict:
    """A masked vector."""
    data = vector.astype("<u8").tobytes()
    array = Array(dtype="uint64", shape=vector.shape, stype="bytes", data=data)
    return RecordDict({UPLOAD: ArrayRecord({"ring": array})})


def ring_of(content: RecordDict) -> Ring:
    """The vector of :func:`with_ring`.

    Raises:
        RejectedUpload: the message holds something else.
    """
    data = _array(content, UPLOAD, "ring").data
    if len(data) % 8:
        raise RejectedUpload("a masked vector is truncated")
    return np.frombuffer(data, dtype="<u8").astype(np.uint64)


def with_adverts(roster: Mapping[str, Advert]) -> RecordDict:
    """Public keys by name."""
    return with_parcels({name: a.channel + a.masks for name, a in roster.items()})


def adverts_of(content: RecordDict) -> dict[str, Advert]:
    """The keys of :func:`with_adverts`; their length is checked by who reads them."""
    return {n: Advert(keys[:32], keys[32:]) for n, keys in parcels_of(content).items()}


def with_parcels(parcels: Mapping[str, bytes]) -> RecordDict:
    """Encrypted parcels, or shares, by name."""
    return RecordDict({UPLOAD: ConfigRecord(dict(parcels))})


def parcels_of(content: RecordDict) -> dict[str, bytes]:
    """The parcels of :func:`with_parcels`.

    Raises:
        RejectedUpload: the message holds something else.
    """
    record = content.config_records.get(UPLOAD)
    if record is None or not all(isinstance(value, bytes) for value in record.values()):
        raise RejectedUpload("the message holds no parcels")
    return {str(name): bytes(value) for name, value in record.items()}  # type: ignore[arg-type]


def head_arrays(head: LinearHead) -> ArrayRecord:
    """Weight (d, k) and intercept (k,), float64: what other Flower code can use."""
    return ArrayRecord(
        {"weight": Array(head.weight.numpy()), "intercept": Array(head.intercept.numpy())}
    )


def head_facts(head: LinearHead) -> dict[str, Any]:
    """The rest of a head; a random map travels as its settings, from which it is drawn again."""
    return {
        "classes": list(head.classes),
        "gamma": head.gamma,
        "rank": head.rank,
        "condition": min(head.condition, 1e308),
        "space": head.space,
        "feature_map": None if head.feature_map is None else head.feature_map.settings(),
    }


def head_of(arrays: ArrayRecord, facts: Mapping[str, Any]) -> LinearHead:
    """The head of :func:`head_arrays` and :func:`head_facts`.

    Raises:
        RejectedUpload: they do not fit together.
    """
    try:
        weight, intercept = (arrays[name].numpy() for name in ("weight", "intercept"))
        settings = facts["feature_map"]
        head = LinearHead(
            torch.from_numpy(weight.astype(np.float64)),
            torch.from_numpy(intercept.astype(np.float64)),
            tuple(facts["classes"]),
            float(facts["gamma"]),
            int(facts["rank"]),
            float(facts["condition"]),
            str(facts["space"]),
            None if settings is None else buffer_from_settings(settings, {}),
        )
    except (LipogramError, KeyError, TypeError, ValueError, AttributeError):
        raise RejectedUpload("the message holds no head") from None
    if head.weight.ndim != 2 or head.intercept.shape != (len(head.classes),):
        raise RejectedUpload("the parts of the head do not fit together")
    return head


def _array(content: RecordDict, record: str, name: str) -> Array:
    arrays = content.array_records.get(record)
    if arrays is None or name not in arrays or arrays[name].stype != "bytes":
        raise RejectedUpload(f"the message holds no {name}")
    return arrays[name]
