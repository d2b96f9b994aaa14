"""Completions of a text: from the text to a prompt, and from a row's text to OpenAI's objects."""

from collections.abc import Sequence
from typing import Any

from lipogram.llm.text import encode

PREFIX, WHOLE, CHUNK = "cmpl-", "text_completion", "text_completion"


def prompt_ids(prompt: str | Sequence[int], tokenizer: Any) -> list[int]:
    """Token ids of a text, with the beginning that the tokenizer gives it; ids stay as they are.

    Who writes the whole text also writes its special tokens: they are read as such.
    """
    return encode(tokenizer, prompt, []).prompt_ids


def whole(text: str, reason: str) -> dict[str, Any]:
    """The choice of an answer in one piece."""
    return _choice(text, reason)


def opening() -> dict[str, Any] | None:
    """A stream of text begins with text."""
    return None


def piece(text: str) -> dict[str, Any]:
    """The choice of a piece of text."""
    return _choice(text, None)


def closing(reason: str) -> dict[str, Any]:
    """The choice that says why the text has ended."""
    return _choice("", reason)


def _choice(text: str, reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
