import pytest

from privacyrestore.api_errors import InvalidField
from privacyrestore.api_schema import chat_request, completion_request

SECRET = "finding-07"
USER = {"role": "user", "content": "hello"}


def chat(**fields):
    return {"messages": [USER], **fields}


def test_every_field_that_is_taken_arrives():
    asked = chat_request(
        chat(
            model="m", max_completion_tokens=7, temperature=0, top_p=0.5, seed=-1, stop=["a", "b"],
            stream=True, stream_options={"include_usage": True}, privacy_restore={"bank": "x"},
        )
    )  # fmt: skip
    assert (asked.model, asked.max_tokens, asked.temperature, asked.top_p) == ("m", 7, 0.0, 0.5)
    assert (asked.seed, asked.stop, asked.stream) == ((1 << 63) - 1, ("a", "b"), True)
    assert asked.include_usage
    assert asked.restore == {"bank": "x"}
    assert asked.prompt == [USER]


def test_what_is_left_out_is_as_in_the_api_of_openai():
    asked = chat_request(chat())
    assert (asked.temperature, asked.top_p, asked.max_tokens, asked.stop) == (1.0, 1.0, None, ())
    assert asked.restore is None
    assert not asked.stream
    assert completion_request({"prompt": "a"}).usual_tokens == 16


def test_nothing_of_a_request_is_in_its_repr():
    asked = chat_request(chat(messages=[{**USER, "content": SECRET}], stop=SECRET, model=SECRET))
    assert SECRET not in repr(asked)


@pytest.mark.parametrize(
    "harmless",
    [
        {"user": "u"}, {"metadata": {"a": "b"}}, {"safety_identifier": "u"}, {"store": False},
        {"parallel_tool_calls": True}, {"prompt_cache_key": "k"}, {"service_tier": "auto"},
        {"frequency_penalty": 0}, {"presence_penalty": 0.0}, {"logit_bias": {}}, {"n": 1},
        {"logprobs": False}, {"top_logprobs": 0}, {"tools": []}, {"tool_choice": "auto"},
        {"response_format": {"type": "text"}}, {"modalities": ["text"]}, {"seed": None},
        {"max_tokens": None}, {"stop": None}, {"stop": []}, {"temperature": None}, {"tools": None},
        {"stream_options": None}, {"stream": None}, {"max_tokens": 5, "max_completion_tokens": 5},
    ],
)  # fmt: skip
def test_what_changes_nothing_is_taken(harmless):
    asked = chat_request(chat(**harmless))
    assert asked.prompt == [USER]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({SECRET: 1}, None),
        ({"prompt": SECRET}, None),
        ({"functions": [SECRET]}, "functions"),
        ({"web_search_options": None}, "web_search_options"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": SECRET}, "messages"),
        ({"messages": [SECRET]}, "messages[0]"),
        ({"messages": [USER, {"role": "user"}]}, "messages[1]"),
        ({"messages": [{**USER, "role": SECRET}]}, "messages[0].role"),
        ({"messages": [{**USER, "role": []}]}, "messages[0].role"),
        ({"messages": [{**USER, "role": "tool"}]}, "messages[0].role"),
        ({"messages": [{**USER, "content": None}]}, "messages[0].content"),
        ({"messages": [{**USER, "content": []}]}, "messages[0].content"),
        ({"messages": [{**USER, "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{**USER, "content": [{"type": "text", "text": 1}]}]}, "messages[0].content"),
        ({"messages": [{**USER, "name": SECRET}]}, "messages[0]"),
        ({"messages": [{**USER, SECRET: None}]}, "messages[0]"),
        ({"messages": [{**USER, "tool_calls": [{}]}]}, "messages[0]"),
        ({"model": 1}, "model"),
        ({"n": 2}, "n"), ({"n": True}, "n"), ({"n": 1.0}, "n"),
        ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"), ({"max_tokens": 10**400}, "max_tokens"),
        ({"max_completion_tokens": "3"}, "max_completion_tokens"),
        ({"max_tokens": 4, "max_completion_tokens": 5}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"), ({"temperature": 2.1}, "temperature"),
        ({"temperature": 10**400}, "temperature"), ({"temperature": False}, "temperature"),
        ({"temperature": SECRET}, "temperature"),
        ({"top_p": 0}, "top_p"), ({"top_p": 1.01}, "top_p"),
        ({"seed": 1 << 63}, "seed"), ({"seed": 0.5}, "seed"),
        ({"stop": ""}, "stop"), ({"stop": ["a"] * 5}, "stop"), ({"stop": [1]}, "stop"),
        ({"stop": "a" * 201}, "stop"), ({"stop": {}}, "stop"),
        ({"stream": "true"}, "stream"), ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {SECRET: True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options"),
        ({"frequency_penalty": 0.1}, "frequency_penalty"),
        ({"presence_penalty": False}, "presence_penalty"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"logprobs": True}, "logprobs"), ({"logprobs": 0}, "logprobs"),
        ({"tools": [{}]}, "tools"), ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"store": True}, "store"), ({"user": 3}, "user"), ({"metadata": {"a": 1}}, "metadata"),
        ({"privacy_restore": None}, "privacy_restore"),
        ({"privacy_restore": [SECRET]}, "privacy_restore"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_the_name_of_its_field(fields, param):
    with pytest.raises(InvalidField) as caught:
        chat_request(chat(**fields))
    assert caught.value.param == param
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("prompt", ["ab", ["ab"], [97, 98], [[97, 98]]])
def test_the_forms_of_one_prompt(prompt):
    assert completion_request({"prompt": prompt}).prompt in ("ab", [97, 98])


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ["a", "b"]}, {"prompt": []}, {"prompt": [[]]}, {"prompt": [True]},
        {"prompt": [1.0]}, {"prompt": {}}, {"prompt": [["a"]]}, {}, {"prompt": "a", "best_of": 2},
        {"prompt": "a", "echo": True}, {"prompt": "a", "suffix": SECRET},
        {"prompt": "a", "logprobs": 1}, {"prompt": "a", "messages": [USER]},
        {"prompt": "a", "max_completion_tokens": 3},
    ],
)  # fmt: skip
def test_what_a_completion_cannot_be_asked(fields):
    with pytest.raises(InvalidField) as caught:
        completion_request(fields)
    assert SECRET not in str(caught.value)


def test_messages_are_taken_as_apps_send_them():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    answered = {"role": "assistant", "content": "c", "refusal": None, "annotations": [],
                "audio": None, "function_call": None, "tool_calls": None}  # fmt: skip
    found = chat_request(
        chat(messages=[{"role": "developer", "content": parts}, answered, USER])
    ).prompt
    assert found == [
        {"role": "system", "content": "a\nb"},
        {"role": "assistant", "content": "c"},
        USER,
    ]
