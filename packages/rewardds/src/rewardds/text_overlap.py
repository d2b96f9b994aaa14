"""Private words in what leaves the client: runs of eight words that a private text has too.

What is found is told by place and record id, never by its words. It was measured on private
records, so the finding stays at the client like the records themselves.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipogram.analytic.settings import whole
from lipogram.errors import CorruptState, MissingAsset
from rewardds.records import PrivateRecords
from rewardds.words import words

if TYPE_CHECKING:
    from torch import Tensor

WORDS = 8
Placed = tuple[str, str]
"""Where a text stands, and the text."""


@dataclass(frozen=True)
class Hit:
    """A place that shares words with private records.

    Attributes:
        place: file, and where in it.
        grams: runs of n words that are private.
        records: ids of the records they are found in, the most often met first; of a run that
            several records have, the first.
    """

    place: str
    grams: int
    records: tuple[str, ...]


@dataclass(frozen=True)
class TextOverlap:
    """What a scan found.

    Attributes:
        n: words a run.
        texts: that were read.
        grams: runs that were looked up.
        hits: places that share one or more.
        short: private texts of fewer than n words, which no scan can find.
    """

    n: int
    texts: int
    grams: int
    hits: tuple[Hit, ...]
    short: int

    @property
    def clean(self) -> bool:
        """Whether nothing is shared."""
        return not self.hits

    @property
    def share(self) -> float:
        """Share of the runs that are private; 0 where there are none."""
        return sum(hit.grams for hit in self.hits) / self.grams if self.grams else 0.0

    def sentence(self) -> str:
        """The finding in words; names places and ids."""
        told = f"{self.grams} runs of {self.n} words in {self.texts} texts: "
        if self.clean:
            told += "none is private"
        else:
            first = self.hits[0]
            told += (
                f"{sum(hit.grams for hit in self.hits)} in {len(self.hits)} texts are private, "
                f"the first in {first.place} from record {first.records[0]!r}"
            )
        if self.short:
            told += f"; {self.short} private texts are too short to be found"
        return told + "."


class PrivateGrams:
    """Runs of n words of private texts, for looking them up. It is as private as the records.

    Args:
        private: the records.
        n: words a run.
        public: texts that everybody has, such as prompts and public seeds; runs of theirs do not
            count as private.

    Raises:
        InvalidSetting: n below 2.
    """

    def __init__(self, private: PrivateRecords, *, n: int = WORDS, public: Iterable[str] = ()):
        self.n = whole("n", n, least=2)
        known = {gram for text in public for gram in _grams(words(text), n)}
        self._owner: dict[str, str] = {}
        self.short = 0
        for record in private:
            for text in (record.instruction, record.response):
                folded = words(text)
                self.short += 0 < len(folded) < n
                for gram in _grams(folded, n):
                    if gram not in known:
                        self._owner.setdefault(gram, record.id)

    def __repr__(self) -> str:
        return f"PrivateGrams({len(self._owner)} runs of {self.n} words)"

    def scan(self, texts: Iterable[Placed]) -> TextOverlap:
        """Look for private runs in texts.

        Args:
            texts: each with its place.
        """
        read, looked_up, hits = 0, 0, []
        for place, text in texts:
            grams = _grams(words(text), self.n)
            found = Counter(self._owner[gram] for gram in grams if gram in self._owner)
            read, looked_up = read + 1, looked_up + len(grams)
            if found:
                ids = tuple(name for name, _ in found.most_common())
                hits.append(Hit(place, found.total(), ids))
        return TextOverlap(self.n, read, looked_up, tuple(hits), self.short)

    def scan_folder(self, folder: str | Path, *, tokenizer: Any = None) -> TextOverlap:
        """Look for private runs in everything that the files of a folder could hide one in.

        Names of files; JSON's keys and values; the header of safetensors, and its tensors of whole
        numbers, read as bytes of a text and as token ids; lists of whole numbers in JSON, as token
        ids; any other file as UTF-8.

        Args:
            folder: such as a bundle, or shards of synthetic rows.
            tokenizer: that token ids would be of; None to leave ids out.

        Raises:
            MissingAsset: no such folder.
            CorruptState: a file that cannot be read as what its name says.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise MissingAsset(f"{folder} is no folder: a bundle or a folder of rows is needed")
        return self.scan(folder_texts(folder, self.n, tokenizer))


def folder_texts(folder: Path, n: int, tokenizer: Any = None) -> Iterator[Placed]:
    """Every text in a folder's files, with its place; see :meth:`PrivateGrams.scan_folder`."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        yield f"{name} (its name)", name
        if not path.is_file():
            continue
        if path.suffix == ".safetensors":
            yield from _tensor_texts(path, name, n, tokenizer)
        elif path.suffix in (".json", ".jsonl"):
            content = path.read_bytes()
            pieces = content.splitlines() if path.suffix == ".jsonl" else [content]
            for number, piece in enumerate(pieces, start=1):
                if piece.strip():
                    place = f"{name}, line {number}" if path.suffix == ".jsonl" else name
                    yield from _json_texts(_parsed(piece, path), place, n, tokenizer)
        else:
            yield name, path.read_bytes().decode("utf-8", errors="replace")


def _grams(folded: list[str], n: int) -> list[str]:
    return [" ".join(folded[start : start + n]) for start in range(len(folded) - n + 1)]


def _parsed(content: bytes, path: Path) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptState(f"{path} is not JSON, so it cannot be scanned: {error}") from error


def _json_texts(value: Any, place: str, n: int, tokenizer: Any) -> Iterator[Placed]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield f"{place} (a key)", key
            yield from _json_texts(inner, place, n, tokenizer)
    elif isinstance(value, list):
        if len(value) >= n and all(type(item) is int for item in value):
            yield from _number_texts(value, place, tokenizer)
        elif len(value) >= n and all(isinstance(item, str) for item in value):
            yield place, " ".join(value)
        for item in value:
            yield from _json_texts(item, place, n, tokenizer)


def _tensor_texts(path: Path, name: str, n: int, tokenizer: Any) -> Iterator[Placed]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            for key, value in (file.metadata() or {}).items():
                yield f"{name} (metadata)", f"{key} {value}"
            for key in file.keys():
                yield f"{name} (a tensor's name)", key
                numbers = file.get_tensor(key).flatten()
                if len(numbers) >= n and _whole(numbers):
                    yield from _number_texts(numbers.long().tolist(), f"{name}, {key}", tokenizer)
    except SafetensorError as error:
        raise CorruptState(f"{path} is no safetensors file: {error}") from error


def _whole(numbers: Tensor) -> bool:
    """Whether all are whole numbers, and not all the same, as in a matrix of zeros."""
    if numbers.is_floating_point() and not bool((numbers == numbers.round()).all()):
        return False
    return bool((numbers != numbers[0]).any())


def _number_texts(numbers: list[int], place: str, tokenizer: Any) -> Iterator[Placed]:
    if all(0 <= number < 256 for number in numbers):
        yield f"{place} (as bytes)", bytes(numbers).decode("utf-8", errors="replace")
    if tokenizer is not None and all(0 <= number < len(tokenizer) for number in numbers):
        yield f"{place} (as token ids)", tokenizer.decode(numbers, skip_special_tokens=True)
