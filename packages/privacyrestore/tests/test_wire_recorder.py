"""The tap passes bytes on as they are, keeps all of them, and breaks what it is asked to break."""

import httpx
import pytest

from .canned_server import WORDS, canned_server
from .wire_recorder import Answer, CutRequest, CutResponse, Garble, WireRecorder

ASKED = {"messages": [{"role": "user", "content": "why?"}]}


@pytest.fixture
def tapped():
    with canned_server() as server, WireRecorder(server.server_address) as tap:
        yield server, tap


@pytest.fixture
def http():
    with httpx.Client(trust_env=False, timeout=10) as client:
        yield client


def ask(http, tap, **more):
    return http.post(f"{tap.url}/v1/chat/completions", json=ASKED | more)


def test_requests_of_one_connection_are_kept_one_by_one_with_all_their_bytes(tapped, http):
    server, tap = tapped
    answers = [ask(http, tap), ask(http, tap, stream=True), http.get(f"{tap.url}/v1/models")]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [exchange.path for exchange in tap.exchanges] == [path for path, *_ in server.heard]
    assert b"".join(exchange.sent for exchange in tap.exchanges) == bytes(tap.sent)
    assert b'"why?"' in tap.exchanges[0].body
    assert b"user-agent:" in tap.exchanges[0].head.lower()
    assert WORDS[-2].encode() in tap.exchanges[1].received
    assert tap.exchanges[1].received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_an_injected_answer_comes_once_and_the_server_never_sees_that_request(tapped, http):
    server, tap = tapped
    tap.inject(None, Answer(503), Answer(429, headers=(("retry-after", "0"),)))
    answers = [ask(http, tap) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 503, 429, 200]
    assert answers[2].headers["retry-after"] == "0"
    assert (len(server.heard), len(tap.exchanges)) == (2, 4)


def test_cuts_end_the_connection_and_what_was_sent_is_kept(tapped, http):
    server, tap = tapped
    tap.inject(CutRequest(20), CutResponse(60))
    for _ in range(2):
        with pytest.raises(httpx.TransportError):
            ask(http, tap)
    assert ask(http, tap).status_code == 200
    assert len(server.heard) == len(tap.exchanges) == 2
    assert len(tap.exchanges[0].received) == 60
    assert len(tap.sent) > sum(len(exchange.sent) for exchange in tap.exchanges)


def test_a_garbled_stream_is_other_bytes_from_there_on(tapped, http):
    _, tap = tapped
    clean = ask(http, tap, stream=True)
    tap.inject(Garble(len(clean.content)))
    with pytest.raises(httpx.HTTPError):
        ask(http, tap, stream=True)
    received = [bytes(exchange.received) for exchange in tap.exchanges]
    assert received[0] != received[1]
    assert len(received[0]) >= len(received[1])


def test_a_client_that_leaves_is_noticed(tapped, http):
    server, tap = tapped
    server.pause, server.words = 0.05, WORDS * 50
    with http.stream("POST", f"{tap.url}/v1/completions", json={"prompt": "", "stream": True}) as s:
        next(s.iter_lines())
    assert tap.await_client_left(tap.exchanges[0])
