"""Text that grows token by token and never shows half a character."""

from typing import Any

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_MOST_BYTES = 3  # of a character that is still incomplete; each may be a token, and one _UNKNOWN


class TokenText:
    """Decodes a stream of tokens; the pieces joined are what the tokenizer makes of all tokens.

    A token's text depends on the token before it (a space that a word begins with is dropped at the
    start of a text), so a window that begins with tokens already shown is decoded each time.
    Characters are shown once no later byte can complete them to something else.

    Args:
        tokenizer: whose `decode` is used; special tokens are left out.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._context = 0  # tokens at the window's start that are complete and shown
        self._shown = 0  # characters of the window's text
        self._incomplete = 0  # pushes since the text last ended in a whole character

    def push(self, token: int) -> str:
        """The characters that this token completes."""
        self._window.append(token)
        text = self._decoded()
        whole = text.rstrip(_UNKNOWN)
        self._incomplete = 0 if whole == text else self._incomplete + 1
        if whole == text and len(text) > self._shown:
            new = text[self._shown :]
            self._window = self._window[self._context :]
            self._context = len(self._window)
            self._shown = len(self._decoded())
            return new
        sure = max(len(whole), self._shown)
        if self._incomplete > _MOST_BYTES:  # these are no bytes of one character
            # Not before: a decoder may turn the whole characters before them into _UNKNOWN too.
            sure = max(sure, len(text) - _MOST_BYTES)
        new, self._shown = text[self._shown : sure], sure
        return new

    def flush(self) -> str:
        """What is left at the end; bytes that make no character are one replacement character."""
        text = self._decoded()
        new, self._shown = text[self._shown :], len(text)
        return new

    def _decoded(self) -> str:
        text: str = self._tokenizer.decode(
            self._window, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
