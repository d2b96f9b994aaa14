"""One answer from the pieces of a stream, in the shape that a request without a stream gets."""

from __future__ import annotations

from typing import Any

from privacyrestore.errors import Unreachable

OBJECTS = {"chat.completion.chunk": "chat.completion"}
"""What a stream's objects are called, and what the whole is; others have one name for both."""


class WholeAnswer:
    """Collects the events of a stream of completions or chat completions."""

    def __init__(self) -> None:
        self._frame: dict[str, Any] = {}
        self._words: list[str] = []
        self._choice: dict[str, Any] = {}
        self._chat = False

    def add(self, event: dict[str, Any]) -> None:
        """Take in the next event.

        Raises:
            Unreachable: not of the shape of a completion's chunk with at most one choice.
        """
        choices = event.get("choices")
        if not isinstance(choices, list) or len(choices) > 1:
            raise Unreachable("an event of the server's answer has no choices")
        self._frame |= {
            name: value
            for name, value in event.items()
            if name != "choices" and (value is not None or name not in self._frame)
        }
        for choice in choices:
            if not isinstance(choice, dict):
                raise Unreachable("an event of the server's answer has no choices")
            self._chat = self._chat or "delta" in choice
            held = choice.get("delta", choice)
            if not isinstance(held, dict):
                raise Unreachable("a piece of the server's answer is no text")
            word = held.get("content" if "delta" in choice else "text")
            if not isinstance(word, str | None):
                raise Unreachable("a piece of the server's answer is no text")
            self._words.append(word or "")
            self._choice |= {
                name: value
                for name, value in choice.items()
                if name not in ("delta", "text") and (value is not None or name not in self._choice)
            }

    def completion(self) -> dict[str, Any]:
        """The answer as one object.

        Raises:
            Unreachable: no event had a choice.
        """
        if not self._choice:
            raise Unreachable("the server's answer has no choices")
        text = "".join(self._words)
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        kind = self._frame.get("object")
        named = {"object": OBJECTS[kind]} if kind in OBJECTS else {}
        return self._frame | named | {"choices": [self._choice | said]}
