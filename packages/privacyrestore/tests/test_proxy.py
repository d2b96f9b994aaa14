import asyncio
import contextlib
import json
import logging
import time

import httpx
import openai
import pytest

from lipogram.errors import InvalidSetting
from lipogram.llm.tiny import tiny_random
from privacyrestore.payload import FIELD
from privacyrestore.proxy import create_proxy, create_proxy_server
from privacyrestore.proxy_guard import host_name, is_loopback

from .asking import corpus_bank, make_client, proxied
from .canned_server import MODELS, USAGE, WORDS, canned_server
from .leak_scanner import LeakScanner
from .span_corpus import SpanCorpus
from .wire_recorder import Answer, CutResponse, Garble, WireRecorder

CORPUS = SpanCorpus(5, spans=6)
SPAN = CORPUS.vocabulary[0]
SCANNER = LeakScanner(CORPUS.markers)
TEXT = f"I am 41. Since May there is {SPAN}. What is it?"
ASKED = [{"role": "user", "content": TEXT}]
SAID = "".join(WORDS)


@pytest.fixture(scope="module")
def bank():
    return corpus_bank(CORPUS, tiny_random(layers=2).model)


@pytest.fixture(scope="module")
def shared(bank, tmp_path_factory):
    """A server, a client of it and the client's proxy."""
    with canned_server() as server:
        client = make_client(bank, tmp_path_factory.mktemp("shared"), server.url)
        client.check_server()
        with client.transport, proxied(client) as url:
            yield server, client, url


@pytest.fixture
def server(shared):
    server, _, _ = shared
    server.reset()
    return server


@pytest.fixture
def client(shared):
    return shared[1]


@pytest.fixture
def proxy(shared):
    return shared[2]


@pytest.fixture
def http(proxy):
    with httpx.Client(base_url=proxy, trust_env=False, timeout=20) as http:
        yield http


@pytest.fixture
def app(proxy):
    with app_of(proxy) as app:
        yield app


def app_of(url, **settings):
    """An app that knows nothing of the proxy: the openai client with another base URL."""
    http = openai.DefaultHttpxClient(trust_env=False)
    settings = {"api_key": "app-key", "max_retries": 0, "timeout": 20} | settings
    return openai.OpenAI(base_url=url, http_client=http, **settings)


def posts(server):
    return [(path, headers, body) for path, headers, body in server.heard if body is not None]


def releases(client):
    return len(client.ledger.releases(client.subject))


def body(**more):
    return {"model": "canned", "messages": ASKED} | more


# ---------------------------------------------------------------- what passes


def test_an_app_changes_only_its_base_url(app, server):
    answer = app.chat.completions.create(
        model="canned", messages=ASKED, max_tokens=7, temperature=0.5, top_p=0.9, stop=["\n\n"],
        seed=3, n=1,
    )  # fmt: skip
    assert answer.choices[0].message.content == SAID
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.model_dump(exclude_unset=True) == USAGE
    assert (answer.object, answer.model, answer.id) == ("chat.completion", "canned", "canned-1")
    ((path, _, sent),) = posts(server)
    assert path == "/v1/chat/completions"
    assert {name: sent[name] for name in ("model", "max_tokens", "temperature", "top_p", "stop",
                                          "seed")} == {
        "model": "canned", "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "stop": ["\n\n"],
        "seed": 3,
    }  # fmt: skip
    assert set(sent[FIELD]) == {"bank", "mechanism", "meta"}
    assert "What is it?" in sent["messages"][0]["content"]
    assert not SCANNER.scan(json.dumps(sent).encode())


