"""Clients that leave, dawdle or flood, and many at once; nobody else notices."""

import base64
import contextlib
import json
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from privacyrestore.server import Limits

from .live_server import CHAT, TEXT, chat, completion, events, live_server, streamed_text, within

LONG = 400


@pytest.fixture(scope="module")
def server():
    with live_server() as running:
        yield running


def head(body, path=TEXT):
    return (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {body if isinstance(body, int) else len(body)}\r\n\r\n"
    ).encode()


def until_closed(connection):
    """What comes before the other side hangs up."""
    found = b""
    while True:
        try:
            data = connection.recv(65536)
        except ConnectionError:
            return found
        if not data:
            return found
        found += data


def stream_text(server, body):
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http:
        found, done = events(http.post(TEXT, json=body))
    assert done
    return streamed_text(found)


def bodies(server):
    """Eight streams: vectors of their own, none for two of them, prompts of all lengths."""
    return [
        completion(
            "a" * (1 + 7 * i),
            max_tokens=40 + 5 * i,
            stream=True,
            **({} if i in (2, 5) else {"privacy_restore": server.field(i)}),
        )
        for i in range(8)
    ]


def test_eight_streams_at_once_say_what_each_says_alone(server):
    alone = [stream_text(server, body) for body in bodies(server)]
    assert len(set(alone)) == 8
    before = server.engine.stats()
    with server.slow(0.005), ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda body: stream_text(server, body), bodies(server)))
    assert together == alone
    after = server.engine.stats()
    assert after.forwards - before.forwards < (after.new_tokens - before.new_tokens) / 2


def test_one_that_is_killed_leaves_its_row_free_and_the_rest_right(server):
    alone = [stream_text(server, body) for body in bodies(server)]
    before = server.engine.stats().ended.get("cancelled", 0)
    killed = json.dumps(completion("zz", max_tokens=LONG, stream=True)).encode()
    with server.connect() as connection, ThreadPoolExecutor(8) as pool, server.slow():
        connection.sendall(head(killed) + killed)
        told = b""
        while b"data: " not in told:
            told += connection.recv(65536)
        others = [pool.submit(stream_text, server, body) for body in bodies(server)]
        assert within(lambda: server.engine.stats().running > 4)
        # A reset, as of a process that died, in place of an orderly end.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        assert [other.result() for other in others] == alone
        assert within(lambda: server.engine.stats().ended.get("cancelled", 0) == before + 1)
    assert server.idle()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_its_row_along(server, stream):
    before = server.engine.stats().ended.get("cancelled", 0)
    body = json.dumps(completion("ab", max_tokens=LONG, stream=stream)).encode()
    with server.slow(0.05):  # 20 s, if nobody ended it
        with server.connect() as connection:
            connection.sendall(head(body) + body)
            assert within(lambda: server.engine.stats().running == 1)
        assert server.idle(10)
    assert server.engine.stats().ended["cancelled"] == before + 1


def test_a_client_that_leaves_before_its_body_is_whole_never_had_a_row(server):
    before = server.engine.stats().accepted
    body = json.dumps(completion("ab")).encode()
    with server.connect() as connection:
        connection.sendall(head(body) + body[:20])
    assert server.post(TEXT, completion("ab")).status_code == 200
    assert server.engine.stats().accepted == before + 1


def test_a_waiting_client_that_leaves_never_runs():
    with live_server(engine_options={"max_rows": 1}) as server, server.slow():
        body = json.dumps(completion("ab")).encode()
        long = completion("zz", max_tokens=LONG, stream=True)
        with server.http.stream("POST", TEXT, json=long) as busy:
            pieces = busy.iter_raw()  # kept: httpx hangs up when it is collected
            next(pieces)
            with server.connect() as connection:
                connection.sendall(head(body) + body)
                assert within(lambda: server.engine.stats().waiting == 1)
            assert within(lambda: server.engine.stats().waiting == 0)
        assert server.idle()


# ---------------------------------------------------------------- sizes and times


def test_a_body_that_is_announced_too_large_is_refused_unread(server):
    with server.connect() as connection:
        connection.sendall(head(10**12))
        answer = until_closed(connection)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"request_too_large" in answer


