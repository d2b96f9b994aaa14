"""Strings that end a text, found although they come in pieces."""

from collections.abc import Sequence


class StopStrings:
    """Lets text through up to the first stop string, and holds back what may begin one.

    Args:
        stop: none of them empty.
    """

    def __init__(self, stop: Sequence[str]):
        self._stop = tuple(stop)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that may be shown now, and whether a stop string is complete.

        Of several that are complete, the text is cut before the one that begins first.
        """
        text = self._held + text
        places = [place for word in self._stop if (place := text.find(word)) >= 0]
        if places:
            self._held = ""
            return text[: min(places)], True
        most = max((len(word) for word in self._stop), default=1) - 1
        held = next(
            n
            for n in range(min(most, len(text)), -1, -1)
            if n == 0 or any(word.startswith(text[-n:]) for word in self._stop)
        )
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def flush(self) -> str:
        """What was held back and began no stop string after all."""
        text, self._held = self._held, ""
        return text
