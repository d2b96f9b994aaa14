"""Chat completions: from messages to a prompt, and from a row's text to OpenAI's objects."""

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from lipogram.errors import InvalidSetting
from lipogram.llm.chat import format_chat
from privacyrestore.api_errors import InvalidField

PREFIX, WHOLE, CHUNK = "chatcmpl-", "chat.completion", "chat.completion.chunk"


def prompt_ids(messages: Sequence[Mapping[str, str]], tokenizer: Any) -> list[int]:
    """Token ids of a conversation up to where the assistant begins.

    Only the chat template writes special tokens: a message that spells one is read as its letters.

    Raises:
        InvalidField: messages that the template refuses.
    """
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    spelled = sorted(
        (word for word in special if any(word in message["content"] for message in messages)),
        key=len,
        reverse=True,
    )
    mark = f"\ue000{secrets.token_hex(8)}" if spelled else None
    if mark is not None:
        messages = [
            {**message, "content": _broken(message["content"], spelled, mark)}
            for message in messages
        ]
    try:
        text = format_chat(messages, tokenizer)
    except InvalidSetting:  # its text may repeat what the template says of the messages
        raise InvalidField("messages", "the chat template refuses these messages") from None
    parts = [text] if mark is None else text.split(mark)
    return [
        token
        for part in parts
        for token in tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
    ]


def _broken(text: str, words: Sequence[str], mark: str) -> str:
    """The text with a mark after the first letter of each of the words."""
    pattern = re.compile(
        "|".join(re.escape(word[0]) + f"(?={re.escape(word[1:])})" for word in words)
    )
    return pattern.sub(lambda found: found[0] + mark, text)


def whole(text: str, reason: str) -> dict[str, Any]:
    """The choice of an answer in one piece."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}


def opening() -> dict[str, Any] | None:
    """The choice that a stream begins with."""
    return _delta({"role": "assistant", "content": ""}, None)


def piece(text: str) -> dict[str, Any]:
    """The choice of a piece of text."""
    return _delta({"content": text}, None)


def closing(reason: str) -> dict[str, Any]:
    """The choice that says why the text has ended."""
    return _delta({}, reason)


def _delta(delta: dict[str, str], reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
