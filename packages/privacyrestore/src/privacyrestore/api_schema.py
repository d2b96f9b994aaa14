"""The fields of OpenAI's API that this server takes, each checked by hand.

A field that is null counts as absent. Some fields are accepted and change nothing (`IGNORED`), some
only at the value at which they change nothing (`NEUTRAL`); all others are refused.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from privacyrestore.api_errors import InvalidField
from privacyrestore.payload import FIELD

ROLES = ("system", "developer", "user", "assistant")
MAX_STOPS, MAX_STOP_LETTERS = 4, 200
COMPLETION_TOKENS = 16
"""New tokens of a text completion that names no number, as in OpenAI's API."""

Check = tuple[Callable[[Any], bool], str]


@dataclass(frozen=True)
class Asked:
    """A request that passed the checks; its `repr` holds nothing of a person.

    Attributes:
        prompt: messages, each with role and content, a text, or token ids.
        model: the model's name, where it is given.
        max_tokens: new tokens, where it is given.
        usual_tokens: new tokens where there is room and no number is given; None for the server's.
        temperature, top_p, seed, stop: of the draws, as the engine takes them.
        stream: whether the answer is to come in pieces.
        include_usage: whether a stream ends with the number of tokens.
        restore: the value of `privacy_restore`; None for a plain row.
    """

    prompt: list[dict[str, str]] | str | list[int] = field(repr=False)
    model: str | None = field(default=None, repr=False)
    max_tokens: int | None = None
    usual_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = field(default=(), repr=False)
    stream: bool = False
    include_usage: bool = False
    restore: Any = field(default=None, repr=False)


def chat_request(body: Mapping[str, Any]) -> Asked:
    """The request of a chat completion.

    Raises:
        InvalidField: a field that is unknown, missing, not supported or of another form. The text
            names fields of this API only, and repeats no value.
    """
    given = _checked(body, "messages", {**COMMON, **CHAT})
    most, older = given.get("max_completion_tokens"), given.get("max_tokens")
    if most is not None and older is not None and most != older:
        raise InvalidField("max_tokens", "max_tokens and max_completion_tokens contradict")
    return _asked(given, _messages(given["messages"]), older if most is None else most)


def completion_request(body: Mapping[str, Any]) -> Asked:
    """The request of a completion of one text; errors as in :func:`chat_request`."""
    given = _checked(body, "prompt", {**COMMON, **COMPLETION})
    return _asked(given, _prompt(given["prompt"]), given.get("max_tokens"), COMPLETION_TOKENS)


def _checked(body: Mapping[str, Any], name: str, checks: Mapping[str, Check]) -> dict[str, Any]:
    if unsupported := sorted(UNSUPPORTED & body.keys()):
        raise InvalidField(unsupported[0], f"{unsupported[0]} is not supported")
    known = sorted({name, FIELD, *checks})
    if not body.keys() <= set(known):
        raise InvalidField(None, f"the body has an unknown field; known are {', '.join(known)}")
    given = {key: value for key, value in body.items() if value is not None or key == FIELD}
    if name not in given:
        raise InvalidField(name, f"{name} is missing")
    if FIELD in given and not isinstance(given[FIELD], dict):
        raise InvalidField(FIELD, f"{FIELD} must be an object with bank, mechanism and meta")
    for key, (fits, form) in checks.items():
        if key in given and not fits(given[key]):
            raise InvalidField(key, f"{key} must be {form}")
    if "stream_options" in given and not given.get("stream"):
        raise InvalidField("stream_options", "stream_options needs stream = true")
    return given


def _asked(
    given: Mapping[str, Any], prompt: Any, max_tokens: int | None, usual_tokens: int | None = None
) -> Asked:
    stop, seed = given.get("stop", ()), given.get("seed")
    return Asked(
        prompt=prompt,
        model=given.get("model"),
        max_tokens=max_tokens,
        usual_tokens=usual_tokens,
        temperature=float(given.get("temperature", 1.0)),
        top_p=float(given.get("top_p", 1.0)),
        seed=None if seed is None else seed % (1 << 63),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        stream=given.get("stream", False),
        include_usage=bool(given.get("stream_options", {}).get("include_usage")),
        restore=given.get(FIELD),
    )


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise InvalidField("messages", "messages must be a list of at least one message")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(value)]


def _message(message: Any, where: str) -> dict[str, str]:
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise InvalidField(where, f"{where} must be an object with role and content")
    others = {key: value for key, value in message.items() if key not in ("role", "content")}
    if any(key not in ANSWERED or value not in (None, []) for key, value in others.items()):
        raise InvalidField(where, f"{where} must have nothing beside role and content")
    if message["role"] not in ROLES:
        raise InvalidField(f"{where}.role", f"{where}.role must be one of {', '.join(ROLES)}")
    role = "system" if message["role"] == "developer" else message["role"]
    return {"role": role, "content": _text(message["content"], f"{where}.content")}


