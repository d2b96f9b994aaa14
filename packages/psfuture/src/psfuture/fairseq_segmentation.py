"""Words into the pieces of a fairseq dictionary, and back: subword-nmt, fastBPE, SentencePiece."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from lipogram.errors import CorruptState, ModelNotFound

SEPARATOR = "@@"
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"

_END = "</w>"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class Segmentation(Protocol):
    """How words are cut."""

    def pieces(self, words: Sequence[str]) -> list[str]:
        """Pieces of whole words."""


class Segmented:
    """Text whose words are pieces already."""

    def pieces(self, words: Sequence[str]) -> list[str]:
        """The words, split at spaces."""
        return " ".join(words).split()


class SubwordNMT:
    """Byte-pair codes of subword-nmt (versions 0.1 and 0.2) or fastBPE.

    The learnt merges are applied to a word in the order they were learnt, each everywhere at once;
    every piece but a word's last ends in `@@` (Sennrich et al. 2016).

    Args:
        path: file of codes, a merge a line; a count may follow each, as fastBPE writes it.

    Raises:
        ModelNotFound: there is no such file.
        CorruptState: it holds no codes; the message names the line.
    """

    def __init__(self, path: Path):
        self.ranks: dict[tuple[str, str], int] = {}
        self.separate_end = True  # version 0.1: the end of a word is a symbol of its own
        self._known: dict[str, list[str]] = {}
        try:
            lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
        except FileNotFoundError:
            raise ModelNotFound(f"there are no byte-pair codes {path}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise CorruptState(f"the byte-pair codes {path} cannot be read: {error}") from None
        for number, line in enumerate(lines, 1):
            parts = line.strip("\r\n ").split(" ")
            if number == 1 and parts[0] == "#version:":
                self.separate_end = parts[1:] == ["0.1"]
                continue
            counted = len(parts) == 3 and parts[2].isdecimal()
            if len(parts) != 2 and not counted:
                raise CorruptState(f"{path}, line {number}: a merge of two is needed, got {line!r}")
            if counted:
                self.separate_end = False
            self.ranks.setdefault((parts[0], parts[1]), number)

    def pieces(self, words: Sequence[str]) -> list[str]:
        """Pieces of whole words."""
        found = []
        for word in " ".join(words).split():
            if word not in self._known:
                self._known[word] = self._cut(word)
            *first, last = self._known[word]
            found += [*(piece + SEPARATOR for piece in first), last]
        return found

    def _cut(self, word: str) -> list[str]:
        if len(word) == 1:
            return [word]
        parts = [*word, _END] if self.separate_end else [*word[:-1], word[-1] + _END]
        while len(parts) > 1:
            pairs = list(pairwise(parts))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.ranks) + 2))
            if best not in self.ranks:
                break
            merged: list[str] = []
            for part in parts:
                if merged and (merged[-1], part) == best:
                    merged[-1] = merged[-1] + part
                else:
                    merged.append(part)
            parts = merged
        if parts[-1] == _END:
            return parts[:-1]
        return [*parts[:-1], parts[-1].removesuffix(_END)]


class SentencePieces:
    """A SentencePiece model.

    Args:
        path: the model's file.

    Raises:
        ModelNotFound: there is no such file.
        CorruptState: it is no SentencePiece model.
    """

    def __init__(self, path: Path):
        from sentencepiece import SentencePieceProcessor

        if not path.is_file():
            raise ModelNotFound(f"there is no SentencePiece model {path}")
        try:
            self._model = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise CorruptState(f"{path} is no SentencePiece model: {error}") from None

    def pieces(self, words: Sequence[str]) -> list[str]:
        """Pieces of whole words."""
        found: list[str] = self._model.encode(" ".join(words), out_type=str)
        return found


def joined(pieces: Sequence[str], *, spaces: bool) -> str:
    """Text of pieces.

    Args:
        pieces: the last may be a word's beginning.
        spaces: SentencePiece's, in which `▁` is a space; else those that end in `@@` are glued to
            the next.

    Returns:
        The text; the first bytes of a character whose others are missing are held back.
    """
    if not spaces:
        return (" ".join(pieces) + " ").replace(f"{SEPARATOR} ", "").rstrip()
    text = "".join(_with_bytes(pieces)).replace(SPACE, " ").strip()
    return text.rstrip("\N{REPLACEMENT CHARACTER}")


def _with_bytes(pieces: Sequence[str]) -> Iterator[str]:
    """The pieces, with runs of bytes (`<0xE6>`) read as UTF-8."""
    run = bytearray()
    for piece in pieces:
        if match := _BYTE.fullmatch(piece):
            run.append(int(match[1], 16))
            continue
        yield run.decode(errors="replace")
        run.clear()
        yield piece
    yield run.decode(errors="replace")
