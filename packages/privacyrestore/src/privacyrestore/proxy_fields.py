"""What of an app's request is sent on: the question, and those fields that say how to answer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from privacyrestore import api_schema
from privacyrestore.api_errors import InvalidField
from privacyrestore.payload import FIELD
from privacyrestore.strict_json import read_object

SENT_ON = ("model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop")
"""Fields that go to the server as they are, if they hold no span.

What else OpenAI's API knows is either refused or, like `user` and `metadata`, which could name a
person, accepted and dropped.
"""


@dataclass(frozen=True)
class Asked:
    """A request that passed the checks.

    Attributes:
        content: the messages, each with role and content, or the prompt; not cleaned yet.
        options: of the generation, as they are sent on.
        stream: whether the answer is to come in pieces.
        include_usage: whether these are to end with the number of tokens.
    """

    content: list[dict[str, Any]] | str = field(repr=False)
    options: dict[str, Any] = field(repr=False)
    stream: bool
    include_usage: bool


def chat_request(body: bytes) -> Asked:
    """The request of a chat completion.

    Raises:
        InvalidSetting: not one JSON object, or with a field that is unknown, not supported or of
            another form. The text repeats nothing of it.
    """
    given = _own(read_object(body))
    checked = api_schema.chat_request(given)
    # The parts of a message as they came: the client looks for spans that run over two of them.
    messages = [{name: each[name] for name in ("role", "content")} for each in given["messages"]]
    return Asked(messages, _options(given), checked.stream, checked.include_usage)


def completion_request(body: bytes) -> Asked:
    """The request of a completion of one text; errors as in :func:`chat_request`."""
    given = _own(read_object(body))
    checked = api_schema.completion_request(given)
    if not isinstance(checked.prompt, str):
        raise InvalidField("prompt", "prompt must be a string: token ids cannot be cleaned")
    return Asked(checked.prompt, _options(given), checked.stream, checked.include_usage)


def _own(body: dict[str, Any]) -> dict[str, Any]:
    if FIELD in body:
        raise InvalidField(FIELD, f"{FIELD} is set by the proxy: leave it out")
    return body


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in SENT_ON if given.get(name) is not None}
