"""The one extra field of a request: which bank, which mechanism, and a fixed number of numbers.

The numbers are little-endian float32: what a mechanism releases are multiples of a power of two and
stay exact. Their count depends on bank and mechanism alone, so the size of the field says nothing
about the text.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from privacyrestore.errors import BankMismatch, InvalidPayload
from privacyrestore.restoration_bank import RestorationBank

FIELD = "privacy_restore"
SUBSPACE = ("subspace", "gaussian")
"""Mechanisms whose message has ρ numbers; those of the others have n."""
WIRE_MECHANISMS = (*SUBSPACE, "full", "none")


def message_length(bank: RestorationBank, mechanism: str) -> int:
    """Numbers in a message: ρ in the bank's subspace, else n.

    Raises:
        InvalidPayload: a mechanism that has no messages.
    """
    if mechanism not in WIRE_MECHANISMS:
        raise InvalidPayload(f"the mechanism must be one of {', '.join(WIRE_MECHANISMS)}")
    return bank.rank if mechanism in SUBSPACE else bank.n


@dataclass(frozen=True, eq=False)
class Payload:
    """What a client sends beside the cleaned text.

    Attributes:
        bank: the bank's SHA-256.
        mechanism: one of `WIRE_MECHANISMS`.
        meta: [message_length] float32.
    """

    bank: str
    mechanism: str
    meta: Tensor

    def encode(self) -> dict[str, str]:
        """As the value of `FIELD` in a JSON body."""
        numbers = self.meta.detach().cpu().numpy().astype("<f4", copy=False)
        text = base64.b64encode(numbers.tobytes()).decode()
        return {"bank": self.bank, "mechanism": self.mechanism, "meta": text}


def bank_of(field: Any) -> str:
    """The digest that a field asks for, so that its bank can be looked up.

    Raises:
        InvalidPayload: not the three strings of a field.
    """
    if not isinstance(field, dict) or set(field) != {"bank", "mechanism", "meta"}:
        raise InvalidPayload(f"{FIELD} must be an object with bank, mechanism and meta")
    if not all(isinstance(value, str) for value in field.values()):
        raise InvalidPayload(f"bank, mechanism and meta of {FIELD} must be strings")
    bank: str = field["bank"]
    if len(bank) != 64 or not set(bank) <= set("0123456789abcdef"):
        raise InvalidPayload(f"the bank of {FIELD} must be 64 hex digits")
    return bank


def decode(field: Any, bank: RestorationBank, *, max_norm: float) -> Tensor:
    """The vector y [n] float32 that a field asks to restore with.

    Args:
        field: the value of `FIELD` in a JSON body.
        bank: the bank that it has to be for.
        max_norm: a public bound on ‖y‖.

    Raises:
        BankMismatch: for another bank.
        InvalidPayload: of another shape; the text never repeats what was sent.
    """
    if bank_of(field) != bank.sha256:
        raise BankMismatch("the request is for another bank")
    length = message_length(bank, field["mechanism"])
    try:
        content = base64.b64decode(field["meta"].encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise InvalidPayload("meta is not base64") from None
    if len(content) != 4 * length:
        raise InvalidPayload(f"meta has {len(content)} bytes; it must have {4 * length}")
    numbers = torch.from_numpy(np.frombuffer(content, "<f4").astype(np.float32))
    if not bool(torch.isfinite(numbers).all()):
        raise InvalidPayload("meta holds NaN or infinity")
    if float(numbers.double().norm()) > max_norm:
        raise InvalidPayload(f"the norm of meta is above {max_norm:g}")
    return bank.expand(numbers).float() if field["mechanism"] in SUBSPACE else numbers
