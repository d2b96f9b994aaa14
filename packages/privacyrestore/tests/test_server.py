import pytest

from .live_server import CHAT, NAME, TEXT, chat, completion, events, live_server, streamed_text


@pytest.fixture(scope="module")
def server():
    with live_server() as running:
        yield running


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
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat("ab")), (TEXT, completion("ab"))])
def test_a_stream_says_what_the_whole_says(server, path, body):
    body = {**body, "privacy_restore": server.field(3)}
    whole = server.post(path, body).json()
    told = server.post(path, {**body, "stream": True, "stream_options": {"include_usage": True}})
    found, done = events(told)
    assert done
    choice = whole["choices"][0]
    assert streamed_text(found) == (
        choice["message"]["content"] if path == CHAT else choice["text"]
    )
    assert found[-1]["usage"] == whole["usage"]
    assert found[-1]["choices"] == []
    assert found[-2]["choices"][0]["finish_reason"] == choice["finish_reason"]
