"""What the server answers: shapes, streams, vectors, and the status of each refusal."""

import base64
import json

import pytest
import torch

from privacyrestore.errors import BankMismatch
from privacyrestore.restoration_bank import RestorationBank
from privacyrestore.server import Limits, create_app
from privacyrestore.transport import Http

from .live_server import (
    CHAT,
    NAME,
    POISON,
    TEXT,
    chat,
    completion,
    events,
    live_server,
    poisoned_model,
    streamed_text,
    within,
)

SECRET = "finding-07"


@pytest.fixture(scope="module")
def server():
    with live_server() as running:
        yield running


def said(answer):
    choice = answer.json()["choices"][0]
    return choice["text"] if "text" in choice else choice["message"]["content"]


def is_error(answer, status, code=None, param=None):
    """Whether an answer is that error, in OpenAI's shape, and repeats nothing."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert SECRET not in answer.text
    assert code is None or error["code"] == code
    assert param is None or error["param"] == param
    return True


def test_a_chat_completion_has_the_shape_of_openai(server):
    answer = server.post(CHAT, chat("mild cough"))
    assert answer.status_code == 200
    body = answer.json()
    [choice] = body["choices"]
    assert body["object"] == "chat.completion"
    assert body["model"] == NAME
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 12
    assert body["usage"]["total_tokens"] == 12 + body["usage"]["prompt_tokens"]
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat("ab")), (TEXT, completion("ab"))])
def test_a_stream_says_what_the_whole_says(server, path, body):
    body = {**body, "privacy_restore": server.field(3)}
    whole = server.post(path, body)
    told = server.post(path, {**body, "stream": True, "stream_options": {"include_usage": True}})
    assert told.headers["content-type"].startswith("text/event-stream")
    found, done = events(told)
    assert done
    assert streamed_text(found) == said(whole)
    assert found[-1]["usage"] == whole.json()["usage"]
    assert found[-1]["choices"] == []
    assert all(event["usage"] is None for event in found[:-1])
    assert found[-2]["choices"][0]["finish_reason"] == "length"
    assert len({event["id"] for event in found}) == 1


def test_what_a_row_says_is_what_the_model_says_with_its_vector(server):
    prompt, meta = (
        "mild cough",
        torch.randn(server.bank.n, generator=torch.Generator().manual_seed(5)),
    )
    meta = (meta / meta.norm()).float()
    field = server.field(1, "full") | {
        "meta": base64.b64encode(meta.numpy().astype("<f4").tobytes()).decode()
    }
    steered = server.engine.steered
    ids = torch.tensor([steered.tokenizer(prompt)["input_ids"]])
    texts = []
    for row in (meta, None):
        out = steered.generate(ids, meta=[row], max_new_tokens=12, do_sample=False)
        texts.append(steered.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    assert said(server.post(TEXT, completion(prompt, privacy_restore=field))) == texts[0]
    assert said(server.post(TEXT, completion(prompt))) == texts[1]
    assert texts[0] != texts[1]


def test_subspace_and_full_messages_of_one_vector_say_the_same(server):
    bank = server.bank
    coordinates = torch.ones(bank.rank) / bank.rank**0.5
    full = bank.expand(coordinates).float()
    texts = [
        said(server.post(TEXT, completion("ab", privacy_restore={
            "bank": bank.sha256, "mechanism": mechanism,
            "meta": base64.b64encode(numbers.numpy().astype("<f4").tobytes()).decode(),
        })))
        for mechanism, numbers in (("subspace", coordinates), ("full", full), ("none", full))
    ]  # fmt: skip
    assert len(set(texts)) == 1
    assert texts[0] != said(server.post(TEXT, completion("ab")))


def test_stop_seed_and_length_hold(server):
    text = said(server.post(TEXT, completion("ab", max_tokens=30)))
    stop = text[8:11]
    cut = server.post(TEXT, completion("ab", max_tokens=30, stop=[stop, "never"]))
    assert said(cut) == text[: text.index(stop)]
    assert cut.json()["choices"][0]["finish_reason"] == "stop"
    drawn = [
        said(server.post(TEXT, completion("ab", temperature=1, top_p=0.9, seed=seed)))
        for seed in (7, 7, 8)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_ids_are_a_prompt_too(server):
    ids = server.engine.steered.tokenizer("mild cough")["input_ids"]
    assert said(server.post(TEXT, completion(ids))) == said(
        server.post(TEXT, completion("mild cough"))
    )
    assert is_error(server.post(TEXT, completion([10**9])), 400)
    assert is_error(server.post(TEXT, completion([-1])), 400)
    assert is_error(server.post(TEXT, completion("")), 400)


def test_no_number_of_tokens_means_as_many_as_there_is_room_for(server):
    for n_prompt, usual in ((3, 16), (505, 7)):
        body = completion([97] * n_prompt)
        del body["max_tokens"]
        assert server.post(TEXT, body).json()["usage"]["completion_tokens"] <= usual
    body = chat("a" * 480)
    del body["max_tokens"]
    assert server.post(CHAT, body).status_code == 200
    assert is_error(server.post(TEXT, completion([97] * 512)), 400, "context_length_exceeded")


# ---------------------------------------------------------------- refusals


def test_a_field_for_another_bank_is_a_conflict(server):
    body = chat(SECRET, privacy_restore=server.field(1) | {"bank": "0" * 64})
    assert is_error(server.post(CHAT, body), 409, "bank_mismatch", "privacy_restore")
    assert "0000" not in server.post(CHAT, body).text


def numbers(*values, n=None):
    return base64.b64encode(torch.tensor(values).repeat(n or 1).numpy().tobytes()).decode()


@pytest.mark.parametrize(
    "change",
    [
        {"meta": "%%" + SECRET}, {"meta": ""}, {"meta": numbers(1.0)}, {"meta": 7},
        {"meta": numbers(float("nan"), n=5)}, {"meta": numbers(float("inf"), n=5)},
        {"meta": numbers(1e30, n=5)}, {"meta": numbers(1.0, n=6)},
        {"meta": "é"}, {"meta": numbers(0.0, n=5) + "\n"}, {"mechanism": SECRET},
        {"mechanism": "full"}, {"mechanism": None}, {"bank": SECRET}, {"bank": None},
        {SECRET: 1}, {"ε": 1},
    ],
)  # fmt: skip
def test_a_message_of_another_shape_is_refused(server, change):
    assert server.bank.rank == 5
    before = server.engine.stats().accepted
    body = chat("ab", privacy_restore=server.field(1) | change)
    assert is_error(server.post(CHAT, body), 400, "invalid_payload", "privacy_restore")
    assert server.engine.stats().accepted == before


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (chat("ab") | {SECRET: SECRET}, None),
        (chat("ab", n=2), "n"),
        (chat("ab", max_tokens=5000), "max_tokens"),
        (chat("ab", temperature=SECRET), "temperature"),
        (json.dumps(chat("ab"))[:-1].encode() + b', "n": 1, "n": 1}', None),
        (json.dumps(chat("ab"))[:-1].encode() + b', "seed": ' + b"[" * 9999, None),
        (SECRET.encode(), None),
        (json.dumps(chat(SECRET)).encode("utf-16"), None),
        (b"", None),
    ],
)
def test_what_is_no_request_is_refused(server, body, param):
    assert is_error(server.post(CHAT, body), 400, "invalid_request", param)


def test_a_prompt_that_is_too_long_is_refused(server):
    long = chat(SECRET * 60)
    assert is_error(server.post(CHAT, long), 400, "context_length_exceeded")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CHAT, 405), ("PUT", TEXT, 405), ("POST", "/v1/models", 405),
        ("OPTIONS", CHAT, 405), ("DELETE", "/health", 405), ("GET", f"/v1/{SECRET}", 404),
        ("GET", "/", 404), ("GET", "/docs", 404), ("GET", "/openapi.json", 404),
        ("POST", f"{CHAT}/", 404), ("GET", f"/v1/models/{SECRET}", 404),
        ("GET", f"/v1/privacy/banks/{SECRET}", 404),
    ],
)  # fmt: skip
def test_other_addresses_and_methods(server, method, path, status):
    assert is_error(server.http.request(method, path), status)


def test_another_model_is_not_found(server):
    assert is_error(server.post(CHAT, chat("ab", model=SECRET)), 404, "model_not_found", "model")
    unnamed = chat("ab")
    del unnamed["model"]
    assert server.post(CHAT, unnamed).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_a_web_page_could_send_is_refused(server, kind):
    answer = server.post(CHAT, chat("ab"), **{"content-type": kind})
    assert is_error(answer, 415)


def test_a_compressed_body_is_refused(server):
    assert is_error(server.post(CHAT, b"\x1f\x8b", **{"content-encoding": "gzip"}), 415)


def test_a_key_is_asked_for_everywhere_but_at_health():
    with live_server(api_keys=("right-key", "other-key")) as server:
        assert server.post(CHAT, chat("ab")).status_code == 200
        assert server.post(CHAT, chat("ab"), authorization="bearer other-key").status_code == 200
        for wrong in ("", "Bearer", "Bearer wrong", "Basic right-key", "right-key",
                      "Bearer right-key2", "Bearer right-ke"):  # fmt: skip
            answer = server.post(CHAT, chat(SECRET), authorization=wrong)
            assert is_error(answer, 401, "invalid_api_key")
            for path in ("/v1/models", "/metrics", "/v1/privacy/banks", "/v1/nothing"):
                assert server.http.get(path, headers={"authorization": wrong}).status_code == 401
            assert server.http.get("/health", headers={"authorization": wrong}).status_code == 200


def test_a_full_queue_says_when_to_come_back():
    options = {"max_rows": 1, "max_queue": 0}
    with live_server(engine_options=options) as server, server.slow():
        long = chat("ab", stream=True, max_tokens=400)
        with server.http.stream("POST", CHAT, json=long) as busy:
            pieces = busy.iter_raw()  # kept: httpx hangs up when it is collected
            next(pieces)
            answer = server.post(CHAT, chat(SECRET))
            assert is_error(answer, 429, "overloaded")
            assert int(answer.headers["retry-after"]) >= 1
            streamed = server.post(CHAT, chat(SECRET, stream=True))
            assert is_error(streamed, 429, "overloaded")
        assert server.idle()
        assert server.post(CHAT, chat("ab", max_tokens=1)).status_code == 200


def test_an_engine_that_is_closed_is_unavailable():
    with live_server() as server:
        assert server.http.get("/health").status_code == 200
        server.engine.close()
        assert is_error(server.post(CHAT, chat(SECRET)), 503, "unavailable")
        assert is_error(server.http.get("/health"), 503)
        assert server.http.get("/metrics").status_code == 200


def test_an_answer_that_takes_too_long_is_ended():
    with live_server(engine_options={"timeout": 0.1}) as server, server.slow():
        assert is_error(server.post(CHAT, chat("ab", max_tokens=400)), 504, "timeout")
        found, done = events(server.post(CHAT, chat("ab", max_tokens=400, stream=True)))
        assert not done
        assert found[-1]["error"]["code"] == "timeout"


def test_a_row_at_which_the_model_fails_is_told_so_and_nothing_of_it(caplog):
    with live_server(model=poisoned_model()) as server:
        alone = said(server.post(TEXT, completion("ab", max_tokens=60)))
        with server.http.stream(
            "POST", TEXT, json=completion("ab", max_tokens=60, stream=True)
        ) as ok:
            assert is_error(server.post(TEXT, completion(POISON + SECRET)), 500, "model_failed")
            found, done = events(server.post(TEXT, completion(POISON + SECRET, stream=True)))
            assert not done
            assert found[-1]["error"]["code"] == "model_failed"
            ok.read()
            assert streamed_text(events(ok)[0]) == alone
        assert server.http.get("/health").status_code == 200
    assert SECRET not in caplog.text


def test_a_vector_that_makes_numbers_overflow_fails_alone():
    with live_server(limits=Limits(max_norm=1e42)) as server:
        alone = said(server.post(TEXT, completion("ab", max_tokens=60)))
        with server.http.stream(
            "POST", TEXT, json=completion("ab", max_tokens=60, stream=True)
        ) as ok:
            field = server.field(1, "full") | {"meta": numbers(3e38, n=server.bank.n)}
            bad = completion("ab", privacy_restore=field)
            assert is_error(server.post(TEXT, bad), 400, "invalid_payload")
            ok.read()
        assert streamed_text(events(ok)[0]) == alone


# ---------------------------------------------------------------- what is public


def test_the_bank_is_given_whole_and_only_whole(server):
    sha256 = server.bank.sha256
    [listed] = server.http.get("/v1/privacy/banks").json()["data"]
    assert listed["sha256"] == sha256
    assert (listed["n"], listed["rank"]) == (server.bank.n, server.bank.rank)
    whole = server.http.get(f"/v1/privacy/banks/{sha256}")
    assert len(whole.content) == listed["bytes"]
    bank = RestorationBank.from_bytes(whole.content, expect_sha256=sha256)
    torch.testing.assert_close(bank.vectors, server.bank.vectors, rtol=0, atol=0)
    part = server.http.get(f"/v1/privacy/banks/{sha256}", headers={"range": "bytes=0-9"})
    assert part.status_code == 200
    assert part.content == whole.content


def test_our_own_client_side_loads_the_bank(server):
    with Http(server.url) as http:
        assert http.holds(server.bank.sha256)
        assert not http.holds("0" * 64)
        assert http.bank(server.bank.sha256).sha256 == server.bank.sha256
        with pytest.raises(BankMismatch):
            http.bank("0" * 64)
        answer = http.post(CHAT, json.dumps(chat("ab", privacy_restore=server.field(1))).encode())
        assert answer["choices"][0]["message"]["content"]


def test_models(server):
    [model] = server.http.get("/v1/models").json()["data"]
    assert model["id"] == NAME
    assert server.http.get(f"/v1/models/{NAME}").json() == model


def test_metrics_count_and_name_nothing(server):
    server.post(CHAT, chat(SECRET, privacy_restore=server.field(1)))
    server.http.get(f"/v1/{SECRET}")
    answer = server.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert SECRET not in answer.text
    assert server.bank.sha256 not in answer.text
    assert f'http_requests_total{{route="{CHAT}",status="200"}}' in answer.text
    assert 'http_requests_total{route="other",status="404"}' in answer.text
    assert 'rows_total{kind="restored"}' in answer.text


# ---------------------------------------------------------------- logs


def everything_with(secret, server):
    """Requests of all kinds that hold a text, in what the server may log of them."""
    field = server.field(11)
    server.post(CHAT, chat(secret, privacy_restore=field))
    server.post(TEXT, completion(secret, stream=True, privacy_restore=field))
    server.post(CHAT, chat(secret, privacy_restore=field | {"bank": "0" * 64}))
    server.post(CHAT, chat(secret, privacy_restore=field | {"meta": field["meta"] + "A"}))
    server.post(CHAT, chat(secret, max_tokens=secret))
    server.post(CHAT, chat(secret) | {secret: secret})
    server.post(CHAT, f'{{"{secret}'.encode())
    server.post(TEXT, completion(POISON + secret))
    server.post(f"/v1/{secret}?{secret}", chat(secret))
    server.http.get(f"/v1/models?{secret}")
    with server.connect() as connection:
        connection.sendall(f"GET /{secret} HTTP/9\r\n\r\n".encode())
        connection.recv(1000)
    with server.slow(), server.connect() as connection:
        body = json.dumps(chat(secret, max_tokens=400, privacy_restore=field)).encode()
        connection.sendall(head(body) + body)
        assert within(lambda: server.engine.stats().running == 1)
    assert server.idle()
    return field["meta"]


def head(body, path=CHAT):
    return (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode()


def logged(caplog, capfd):
    """All that was logged or printed, but for what this test's own HTTP client logged."""
    out, err = capfd.readouterr()
    lines = [
        caplog.handler.format(record)
        for record in caplog.records
        if not record.name.startswith(("httpx", "httpcore"))
    ]
    return "\n".join([out, err, *lines])


def test_the_log_holds_no_prompt_and_no_vector(caplog, capfd):
    caplog.set_level(0)
    with live_server(model=poisoned_model()) as server:
        meta = everything_with(SECRET, server)
    text = logged(caplog, capfd)
    assert CHAT in text  # it does log
    assert SECRET not in text
    assert meta not in text


def test_the_log_holds_them_where_that_was_asked_for(caplog, capfd):
    caplog.set_level(0)
    with live_server(model=poisoned_model(), debug=True) as server:
        meta = everything_with(SECRET, server)
    text = logged(caplog, capfd)
    assert "debug: the prompts" in text
    assert SECRET in text
    assert meta in text


def test_a_failure_of_the_server_itself_says_nothing(server, caplog, monkeypatch):
    def fail(*_):
        raise RuntimeError(SECRET)

    api = server.server.config.app.state.api
    monkeypatch.setattr(type(api._reader), "read", fail)
    assert is_error(server.post(CHAT, chat(SECRET)), 500, "internal_error")
    assert "RuntimeError" in caplog.text
    assert SECRET not in caplog.text


def test_an_app_is_named_after_its_model(server):
    app = create_app(server.engine)
    assert app.state.api.model_name == "llama"
