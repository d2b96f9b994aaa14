import asyncio
import contextlib
import json
import math
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from lipogram.errors import InvalidSetting, MissingExtra
from psfuture import scheduler, server
from psfuture.futures import Fixed, Oracle
from psfuture.live_sessions import LiveSessions, Refused, ServerLimits
from psfuture.policies import PsFuture, WaitK
from psfuture.scheduler import SharedFuture
from psfuture.session import Session

from .echo_server import EchoBackend, english_portuguese, serving

LANES = ("psfuture", "wait-k")
SENTENCES = [
    "The program can be installed.",
    "You need the new password.",
    "The disk is full , sorry.",
    "She said it was slow.",
    "Click the button to continue.",
    "These packages are not free.",
    "The kernel finds the devices.",
    "A good translation is short.",
]


class Visitor:
    """One sentence over HTTP; its messages are collected in a thread."""

    def __init__(self, url, **settings):
        self.http = httpx.Client(base_url=url, timeout=30, trust_env=False)
        answer = self.http.post("api/sessions", json=settings)
        assert answer.status_code == 201, answer.text
        self.path = f"api/sessions/{answer.json()['session']}"
        self.messages, self.listening = [], threading.Event()
        self.ended = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()
        assert self.listening.wait(10)

    def _listen(self):
        with (
            contextlib.suppress(httpx.TransportError),
            self.http.stream("GET", f"{self.path}/events") as answer,
        ):
            self.response = answer
            for line in answer.iter_lines():
                self.listening.set()
                if line.startswith("data: "):
                    self.messages.append(json.loads(line.removeprefix("data: ")))
        self.ended.set()

    def push(self, text):
        return self.http.post(f"{self.path}/words", json={"text": text})

    def finish(self):
        return self.http.post(f"{self.path}/finish")

    def change(self, **settings):
        return self.http.patch(self.path, json=settings)

    def wait(self, found):
        deadline = time.monotonic() + 60
        while not found():
            assert time.monotonic() < deadline, self.messages
            time.sleep(0.01)

    def wait_done(self):
        self.wait(lambda: sum(bool(m.get("done")) for m in list(self.messages)) == 2)

    def events(self, lane, kind):
        messages = [m for m in list(self.messages) if m.get("lane") == lane and "events" in m]
        events = [event for message in messages for event in message["events"]]
        return [(event["text"], event["reads"]) for event in events if event["kind"] == kind]

    def leave(self):
        self.http.delete(self.path)
        assert self.ended.wait(10)
        self.http.close()


@pytest.fixture(scope="module")
def site():
    """A page over a model that repeats: its address, and its sentences."""
    with serving(EchoBackend()) as served:
        yield served


@pytest.fixture
def visit(site):
    """Begins sentences there, and leaves them in the end."""
    visitors = []

    def begin(**settings):
        visitors.append(Visitor(site[0], **settings))
        return visitors[-1]

    yield begin
    for visitor in visitors:
        visitor.leave()


def alone(backend, policy, words):
    """What a session that has the model for itself reads and shows."""
    session = Session(backend, policy)
    events = [event for word in words for event in session.push(word)] + session.finish()
    return {
        kind: [(event.text, event.src_read) for event in events if event.kind == kind]
        for kind in ("read", "write")
    }