def test_a_stream_comes_back_event_by_event(app, server):
    stream = app.chat.completions.create(
        model="canned", messages=ASKED, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert [c.choices[0].delta.content or "" for c in chunks if c.choices] == [*WORDS, ""]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.model_dump(exclude_unset=True) == USAGE
    assert not SCANNER.scan(json.dumps(posts(server)[0][2]).encode())


def test_completions_pass_too_whole_and_streamed(app, server):
    whole = app.completions.create(model="canned", prompt=TEXT)
    assert (whole.choices[0].text, whole.object) == (SAID, "text_completion")
    assert whole.usage.model_dump(exclude_unset=True) == USAGE
    stream = app.completions.create(model="canned", prompt=[TEXT], stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == SAID
    assert [path for path, *_ in posts(server)] == ["/v1/completions"] * 2
    assert not SCANNER.scan(json.dumps([sent for *_, sent in posts(server)]).encode())


def test_models_are_asked_of_the_server_and_health_is_not(app, http, server):
    assert [model.id for model in app.models.list()] == ["canned"]
    assert http.get("/models").json() == MODELS
    before = len(server.heard)
    assert http.get(http.base_url.copy_with(path="/health")).json() == {"status": "ok"}
    assert len(server.heard) == before


def test_what_could_name_a_person_is_dropped_and_parts_of_text_are_joined(app, server):
    parts = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]
    app.chat.completions.create(
        model="canned",
        messages=[{"role": "developer", "content": parts}, *ASKED],
        frequency_penalty=0,
        presence_penalty=0.0,
        user=f"the one with {SPAN}",
        metadata={"finding": SPAN},
    )
    ((*_, sent),) = posts(server)
    assert sent["messages"][0]["content"] == "Be brief.\nBe kind."
    assert set(sent) == {"model", "messages", "stream", "stream_options", FIELD}
    assert not SCANNER.scan(json.dumps(sent).encode())


def test_nothing_of_the_apps_headers_is_sent_on(bank, server, tmp_path):
    client = make_client(bank, tmp_path, server.url, api_key="upstream-key")
    with client.transport, proxied(client) as url, app_of(url) as app:
        app.chat.completions.create(
            model="canned", messages=ASKED, extra_headers={"x-patient": SPAN, "cookie": "a=b"}
        )
    ((_, headers, _),) = posts(server)
    assert headers["Authorization"] == "Bearer upstream-key"
    assert set(headers) == {
        "Host", "Accept", "Accept-Encoding", "Connection", "User-Agent", "Authorization",
        "Content-Length", "Content-Type",
    }  # fmt: skip
    assert not SCANNER.scan(json.dumps(headers).encode())


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "wrong",
    [
        {"logit_bias": {"5": 1}}, {"tools": [{"type": "function"}]}, {"functions": []},
        {"never": 1}, {FIELD: {"bank": "0" * 64}}, {FIELD: None}, {"n": 2}, {"n": True},
        {"max_tokens": 0}, {"max_tokens": 1.5}, {"max_tokens": "7"}, {"temperature": -1},
        {"temperature": True}, {"top_p": 2}, {"seed": 0.5}, {"stop": ""}, {"stop": ["a"] * 5},
        {"stop": 3}, {"stream": "yes"}, {"stream_options": {}}, {"user": 5},
        {"stream": True, "stream_options": {"echo": True}}, {"model": 5},
        {"messages": []}, {"messages": "why?"}, {"messages": [{"role": "user"}]},
        {"messages": [{"role": "tool", "content": "why?"}]},
        {"messages": [{"role": "user", "content": "why?", "name": "somebody"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {"messages": [{"role": "user", "content": 5}]}, {"presence_penalty": 0.5},
        {"stop": [SPAN]}, {"stop": f"is {SPAN.upper()}"}, {"messages": [SPAN]},
        {SPAN: 1}, {"model": SPAN}, {"stream": SPAN},
    ],
    ids=str,
)  # fmt: skip
def test_other_fields_and_values_are_refused_and_nothing_is_sent(http, client, server, wrong):
    before = releases(client)
    answer = http.post("/chat/completions", json=body(**wrong))
    assert answer.status_code in (400, 422)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert not SCANNER.scan(answer.content)
    assert not posts(server)
    assert releases(client) == before


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"5", b'{"a"', b"\xff\xfe", b'{"messages": NaN}', b"[" * 100_000,
        b'{"messages": [], "messages": []}',
        json.dumps(body()).replace('"role"', '"role": "user", "role"').encode(),
    ],
    ids=lambda content: repr(content[:20]),
)  # fmt: skip
def test_bodies_that_are_no_object_are_refused(http, server, content):
    answer = http.post(
        "/chat/completions", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_request"
    assert not server.heard


def test_large_bodies_other_types_and_other_paths_are_refused(http, server):
    large = json.dumps(body(stop="x" * (5 << 20))).encode()
    kind = {"content-type": "application/json"}
    assert http.post("/chat/completions", content=large, headers=kind).status_code == 413
    form = {"content-type": "text/plain"}
    assert http.post("/chat/completions", content=b"{}", headers=form).status_code == 415
    for path, method, status in (("/embeddings", "POST", 404), ("/models", "POST", 405)):
        answer = http.request(method, path, json={SPAN: 1})
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == "not_found"
    assert not server.heard


# ---------------------------------------------------------------- errors


def test_a_spent_budget_is_402_which_the_openai_client_does_not_repeat(bank, server, tmp_path):
    client = make_client(bank, tmp_path, server.url, budget=1.0)
    with client.transport, proxied(client) as url, app_of(url, max_retries=2) as app:
        with pytest.raises(openai.APIStatusError) as caught:
            app.chat.completions.create(model="canned", messages=ASKED)
        assert caught.value.status_code == 402
        assert caught.value.code == "budget_spent"
        assert not SCANNER.scan(caught.value.response.content)
    assert not posts(server)


def test_a_span_that_remains_is_422(bank, server, tmp_path):
    client = make_client(bank, tmp_path, server.url)
    parts = [{"type": "text", "text": f"I have {SPAN[:4]}"}, {"type": "text", "text": SPAN[4:]}]
    with client.transport, proxied(client) as url, app_of(url) as app:
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            app.chat.completions.create(
                model="canned", messages=[{"role": "user", "content": parts}]
            )
        assert caught.value.code in ("span_remains", "unsendable")
        assert not SCANNER.scan(caught.value.response.content)
    assert not posts(server)
    assert releases(client) == 0


@pytest.mark.parametrize("stream", [False, True])
def test_an_unreachable_server_is_502(bank, tmp_path, stream):
    with canned_server() as gone:
        url = gone.url
    client = make_client(bank, tmp_path, url, retries=1)
    with client.transport, proxied(client) as proxy, app_of(proxy) as app:
        with pytest.raises(openai.InternalServerError) as caught:
            app.chat.completions.create(model="canned", messages=ASKED, stream=stream)
        assert (caught.value.status_code, caught.value.code) == (502, "unreachable")
        assert not SCANNER.scan(caught.value.response.content)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 401, 404, 413, 418, 500, 503])
