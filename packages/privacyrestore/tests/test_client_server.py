"""The client and the real server, with the real engine behind it."""

import contextlib

import numpy as np
import pytest

from privacyrestore.errors import BankMismatch, Refused
from privacyrestore.payload import decode

from .asking import make_client
from .banks import loose_identity, random_bank
from .live_server import NAME, live_server

ASKED = {"temperature": 0, "max_tokens": 8, "model": NAME}
MESSAGES = [{"role": "user", "content": "There is amber, then birch. Why?"}]


@pytest.fixture(scope="module")
def live():
    with live_server() as found:
        yield found


@pytest.fixture
def client(live, tmp_path):
    with contextlib.closing(make_client(live.bank, tmp_path, live.url)) as made:
        yield made


def test_the_real_server_answers_what_it_answers_to_the_same_bytes(live, client):
    answer = client.chat(MESSAGES, **ASKED)
    prepared = client.prepare_chat(MESSAGES, **ASKED)
    assert "amber" not in prepared.public_text
    same = live.post(prepared.path, prepared.body).json()
    assert same["choices"] == answer.raw["choices"]
    assert answer.usage["completion_tokens"] <= 8
    assert "".join(client.stream(MESSAGES, **ASKED)) == answer.text
    assert client.complete("There is amber.", **ASKED).finish_reason in ("stop", "length")
    assert len(client.ledger.releases()) == 2
    assert client.transport.bank(live.bank.sha256).sha256 == live.bank.sha256
    with pytest.raises(Refused, match="400"):
        client.chat(MESSAGES, **ASKED, top_k=3)


def test_the_server_forms_what_the_mechanism_released(live, client):
    prepared = client.prepare_chat(MESSAGES)
    y = decode(prepared.payload, live.bank, max_norm=1e9)
    mechanism = client.mechanism
    released = mechanism.release(live.bank, live.bank.signal([0, 1]))
    assert np.array_equal(released.numpy().astype("<f4").astype(float), released.numpy())
    sent = live.bank.coordinates(y)
    assert float((mechanism.restore(live.bank, sent) - y).abs().max()) < 1e-5


def test_the_real_server_has_not_got_any_other_bank(live, tmp_path):
    other = random_bank(loose_identity(), [(0, 0), (1, 1)], 3)
    with contextlib.closing(make_client(other, tmp_path, live.url)) as client:
        with pytest.raises(BankMismatch):
            client.chat(MESSAGES)
        assert client.ledger.releases() == []
        with pytest.raises(BankMismatch):  # told by the server, where it was not asked before
            client.send(client.prepare("There is amber.", model=NAME))
        with pytest.raises(BankMismatch):
            list(client.events(client.prepare("There is amber.", stream=True, model=NAME)))