def type_all(visitors, sentences):
    """Each visitor types a sentence, all at the same time."""

    def typing(visitor, sentence):
        for word in sentence.split():
            while visitor.push(word).status_code == 429:
                time.sleep(0.05)
        assert visitor.finish().status_code == 202
        visitor.wait_done()

    threads = [
        threading.Thread(target=typing, args=pair) for pair in zip(visitors, sentences, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def assert_as_alone(visitor, backend, threshold, k, sentence):
    for lane, policy in zip(LANES, (PsFuture(threshold), WaitK(k)), strict=True):
        expected = alone(backend, policy, sentence.split())
        assert visitor.events(lane, "read") == expected["read"]
        assert visitor.events(lane, "write") == expected["write"]


def test_eight_sentences_at_once_are_each_translated_as_if_alone(visit):
    visitors = [visit(threshold=0.01 * at, k=at + 1) for at in range(8)]
    type_all(visitors, SENTENCES)
    for at, (visitor, sentence) in enumerate(zip(visitors, SENTENCES, strict=True)):
        assert_as_alone(visitor, EchoBackend(), 0.01 * at, at + 1, sentence)


def test_eight_sentences_on_the_real_model_are_each_translated_as_if_alone():
    backend = english_portuguese()
    thresholds = [0.002, 0.005, 0.01, 0.02, 0.03, 0.06, 0.1, 0.3]
    with serving(backend) as (url, _):
        visitors = [Visitor(url, threshold=each, k=1 + at) for at, each in enumerate(thresholds)]
        type_all(visitors, SENTENCES)
        for at, (visitor, sentence) in enumerate(zip(visitors, SENTENCES, strict=True)):
            assert_as_alone(visitor, backend, thresholds[at], 1 + at, sentence)
            visitor.leave()


def test_each_decision_is_told_with_what_it_was_made_of(visit):
    visitor = visit(threshold=0.02)
    visitor.push("one two")
    visitor.wait(lambda: len(visitor.messages) == 4)
    decisions = [d for m in visitor.messages if m["lane"] == "psfuture" for d in m["decisions"]]
    assert [(d["reads"], d["text"].strip(), d["wrote"]) for d in decisions] == [
        (1, "one", False),
        (2, "one", True),
        (2, "two", False),
    ]
    unsure = 1 - math.e / math.hypot(math.e, 1)
    assert [d["divergence"] for d in decisions] == pytest.approx([unsure, 0, unsure], abs=1e-6)
    assert {d["threshold"] for d in decisions} == {0.02}


def test_a_new_threshold_holds_at_once_for_the_running_sentence(visit):
    visitor = visit(threshold=0.02)
    visitor.push("one two three")
    visitor.wait(lambda: len(visitor.messages) == 6)
    assert visitor.events("psfuture", "write") == [("one", 3)]
    assert visitor.change(threshold=0.1).status_code == 202
    visitor.wait(lambda: len(visitor.messages) == 7)
    # "three" is begun, and "two" thereby shown, though no word was read since.
    assert visitor.events("psfuture", "write") == [("one", 3), ("two", 3)]
    assert visitor.messages[-1]["begun"] == "three"
    assert visitor.messages[-1]["policy"] == "psfuture 0.1"
    assert visitor.events("wait-k", "write") == []


def test_a_new_k_holds_at_once_for_the_running_sentence(visit):
    visitor = visit(k=9)
    visitor.push("one two three four")
    visitor.wait(lambda: len(visitor.messages) == 8)
    assert visitor.events("wait-k", "write") == []
    visitor.change(k=2)
    visitor.wait(lambda: len(visitor.messages) == 9)
    assert visitor.events("wait-k", "write") == [("one", 4), ("two", 4)]


def test_figures_are_those_of_what_was_shown(visit):
    visitor = visit(k=3)
    for word in "a b c d e f".split():
        visitor.push(word)
    visitor.wait(lambda: sum(m["lane"] == "wait-k" for m in list(visitor.messages)) == 6)
    last = [m for m in visitor.messages if m["lane"] == "wait-k"][-1]
    # a, b and c were shown after 4, 5 and 6 words; against 2 source words a target word:
    assert (last["reads"], last["behind"], last["begun"]) == (6, 3, "d")
    assert last["al"] == pytest.approx((4 + (5 - 2) + (6 - 4)) / 3)


@pytest.fixture
def gathering(monkeypatch):
    """A scheduler with a window that no machine is too slow for."""
    monkeypatch.setattr(scheduler, "WINDOW", 30.0)
    running = scheduler.Scheduler(8)
    yield running
    running.close()


def together(running, jobs):
    """What each job gives, when all of them ask at the same time."""
    barrier, given = threading.Barrier(len(jobs)), {}

    def move(at):
        barrier.wait()
        time.sleep(0.02 * at)
        try:
            given[at] = jobs[at]()
        except Exception as error:
            given[at] = error

    for at in range(len(jobs)):
        running.run(lambda at=at: move(at))
    deadline = time.monotonic() + 20
    while len(given) < len(jobs):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return [given[at] for at in range(len(jobs))]


def test_calls_that_come_together_become_one(gathering):
    batches = []

    def double(asked):
        batches.append(len(asked))
        return [2 * number for (number,) in asked]

    jobs = [lambda at=at: gathering.ask("double", (at,), double) for at in range(6)]
    assert together(gathering, jobs) == [0, 2, 4, 6, 8, 10]
    assert batches == [6]


def test_who_is_alone_waits_for_nobody(gathering):
    begun = time.monotonic()

    def job():
        return [gathering.ask("same", (at,), lambda asked: [n for (n,) in asked]) for at in "abc"]

    assert together(gathering, [job]) == [["a", "b", "c"]]
    assert time.monotonic() - begun < 20


def test_a_call_at_fault_fails_alone(gathering):
    def invert(asked):
        return [1 / number for (number,) in asked]

    jobs = [lambda at=at: gathering.ask("invert", (at,), invert) for at in (1, 0, 2)]
    first, second, third = together(gathering, jobs)
    assert (first, third) == (1.0, 0.5)
    assert isinstance(second, ZeroDivisionError)


def test_each_prefix_gets_its_own_future_where_many_are_invented_at_once(gathering):
    asked = []

    class Doubling(Fixed):
        def invent(self, prefixes, sentences):
            asked.append(len(prefixes))
            return [[prefix + prefix] for prefix in prefixes]

    future = SharedFuture(Doubling(), gathering)
    prefixes = [[("a",)], [("b",), ("c", "d")], [("e",)]]
    found = together(gathering, [lambda own=own: future.invent(own, ()) for own in prefixes])
    assert found == [[[("a",) * 2]], [[("b",) * 2], [("c", "d") * 2]], [[("e",) * 2]]]
    assert asked == [4]


def test_a_closed_scheduler_answers_nobody(gathering):
    gathering.close()
    with pytest.raises(RuntimeError, match="closed"):
        gathering.ask("same", (1,), list)


def test_a_model_that_fails_on_one_sentence_fails_on_no_other(visit):
    ill, well = visit(), visit()
    for word in "one two three".split():
        ill.push("poison")
        well.push(word)
    well.finish()
    well.wait_done()
    assert [text for text, _ in well.events("psfuture", "write")] == ["one", "two", "three"]
    ill.wait(lambda: len(ill.messages) == 2)
    assert {m["lane"] for m in ill.messages} == set(LANES)
    assert all("not finite" in m["error"] for m in ill.messages)


REFUSED = {
    "an unknown session": ("POST", "api/sessions/nobody/words", {"text": "one"}, 404, "session"),
    "an unknown session's end": ("POST", "api/sessions/nobody/finish", None, 404, "session"),
    "an unknown session's settings": ("PATCH", "api/sessions/nobody", {}, 404, "session"),
    "an unknown session's events": ("GET", "api/sessions/nobody/events", None, 404, "session"),
    "an unknown session's deletion": ("DELETE", "api/sessions/nobody", None, 404, "session"),
    "an address": ("GET", "nothing", None, 404, "address"),
    "a folder above": ("GET", "..%2fserver.py", None, 404, "address"),
    "a method": ("PUT", "api/sessions", {}, 405, "method"),
    "no object": ("POST", "{path}/words", ["one"], 422, "object of text"),
    "no text": ("POST", "{path}/words", {}, 422, "text is missing"),
    "another field": ("POST", "{path}/words", {"text": "a", "more": 1}, 422, "object of text"),
    "a number as text": ("POST", "{path}/words", {"text": 1}, 422, "text must be"),
    "no word": ("POST", "{path}/words", {"text": " \n "}, 422, "no word"),
    "a long word": ("POST", "{path}/words", {"text": "a" * 101}, 422, "101 characters: 100"),
    "a control character": ("POST", "{path}/words", {"text": "a\0b"}, 422, "control character"),
    "half a character": ("POST", "{path}/words", b'{"text": "\\ud83d"}', 422, "half of a"),
    "a burst of words": ("POST", "{path}/words", {"text": "a " * 41}, 429, "20 words a second"),
    "too many words": ("POST", "{path}/words", {"text": "a " * 201}, 422, "at most 200 words"),
    "no JSON": ("POST", "{path}/words", b"text=one", 422, "not JSON"),
    "no UTF-8": ("POST", "{path}/words", b'{"text": "\xff"}', 422, "not JSON"),
    "deep JSON": ("POST", "{path}/words", b"[" * 9000, 422, "not JSON"),
    "a large body": ("POST", "{path}/words", {"text": "a " * 9000}, 413, "16384 bytes"),
    "a boolean": ("PATCH", "{path}", {"threshold": True}, 422, "threshold must be"),
    "NaN": ("PATCH", "{path}", b'{"threshold": NaN}', 422, "finite"),
    "infinity": ("PATCH", "{path}", b'{"threshold": -Infinity}', 422, "finite"),
    "a huge number": ("PATCH", "{path}", b'{"threshold": 1' + b"0" * 400 + b"}", 422, "threshold"),
    "a threshold too high": ("PATCH", "{path}", {"threshold": 1.5}, 422, "1.5"),
    "k of 0": ("PATCH", "{path}", {"k": 0}, 422, "k >= 1"),
    "k of a thousand digits": ("PATCH", "{path}", b'{"k": 1' + b"0" * 999 + b"}", 422, "200"),
    "half a k": ("PATCH", "{path}", {"k": 1.5}, 422, "k must be"),
    "k of a session to be": ("POST", "api/sessions", {"k": -1}, 422, "k >= 1"),
    "a second listener": ("GET", "{path}/events", None, 409, "listens"),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_what_cannot_be_had_is_refused_in_words_and_changes_nothing(case, visit, site):
    method, path, body, status, reason = REFUSED[case]
    visitor, before = visit(), len(site[1]) + 0
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = visitor.http.request(
        method,
        path.format(path=visitor.path),
        content=None if body is None else content,
        headers={"content-type": "application/json"},
    )
    assert (answer.status_code, reason in answer.json()["error"]) == (status, True), answer.text
    assert len(site[1]) == before
    visitor.push("one")
    visitor.finish()
    visitor.wait_done()
    assert [visitor.events(lane, "write") for lane in LANES] == [[("one", 1)]] * 2


def test_a_finished_sentence_takes_nothing_more(visit):
    visitor = visit()
    visitor.push("one")
    visitor.finish()
    answers = visitor.push("two"), visitor.finish(), visitor.change(threshold=0.5)
    assert [answer.status_code for answer in answers] == [409] * 3
    visitor.wait_done()
    assert visitor.events("psfuture", "read") == [("one", 1)]


def test_a_form_of_another_page_is_no_request(site):
    answer = httpx.post(f"{site[0]}api/sessions", data={"k": "3"}, trust_env=False)
    assert answer.status_code == 415


def test_a_thousand_malformed_bodies_leave_the_server_well(visit, site):
    visitor, rng = visit(), random.Random(5)
    good = ['{"text": "one"}', '{"threshold": 0.1, "k": 3}', "{}", '{"k": 2}']
    paths = [("POST", "api/sessions"), ("POST", f"{visitor.path}/words"), ("PATCH", visitor.path)]
    values = [None, True, -1, 2.5, 1e400, "", "\0", [], {}, [[]] * 9, {"text": None}, "k", 10**30]
    count = len(site[1])
    for _ in range(1000):
        method, path = rng.choice(paths)
        body = bytearray(rng.choice(good).encode())
        match rng.randrange(3):
            case 0:  # cut short, with noise behind
                body = body[: rng.randrange(len(body))] + rng.randbytes(rng.randrange(1, 40))
            case 1:  # a byte that no JSON begins with
                body[0] = rng.choice(b"\0\x80\xff)},;<abc")
            case 2:  # JSON, but not what is asked
                fields = {rng.choice(["text", "k", "threshold", "x"]): rng.choice(values)}
                body = bytearray(json.dumps({"wrong": 1} | fields).encode())
        answer = visitor.http.request(
            method, path, content=bytes(body), headers={"content-type": "application/json"}
        )
        assert 400 <= answer.status_code < 500, (answer.status_code, bytes(body))
        assert answer.json()["error"]
    assert len(site[1]) == count
    visitor.push("one two")
    visitor.finish()
    visitor.wait_done()
    assert [text for text, _ in visitor.events("psfuture", "write")] == ["one", "two"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "attacker.example"}, 421),
        ({"host": "attacker.example:80"}, 421),
        ({"host": "192.0.2.7"}, 421),
        ({"host": "localhost.attacker.example"}, 421),
        ({"host": ""}, 421),
        ({"origin": "https://attacker.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "localhost:1"}, 200),
        ({"host": "[::1]:1"}, 200),
        ({"host": "127.0.0.1", "origin": "http://127.0.0.1"}, 200),
        ({"host": "127.0.0.1:1", "origin": "http://127.0.0.1:2"}, 403),
    ],
)
def test_only_its_own_address_and_page_are_answered(site, headers, status):
    answer = httpx.get(f"{site[0]}api/about", headers=headers, trust_env=False)
    assert answer.status_code == status
    assert ("error" in answer.json()) == (status != 200)


@pytest.mark.parametrize("path", ["", "app.js", "style.css", "api/about", "nothing"])
def test_every_answer_forbids_the_browser_what_the_page_does_not_need(site, path):
    answer = httpx.get(site[0] + path, trust_env=False)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy
    assert "*" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_visitor_who_disconnects_frees_the_sentence():
    with serving(EchoBackend(), limits=ServerLimits(sessions=2)) as (url, sessions):
        first, second = Visitor(url), Visitor(url)
        full = httpx.post(f"{url}api/sessions", json={}, trust_env=False)
        assert (full.status_code, full.headers["retry-after"]) == (503, "1")
        assert "2 sentences" in full.json()["error"]
        # As a browser does whose tab is closed: no more than the end of the connection.
        first.response.extensions["network_stream"].get_extra_info("socket").shutdown(
            socket.SHUT_RDWR
        )
        first.wait(lambda: len(sessions) == 1)
        third = Visitor(url)
        assert first.push("one").status_code == 404
        first.http.close()
        assert second.push("one").status_code == 202
        for visitor in (second, third):
            visitor.leave()


def test_words_a_second_are_counted_over_time():
    clock = [0.0]
    limits = ServerLimits(words_per_second=2, words=100)

    async def live():
        sessions = LiveSessions(EchoBackend(), PsFuture(), 3, limits, lambda: clock[0])
        sentence = sessions.begin()
        assert sentence.push("a b c d") == 4
        with pytest.raises(Refused, match="2 words a second"):
            sentence.push("e")
        clock[0] += 1
        assert sentence.push("e f") == 2
        with pytest.raises(Refused):
            sentence.push("g")
        clock[0] += 100
        assert sentence.push("g h i j") == 4  # no more is saved up than one burst
        with pytest.raises(Refused):
            sentence.push("k")
        sessions.close()

    asyncio.run(live())


def test_a_sentence_that_nobody_goes_on_with_is_given_up():
    clock = [0.0]

    async def live():
        limits = ServerLimits(idle_seconds=60)
        sessions = LiveSessions(EchoBackend(), PsFuture(), 3, limits, lambda: clock[0])
        left, kept = sessions.begin(), sessions.begin()
        clock[0] = 50.0
        kept.push("one")
        clock[0] = 61.0
        left.decide_by({})  # a setting is no word
        sessions.free_idle()
        assert len(sessions) == 1
        assert "60 seconds" in (await left.outbox.get())["closed"]
        assert await left.outbox.get() is None
        with pytest.raises(Refused, match="no such session"):
            sessions.get(left.id)
        sessions.close()

    asyncio.run(live())


def test_stopping_the_server_tells_those_who_listen():
    begun = time.monotonic()
    with serving(EchoBackend()) as (url, _):
        visitor = Visitor(url)
        visitor.push("one two")
    assert visitor.ended.wait(5)
    assert visitor.messages[-1] == {"closed": "the server stops"}
    assert time.monotonic() - begun < 10


def test_ctrl_c_ends_the_command_at_once_and_quietly():
    code = (
        "from echo_server import EchoBackend\n"
        "from psfuture.server import serve\n"
        "serve(EchoBackend(), ready=lambda url: print(url, flush=True))\n"
        "print('stopped')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        visitor = Visitor(process.stdout.readline().strip())
        visitor.push("one")
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, errors) == (0, "stopped\n", "")
    assert visitor.messages[-1] == {"closed": "the server stops"}


def test_other_machines_are_served_on_purpose_only():
    app = server.create_app(EchoBackend())
    with pytest.raises(InvalidSetting, match=r"0\.0\.0\.0 can be reached"):
        server.create_server(app, host="0.0.0.0")
    app.state.sessions.close()


def test_remote_visitors_are_served_by_addresses_not_by_foreign_names():
    with serving(EchoBackend(), allow_remote=True) as (url, _):
        for host, status in (("192.0.2.7:80", 200), ("attacker.example", 421)):
            answer = httpx.get(f"{url}api/about", headers={"host": host}, trust_env=False)
            assert answer.status_code == status


def test_a_port_in_use_is_named():
    app = server.create_app(EchoBackend())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidSetting, match=f"port {port} of 127.0.0.1 cannot be had"):
            server.create_server(app, port=port)
    app.state.sessions.close()


def test_an_oracle_cannot_be_served():
    with pytest.raises(InvalidSetting, match="oracle"):
        server.create_app(EchoBackend(), policy=PsFuture(future=Oracle()))


def test_k_must_be_a_lag():
    with pytest.raises(InvalidSetting, match="k >= 1"):
        server.create_app(EchoBackend(), k=0)


@pytest.mark.parametrize("library", ["fastapi", "uvicorn"])
def test_without_the_extra_the_command_that_brings_it_is_named(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "psfuture.web_api", raising=False)
    with pytest.raises(MissingExtra, match=rf"{library} is not installed.*psfuture\[serve\]"):
        server.serve(EchoBackend())


@pytest.mark.parametrize("name", ["sessions", "words_per_second", "idle_seconds", "body_bytes"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_limit_is_a_number_above_zero(name, value):
    with pytest.raises(InvalidSetting, match=f"{name} is {value}"):
        ServerLimits(**{name: value})
