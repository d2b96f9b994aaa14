"""fairseq's dictionaries: a symbol and its count a line, numbered after four special symbols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lipogram.errors import CorruptState, ModelNotFound

BOS, PAD, EOS, UNK = range(4)
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")

_OVERWRITE = "#fairseq:overwrite"


@dataclass(frozen=True)
class FairseqDictionary:
    """Symbols in the order of their ids.

    Attributes:
        symbols: the four special ones first.
        ids: of the symbols; where one is there twice, of the last.
    """

    symbols: tuple[str, ...]
    ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", {symbol: i for i, symbol in enumerate(self.symbols)})

    def __len__(self) -> int:
        return len(self.symbols)

    @classmethod
    def load(cls, path: Path) -> FairseqDictionary:
        """Read a `dict.xx.txt`.

        Raises:
            ModelNotFound: there is no such file.
            CorruptState: it is no dictionary; the message names the line.
        """
        symbols = list(SPECIAL)
        seen = set(symbols)
        try:
            # Symbols may hold any other separator of Unicode, so no splitlines().
            lines = path.read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            raise ModelNotFound(f"there is no dictionary {path}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise CorruptState(f"the dictionary {path} cannot be read: {error}") from None
        if lines[-1] == "":
            lines.pop()
        for number, line in enumerate(lines, 1):
            entry, _, last = line.rstrip("\r ").rpartition(" ")
            overwrite = last == _OVERWRITE
            symbol, _, count = entry.rpartition(" ") if overwrite else (entry, "", last)
            if not symbol or not count.lstrip("-").isdecimal():
                raise CorruptState(
                    f"{path}, line {number}: a symbol and its count are needed, got {line!r}"
                )
            if symbol in seen and not overwrite:
                raise CorruptState(f"{path}, line {number}: the symbol {symbol!r} is there already")
            seen.add(symbol)
            symbols.append(symbol)
        return cls(tuple(symbols))

    def encode(self, symbols: Sequence[str]) -> list[int]:
        """Their ids; that of `<unk>` for symbols that are not there."""
        return [self.ids.get(symbol, UNK) for symbol in symbols]

    def decode(self, tokens: Sequence[int]) -> list[str]:
        """Symbols of tokens, without the special ones."""
        return [self.symbols[token] for token in tokens if len(SPECIAL) <= token < len(self)]