def test_a_body_without_a_length_is_refused_when_it_becomes_too_large():
    limits = Limits(body_bytes=10_000)
    with live_server(limits=limits) as server, server.connect() as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        sent, answered = 0, b""
        connection.settimeout(0.01)
        chunk = b"3e8\r\n" + b" " * 1000 + b"\r\n"
        while not answered and sent < 10**8:
            try:
                connection.sendall(chunk)
                sent += len(chunk)
                answered = connection.recv(65536)
            except TimeoutError:
                pass
        assert answered.startswith(b"HTTP/1.1 413")
        assert sent < 100_000
        # And it does not read on for ever.
        connection.settimeout(0.1)
        with pytest.raises(ConnectionError):
            flood(connection, chunk, seconds=10)


def flood(connection, chunk, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(TimeoutError):
            connection.sendall(chunk)


def test_the_client_of_a_body_too_large_sees_why():
    with live_server(limits=Limits(body_bytes=10_000)) as server:
        answer = server.post(CHAT, chat("a" * 200_000))
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"
        assert server.post(CHAT, chat("ab")).status_code == 200


def test_a_body_that_comes_byte_by_byte_is_given_up():
    with live_server(limits=Limits(body_seconds=0.3)) as server, server.connect() as connection:
        connection.sendall(head(1000))
        connection.settimeout(0.02)
        found, begun = b"", time.monotonic()
        while not found and time.monotonic() < begun + 10:
            try:
                connection.sendall(b" ")
                found = connection.recv(65536)
            except TimeoutError:
                pass
        assert found.startswith(b"HTTP/1.1 408")
        assert 0.2 < time.monotonic() - begun < 5


@pytest.mark.parametrize("more", [b"", b"a", b"x-a: b\r\n"])
def test_a_head_that_never_ends_is_given_up(more):
    with live_server(limits=Limits(head_seconds=0.3)) as server:
        with server.connect() as connection:
            connection.sendall(more and b"POST / HTTP/1.1\r\nhost: x\r\n")
            connection.settimeout(0.02)
            found, begun = b"", time.monotonic()
            while not found and time.monotonic() < begun + 10:
                try:
                    connection.sendall(more)
                    found = connection.recv(65536)
                except TimeoutError:
                    pass
            assert found.startswith(b"HTTP/1.1 408")
            assert 0.2 < time.monotonic() - begun < 5
        # The time of a head is not that of an answer, nor of a second request after a pause.
        slow = server.post(TEXT, completion("ab", max_tokens=LONG))
        assert slow.status_code == 200
        time.sleep(0.4)
        assert server.post(TEXT, completion("ab")).status_code == 200


def test_a_client_that_does_not_read_is_hung_up_on():
    with live_server(limits=Limits(send_seconds=0.3)) as server:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.connect(server.host)
        path = f"/v1/privacy/banks/{server.bank.sha256}"
        server.server.config.app.state.api._banks[server.bank.sha256] = bytes(64 << 20)
        with connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            assert within(lambda: len(server.server.server_state.connections) == 1)
            assert within(lambda: not server.server.server_state.connections)


def test_many_connections_are_refused_beyond_the_limit():
    with live_server(limits=Limits(connections=3)) as server:
        held = [server.connect() for _ in range(3)]
        assert within(lambda: len(server.server.server_state.connections) == 3)
        assert server.http.get("/health").status_code == 503
        for connection in held:
            connection.close()
        assert within(lambda: server.http.get("/health").status_code == 200)


def test_bad_rows_never_change_the_others(server):
    """While six streams run, every kind of refusal and of vector at the bound goes on beside."""
    good = bodies(server)[:6]
    alone = [stream_text(server, body) for body in good]
    strong = server.field(1, scale=9.9e4)
    bad = [
        completion("ab", privacy_restore=strong),
        completion("ab", privacy_restore=strong | {"bank": "0" * 64}),
        completion(
            "ab", privacy_restore=strong | {"meta": base64.b64encode(b"\xff" * 20).decode()}
        ),
        completion("a" * 9999),
        completion("ab", temperature=-1),
    ]
    with server.slow(0.005), ThreadPoolExecutor(6) as pool:
        others = [pool.submit(stream_text, server, body) for body in good]
        statuses = set()
        while not all(other.done() for other in others):
            statuses |= {server.post(TEXT, body).status_code for body in bad}
        assert [other.result() for other in others] == alone
    assert statuses == {200, 400, 409}
