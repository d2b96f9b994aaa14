"""The client that people have, against our server; only its base URL is another."""

import threading

import openai
import pytest

from privacyrestore.server import Limits

from .live_server import NAME, TEXT, completion, live_server

KEY = "test-key"
MESSAGES = [{"role": "user", "content": "mild cough"}]
GREEDY = {"model": NAME, "temperature": 0, "max_tokens": 10}


@pytest.fixture(scope="module")
def server():
    with live_server(api_keys=(KEY,), limits=Limits(body_bytes=50_000)) as running:
        yield running


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as opened:
        yield opened


def test_chat(server, client):
    plain = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    extra = {"privacy_restore": server.field(2)}
    restored = client.chat.completions.create(messages=MESSAGES, extra_body=extra, **GREEDY)
    assert plain.choices[0].message.content != restored.choices[0].message.content
    assert plain.usage.completion_tokens == 10
    assert plain.choices[0].finish_reason == "length"
    turn = [*MESSAGES, plain.choices[0].message, {"role": "user", "content": "more"}]
    again = client.chat.completions.create(messages=turn, **GREEDY)
    assert again.usage.prompt_tokens > plain.usage.prompt_tokens


def test_chat_in_pieces(server, client):
    extra = {"privacy_restore": server.field(2)}
    whole = client.chat.completions.create(messages=MESSAGES, extra_body=extra, **GREEDY)
    with client.chat.completions.create(
        messages=MESSAGES,
        extra_body=extra,
        stream=True,
        stream_options={"include_usage": True},
        **GREEDY,
    ) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage == whole.usage


def test_the_helper_for_streams(client):
    plain = client.chat.completions.create(messages=MESSAGES, **GREEDY).choices[0].message.content
    with client.chat.completions.stream(messages=MESSAGES, stop=plain[4:6], **GREEDY) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "stop"
    assert final.choices[0].message.content == plain[: plain.index(plain[4:6])]


def test_completions(client):
    whole = client.completions.create(prompt="mild cough", stop=["zzz"], **GREEDY)
    pieces = client.completions.create(prompt="mild cough", stream=True, **GREEDY)
    assert "".join(chunk.choices[0].text for chunk in pieces) == whole.choices[0].text


async def _with_the_async_client(url):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        stream = await client.chat.completions.create(messages=MESSAGES, stream=True, **GREEDY)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


def test_the_async_client(server, client):
    import asyncio

    text = asyncio.run(_with_the_async_client(server.url))
    whole = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    assert text == whole.choices[0].message.content


def test_models(client):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"temperature": 9}, openai.BadRequestError),
        ({"extra_body": {"unheard_of": 1}}, openai.BadRequestError),
        ({"model": "other"}, openai.NotFoundError),
        ({"extra_body": {"privacy_restore": {"bank": "0" * 64, "mechanism": "none", "meta": ""}}},
         openai.ConflictError),
        ({"messages": [{"role": "user", "content": "a" * 60_000}]}, openai.APIStatusError),
        ({"messages": [{"role": "user", "content": "a" * 2000}]}, openai.BadRequestError),
    ],
)  # fmt: skip
def test_errors_are_those_that_the_client_knows(client, change, error):
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"messages": MESSAGES, **GREEDY, **change})
    assert caught.value.body["message"]
    assert caught.value.request_id.startswith("req_")


def test_a_wrong_key(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="other", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_a_full_queue_is_waited_for():
    options = {"max_rows": 1, "max_queue": 0}
    with live_server(engine_options=options) as server, server.slow():
        begun = threading.Event()

        def busy():
            body = completion("ab", max_tokens=50, stream=True)
            with server.http.stream("POST", TEXT, json=body) as answer:
                for _ in answer.iter_raw():
                    begun.set()

        thread = threading.Thread(target=busy)
        thread.start()
        assert begun.wait(10)
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=4) as client:
            hasty = client.with_options(max_retries=0)
            with pytest.raises(openai.RateLimitError):
                hasty.chat.completions.create(messages=MESSAGES, **GREEDY)
            assert client.chat.completions.create(messages=MESSAGES, **GREEDY).choices
        thread.join(10)


def test_a_stream_that_fails_raises():
    with live_server(engine_options={"timeout": 0.1}) as server, server.slow():
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
            stream = client.completions.create(
                prompt="ab", stream=True, **{**GREEDY, "max_tokens": 400}
            )
            with pytest.raises(openai.APIError, match="not ready"):
                list(stream)
