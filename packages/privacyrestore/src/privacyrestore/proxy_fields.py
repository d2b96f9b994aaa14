"""What an app's request may hold: the fields of OpenAI's API that are passed on, each checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lipogram.errors import InvalidSetting

MAX_BODY = 4 << 20
ROLES = ("system", "developer", "user", "assistant")
MODEL_NAME = re.compile(r"[\w./:@+-]{1,200}", re.ASCII)
WITHHELD = ("user", "metadata", "safety_identifier", "prompt_cache_key", "store")
"""Fields that could name a person; they have no place in a question of which parts are withheld."""


@dataclass(frozen=True)
class Asked:
    """A request that passed the checks.

    Attributes:
        content: the messages, each with role and content, or the prompt.
        options: of the generation, as they are sent on; `model` among them if it was named.
        stream: whether the answer is to come in pieces.
    """

    content: list[dict[str, str]] | str
    options: dict[str, Any] = field(default_factory=dict)
    stream: bool = False


def read_body(body: bytes) -> dict[str, Any]:
    """The object in a JSON body, with no name twice and no NaN.

    Raises:
        InvalidSetting: anything else; the text never repeats what was sent.
    """
    try:
        found = json.loads(body, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise InvalidSetting(
            "the body must be JSON in UTF-8, with no name twice in an object and no NaN"
        ) from None
    if not isinstance(found, dict):
        raise InvalidSetting("the body must be a JSON object")
    return found


def chat_request(body: dict[str, Any]) -> Asked:
    """The request of a chat completion.

    Raises:
        InvalidSetting: a field that is unknown, withheld or of another form.
    """
    return _asked(body, "messages", _messages)


def completion_request(body: dict[str, Any]) -> Asked:
    """The request of a completion of one text; errors as in :func:`chat_request`."""
    return _asked(body, "prompt", _prompt)


def _asked(body: dict[str, Any], name: str, read: Callable[[Any], Any]) -> Asked:
    given = {key: value for key, value in body.items() if value is not None}
    if withheld := [key for key in WITHHELD if key in given]:
        raise InvalidSetting(f"{withheld[0]} is not sent on, as it could name a person: omit it")
    if any(key not in CHECKS and key != name for key in given):
        raise InvalidSetting(
            f"the body has a field that is not sent on; the fields are {', '.join((name, *CHECKS))}"
        )
    if name not in given:
        raise InvalidSetting(f"{name} is missing")
    for key, (fits, form) in CHECKS.items():
        if key in given and not fits(given[key]):
            raise InvalidSetting(f"{key} must be {form}")
    content = read(given.pop(name))
    stream = given.pop("stream", False)
    if "stream_options" in given and not stream:
        raise InvalidSetting("stream_options is for requests with stream = true")
    given.pop("n", None)
    for key in NEUTRAL:
        given.pop(key, None)
    return Asked(content, given, stream)


def _messages(value: Any) -> list[dict[str, str]]:
    form = f"a list of objects with role ({', '.join(ROLES)}) and content, a text, alone"
    if not isinstance(value, list) or not value:
        raise InvalidSetting(f"messages must be {form}")
    messages = []
    for message in value:
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise InvalidSetting(f"messages must be {form}")
        if message["role"] not in ROLES:
            raise InvalidSetting(f"messages must be {form}")
        role = "system" if message["role"] == "developer" else message["role"]
        messages.append({"role": role, "content": _text(message["content"], form)})
    return messages


def _text(content: Any, form: str) -> str:
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, dict) or set(part) != {"type", "text"}:
                raise InvalidSetting(f"messages must be {form}; of parts, only text is sent on")
            if part["type"] != "text" or not isinstance(part["text"], str):
                raise InvalidSetting(f"messages must be {form}; of parts, only text is sent on")
        content = "\n".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise InvalidSetting(f"messages must be {form}")
    return content


def _prompt(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise InvalidSetting("prompt must be one text; several are several requests")
    return value


def _whole(least: int, most: int) -> tuple[Callable[[Any], bool], str]:
    fits: Callable[[Any], bool] = lambda v: type(v) is int and least <= v <= most  # noqa: E731
    return fits, f"a whole number from {least} to {most}"


def _number(least: float, most: float) -> tuple[Callable[[Any], bool], str]:
    fits: Callable[[Any], bool] = lambda v: (  # noqa: E731
        type(v) in (int, float) and math.isfinite(v) and least <= v <= most
    )
    return fits, f"a number from {least:g} to {most:g}"


def _is_stop(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return (
        isinstance(texts, list)
        and len(texts) <= 4
        and all(isinstance(text, str) and 0 < len(text) <= 200 for text in texts)
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _no_constant(_: str) -> None:
    raise ValueError


NEUTRAL = ("frequency_penalty", "presence_penalty")
"""Fields that many apps send at the value at which they change nothing."""

CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (
        lambda v: isinstance(v, str) and MODEL_NAME.fullmatch(v) is not None,
        "a model's name",
    ),
    "max_tokens": _whole(1, 1 << 20),
    "max_completion_tokens": _whole(1, 1 << 20),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "seed": _whole(-(1 << 63), (1 << 63) - 1),
    "stop": (_is_stop, "a text, or up to four, none of them empty or above 200 letters"),
    "n": (lambda v: type(v) is int and v == 1, "1"),
    "stream": (lambda v: type(v) is bool, "true or false"),
    "stream_options": (
        lambda v: (
            isinstance(v, dict)
            and set(v) <= {"include_usage"}
            and all(type(flag) is bool for flag in v.values())
        ),
        "an object with include_usage, true or false",
    ),
    **{
        name: (lambda v: type(v) in (int, float) and v == 0, "0: other values are not sent on")
        for name in NEUTRAL
    },
}