def _text(content: Any, where: str) -> str:
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    if not parts or not all(
        isinstance(part, dict)
        and part.keys() == {"type", "text"}
        and part["type"] == "text"
        and isinstance(part["text"], str)
        for part in parts
    ):
        raise InvalidField(where, f"{where} must be a string, or a list of parts of type text")
    return "\n".join(part["text"] for part in parts)


def _prompt(value: Any) -> str | list[int]:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], (str, list)):
        value = value[0]
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(type(token) is int for token in value):
        return value
    raise InvalidField("prompt", "prompt must be one string or one list of token ids")


def _whole(least: int, most: int) -> Check:
    form = f"a whole number from {least} to {most}"
    return lambda value: type(value) is int and least <= value <= most, form


def _number(least: float, most: float, form: str) -> Check:
    return (
        lambda v: type(v) in (int, float) and least <= v <= most and math.isfinite(v),
        f"a number {form}",
    )


def _is(*values: Any) -> Check:
    """One of some values, which JSON distinguishes where Python does not: 0 is no false."""
    return (
        lambda v: any(
            v == value and isinstance(v, bool) == isinstance(value, bool) for value in values
        ),
        "left out: other values are not supported",
    )


def _text_of(most: int) -> Check:
    return lambda v: isinstance(v, str) and len(v) <= most, f"a string of up to {most} letters"


def _is_stop(value: Any) -> bool:
    texts: Sequence[Any] = value if isinstance(value, list) else [value]
    return len(texts) <= MAX_STOPS and all(
        isinstance(text, str) and 0 < len(text) <= MAX_STOP_LETTERS for text in texts
    )


def _is_stream_options(value: Any) -> bool:
    names = {"include_usage", "include_obfuscation"}
    return (
        isinstance(value, dict)
        and names.issuperset(value)
        and all(type(flag) is bool for flag in value.values())
    )


_FLAG: Check = (lambda v: type(v) is bool, "true or false")
_METADATA: Check = (
    lambda v: isinstance(v, dict) and all(isinstance(text, str) for text in v.values()),
    "an object of strings",
)

IGNORED: dict[str, Check] = {
    "metadata": _METADATA,
    "parallel_tool_calls": _FLAG,
    "prompt_cache_key": _text_of(1000),
    "safety_identifier": _text_of(1000),
    "service_tier": _text_of(100),
    "user": _text_of(1000),
}
"""Fields that are accepted, change nothing and are kept nowhere."""

NEUTRAL: dict[str, Check] = {
    "frequency_penalty": _is(0),
    "presence_penalty": _is(0),
    "logit_bias": _is({}),
}
"""Fields that are accepted at the value at which they change nothing."""

COMMON: dict[str, Check] = {
    "model": _text_of(1000),
    "max_tokens": _whole(1, 1 << 20),
    "temperature": _number(0, 2, "from 0 to 2"),
    "top_p": _number(math.ulp(0.0), 1, "above 0 and up to 1"),
    "seed": _whole(-(1 << 63), (1 << 63) - 1),
    "stop": (
        _is_stop,
        f"a string, or a list of up to {MAX_STOPS}, none empty or above {MAX_STOP_LETTERS} letters",
    ),
    "n": (lambda v: type(v) is int and v == 1, "1"),
    "stream": _FLAG,
    "stream_options": (_is_stream_options, "an object with include_usage, true or false"),
    "user": IGNORED["user"],
    **NEUTRAL,
}

CHAT: dict[str, Check] = {
    "max_completion_tokens": _whole(1, 1 << 20),
    **IGNORED,
    "logprobs": _is(False),
    "modalities": _is(["text"]),
    "response_format": _is({"type": "text"}),
    "store": _is(False),
    "tool_choice": _is("none", "auto"),
    "tools": _is([]),
    "top_logprobs": _is(0),
}

COMPLETION: dict[str, Check] = {
    "best_of": (lambda v: type(v) is int and v == 1, "1"),
    "echo": _is(False),
    "suffix": _is(""),
    "logprobs": (lambda v: False, "left out: log-probabilities are not supported"),
}

UNSUPPORTED = {
    "audio",
    "functions",
    "function_call",
    "moderation",
    "prediction",
    "prompt_cache_retention",
    "reasoning_effort",
    "verbosity",
    "web_search_options",
}
"""Fields of OpenAI's API that ask for what this server cannot do."""

ANSWERED = frozenset(["annotations", "audio", "function_call", "name", "refusal", "tool_calls"])
"""Fields of an answer that apps send back with it; accepted where they are empty."""