def test_the_servers_status_is_passed_without_its_words(
    http, server, client, status, stream, monkeypatch
):
    monkeypatch.setattr(client.transport, "retries", 0)
    server.status = status
    answer = http.post("/chat/completions", json=body(stream=stream))
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == "upstream_refused"
    assert "refused:" not in answer.json()["error"]["message"]
    assert "What is it?" not in answer.text


def test_an_answer_that_breaks_off_is_an_error_whole_and_streamed(bank, server, tmp_path):
    server.pause = 0.01
    with WireRecorder(server.server_address) as tap:
        client = make_client(bank, tmp_path, tap.url, retries=0)
        client.check_server()
        with client.transport, proxied(client) as url, app_of(url) as app:
            for fault in (CutResponse(700), Garble(700)):
                tap.inject(fault, fault)
                with pytest.raises(openai.InternalServerError) as whole:
                    app.chat.completions.create(model="canned", messages=ASKED)
                assert (whole.value.status_code, whole.value.code) == (502, "unreachable")
                heard = []
                chunks = app.chat.completions.create(model="canned", messages=ASKED, stream=True)
                with pytest.raises(openai.APIError) as streamed:
                    heard.extend(chunk.choices[0].delta.content for chunk in chunks)
                assert heard[:2] == list(WORDS[:2])
                assert streamed.value.code == "unreachable"


def test_an_overloaded_server_is_asked_again_and_the_app_sees_nothing_of_it(bank, server, tmp_path):
    with WireRecorder(server.server_address) as tap:
        client = make_client(bank, tmp_path, tap.url)
        client.check_server()
        with client.transport, proxied(client) as url, app_of(url) as app:
            tap.inject(Answer(503), Answer(429))
            answer = app.chat.completions.create(model="canned", messages=ASKED)
    assert answer.choices[0].message.content == SAID
    bodies = {exchange.body for exchange in tap.exchanges if exchange.body}
    assert len(bodies) == 1
    assert releases(client) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_what_nobody_expected_says_nothing_of_the_request(
    http, client, stream, monkeypatch, caplog
):
    def fails(*_, **__):
        raise KeyError(TEXT)

    monkeypatch.setattr(client, "prepare_chat", fails)
    with caplog.at_level(logging.DEBUG):
        answer = http.post("/chat/completions", json=body(stream=stream))
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "proxy_failed"
    assert not SCANNER.scan(answer.content)
    assert "KeyError" in caplog.text
    assert not SCANNER.scan(caplog.text.encode())


def test_what_nobody_expected_in_the_middle_of_a_stream_says_nothing_either(
    http, client, monkeypatch, caplog
):
    def fails(_):
        yield {"choices": []}
        raise KeyError(TEXT)

    monkeypatch.setattr(client, "events", fails)
    with caplog.at_level(logging.DEBUG):
        answer = http.post("/chat/completions", json=body(stream=True))
    *_, last = answer.text.strip().split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "proxy_failed"
    assert "KeyError" in caplog.text
    assert not SCANNER.scan(answer.content + caplog.text.encode())


