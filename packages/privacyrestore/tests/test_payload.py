import base64
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from privacyrestore.errors import BankMismatch, InvalidPayload
from privacyrestore.payload import WIRE_MECHANISMS, Payload, bank_of, decode, message_length

from .banks import loose_identity, random_bank

BANK = random_bank(loose_identity(), [(0, 0), (1, 2), (3, 3)], 7)


def field(mechanism="subspace", meta=None, bank=BANK.sha256):
    numbers = torch.zeros(message_length(BANK, mechanism)) if meta is None else meta
    return Payload(bank, mechanism, numbers).encode()


def encoded(values):
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


@given(st.sampled_from(WIRE_MECHANISMS), st.integers(0, 100))
def test_what_is_sent_arrives_to_the_bit(mechanism, seed):
    length = message_length(BANK, mechanism)
    numbers = torch.randn(length, generator=torch.Generator().manual_seed(seed))
    sent = json.loads(json.dumps(field(mechanism, numbers)))
    found = decode(sent, BANK, max_norm=1e3)
    if mechanism in ("subspace", "gaussian"):
        assert torch.equal(found, BANK.expand(numbers).float())
    else:
        assert torch.equal(found, numbers)


def test_the_size_depends_on_bank_and_mechanism_alone():
    assert message_length(BANK, "subspace") == message_length(BANK, "gaussian") == 7
    assert message_length(BANK, "full") == message_length(BANK, "none") == 96
    draw = torch.Generator().manual_seed(0)
    sizes = {
        len(json.dumps(field("subspace", scale * torch.randn(7, generator=draw))))
        for scale in (0.0, 1e-6, 1.0, 1e6)
    }
    assert len(sizes) == 1


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        "x",
        {},
        {"bank": BANK.sha256, "mechanism": "subspace"},
        field() | {"more": "x"},
        field() | {"meta": 3},
        field() | {"bank": BANK.sha256.upper()},
        field() | {"bank": "../" + BANK.sha256[3:]},
        field() | {"mechanism": "scalar-compat"},
        field() | {"meta": "not base64!"},
        field() | {"meta": "é" * 8},
        field() | {"meta": encoded(np.zeros(6))},
        field() | {"meta": encoded(np.zeros(8))},
        field("full") | {"mechanism": "subspace"},
        field() | {"meta": encoded([np.nan] * 7)},
        field() | {"meta": encoded([np.inf] + [0] * 6)},
        field() | {"meta": encoded([3e38] * 7)},
        field() | {"meta": encoded([1001] + [0] * 6)},
    ],
)
def test_what_is_no_payload(bad):
    with pytest.raises(InvalidPayload) as caught:
        decode(bad, BANK, max_norm=1e3)
    if isinstance(bad, dict):
        assert not any(str(v) and str(v) in str(caught.value) for v in bad.values() if v != "x")


def test_for_another_bank():
    other = random_bank(loose_identity(), [(0, 0), (1, 2), (3, 3)], 7, seed=1)
    with pytest.raises(BankMismatch):
        decode(field(), other, max_norm=1e3)
    assert bank_of(field()) == BANK.sha256
