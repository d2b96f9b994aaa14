"""Which tokens of a language model begin a word, and after which nothing of the line follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BYTE_LEVEL = str.maketrans(
    "ĠĊĉč", " \n\t\r"
)  # bytes 32, 10, 9 and 13 as such tokenizers write them


class WordPieces:
    """Words in a language model's tokens.

    Args:
        tokenizer: of transformers.
        size: tokens that the model has; those that the tokenizer does not know end a line.

    Attributes:
        first: tokens that may follow a whole word: those that begin a new one; where the space is a
            token of its own, that; where no space can be told, all that do not end the line.
        ends: special tokens and those with a line break.
    """

    def __init__(self, tokenizer: Any, size: int):
        self._tokenizer = tokenizer
        self._texts = _texts(tokenizer, min(size, len(tokenizer)))
        special = set(tokenizer.all_special_ids)
        every = range(len(self._texts))
        self.ends = frozenset(
            {i for i in every if i in special or set("\n\r") & set(self._texts[i])}
            | set(range(len(self._texts), size))
        )
        kept = [i for i in every if i not in self.ends]
        spaced = [i for i in kept if self._texts[i][:1] == " "]
        begun = [i for i in spaced if self._texts[i][1:2].strip()]
        self.first = frozenset(begun or spaced or kept)

    def whole(self, tokens: Sequence[int]) -> int:
        """Words that are complete, since white space follows them."""
        text = "".join(self._texts[token] for token in tokens)
        return len(text.split()) - (text[-1:].strip() != "")

    def words(self, tokens: Sequence[int], most: int) -> tuple[str, ...]:
        """Words of what was said, the last one without its end left out, unless it is the only one.

        Args:
            tokens: that were said; all before the first of :attr:`ends` count.
            most: words.
        """
        end = next((at for at, token in enumerate(tokens) if token in self.ends), None)
        kept = list(tokens[:end])
        words = str(self._tokenizer.decode(kept, skip_special_tokens=True)).split()
        if end is None and len(words) > 1:
            words = words[: max(self.whole(kept), 1)]
        return tuple(words[:most])


def _texts(tokenizer: Any, size: int) -> list[str]:
    """Each token's text, with the space before it."""
    pieces = [str(piece or "") for piece in tokenizer.convert_ids_to_tokens(range(size))]
    if any(piece[:1] == "▁" for piece in pieces):
        broken = {"<0x0A>": "\n", "<0x0D>": "\r"}
        return [broken.get(piece, piece.replace("▁", " ")) for piece in pieces]
    if any(piece[:1] == "Ġ" for piece in pieces):
        return [piece.translate(_BYTE_LEVEL) for piece in pieces]
    anchor = next((i for i, piece in enumerate(pieces) if piece.isalpha()), 0)
    before = len(tokenizer.decode([anchor]))
    return [tokenizer.decode([anchor, i], skip_special_tokens=True)[before:] for i in range(size)]