# ---------------------------------------------------------------- who may use it


def test_other_machines_are_never_served(client):
    for host in ("0.0.0.0", "::", "192.0.2.7", "example.invalid", ""):
        with pytest.raises(InvalidSetting, match="from other machines"):
            create_proxy_server(create_proxy(client), host=host)


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_caller_from_elsewhere_is_refused_even_where_the_app_is_served_otherwise(client, side):
    scope = {
        "type": "http", "method": "GET", "path": "/health", "raw_path": b"/health",
        "query_string": b"", "headers": [(b"host", b"127.0.0.1")], "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 80),
    }  # fmt: skip
    assert asgi_status(create_proxy(client), scope) == 200
    assert asgi_status(create_proxy(client), scope | {side: ("192.0.2.7", 5)}) == 403


def asgi_status(app, scope):
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"]


def test_a_port_that_is_taken_is_named(client, proxy):
    with pytest.raises(InvalidSetting, match="cannot be had"):
        create_proxy_server(create_proxy(client), port=httpx.URL(proxy).port)


@pytest.mark.parametrize("token", ["", "two words", "line\n", "é"])
def test_tokens_that_no_header_can_hold_are_refused(client, token):
    with pytest.raises(InvalidSetting, match="visible ASCII"):
        create_proxy(client, local_token=token)


def test_the_token_is_asked_of_everybody_but_health(client, server):
    with proxied(client, local_token="s3same") as url, httpx.Client(trust_env=False) as http:
        for headers in ({}, {"authorization": "Bearer s3sam"}, {"authorization": "s3same"},
                        {"authorization": "Bearer é".encode()}):  # fmt: skip
            answer = http.post(f"{url}/chat/completions", json=body(), headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "wrong_token")
            assert http.get(f"{url}/models", headers=headers).status_code == 401
        assert http.get(url.replace("/v1", "/health")).status_code == 200
        assert not server.heard
        with app_of(url, api_key="s3same") as app:
            app.chat.completions.create(model="canned", messages=ASKED)
    assert "s3same" not in json.dumps(server.heard)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "192.0.2.7", ""]
)
def test_a_name_that_points_here_from_elsewhere_is_refused(http, server, host):
    for method, path in (("POST", "/chat/completions"), ("GET", "/models")):
        answer = http.request(method, path, json=body(), headers={"host": host})
        assert (answer.status_code, answer.json()["error"]["code"]) == (421, "wrong_host")
    assert not server.heard


def test_web_pages_are_refused_and_no_cors_header_is_ever_sent(http, server, proxy):
    for origin in ("https://evil.example", proxy.removesuffix("/v1"), "null"):
        answer = http.post("/chat/completions", json=body(), headers={"origin": origin})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "web_page")
        ahead = http.options("/chat/completions", headers={"origin": origin})
        assert ahead.status_code == 403
    assert not server.heard
    answer = http.post("/chat/completions", json=body())
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("LocalHost:80", "localhost"),
        ("[::1]:5", "::1"),
        ("[::1]", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("a:b", "a:b"),
    ],
)
def test_host_names_are_read_without_port_and_brackets(header, name):
    assert host_name(header) == name
    assert is_loopback(name) == (name != "a:b")


# ---------------------------------------------------------------- hanging up


@pytest.mark.parametrize("stream", [False, True])
def test_an_app_that_hangs_up_ends_its_request_at_the_server(bank, server, tmp_path, stream):
    server.pause, server.words = 0.05, WORDS * 200
    with WireRecorder(server.server_address) as tap:
        client = make_client(bank, tmp_path, tap.url)
        client.check_server()
        with client.transport, proxied(client) as url, httpx.Client(trust_env=False) as http:
            hang_up(http, f"{url}/chat/completions", body(stream=stream))
            (exchange,) = [each for each in tap.exchanges if each.body]
            assert tap.await_client_left(exchange, 5)
            end = time.monotonic() + 5
            while not server.broken and time.monotonic() < end:
                time.sleep(0.01)
            assert server.broken == 1
            server.words = WORDS
            assert http.post(f"{url}/chat/completions", json=body()).status_code == 200


def hang_up(http, url, content):
    """Send a request, and close its connection after the first line, or 0.4 s."""
    with (
        contextlib.suppress(httpx.ReadTimeout),
        http.stream("POST", url, json=content, timeout=0.4) as answer,
    ):
        next(answer.iter_lines())
