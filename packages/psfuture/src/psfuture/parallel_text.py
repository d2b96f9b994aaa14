"""Sentences and their translations: what is simulated, tuned and trained on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from lipogram.errors import InvalidSetting, LipogramError
from lipogram.files import write_atomically

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*")


class UnreadableText(LipogramError, ValueError):
    """Text that is missing, is not UTF-8, or whose lines do not fit together."""


@dataclass(frozen=True)
class SentencePairs:
    """Parallel text.

    Attributes:
        name: of the text, for reports.
        source_language: code of the language to translate from, "und" where nobody said.
        target_language: the same of the other.
        sources: sentences.
        targets: their translations, as many.
        documents: where each pair stands, a page or a file, as many; empty where nobody knows.
    """

    name: str
    source_language: str
    target_language: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    documents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counts = len(self.sources), len(self.targets), len(self.documents)
        if counts[0] != counts[1] or counts[2] not in (0, counts[0]):
            raise InvalidSetting(
                f"{self.name} has {counts[0]} sources, {counts[1]} targets and {counts[2]} "
                "documents: there must be as many of each, or no documents"
            )

    def __len__(self) -> int:
        return len(self.sources)

    def chosen(self, places: Iterable[int], name: str | None = None) -> SentencePairs:
        """The pairs at `places`, in this order, under the same or another name."""
        wanted = list(places)
        return replace(
            self,
            name=name or self.name,
            sources=tuple(self.sources[place] for place in wanted),
            targets=tuple(self.targets[place] for place in wanted),
            documents=tuple(self.documents[place] for place in wanted) if self.documents else (),
        )

    def with_words(self, least: int, most: int) -> SentencePairs:
        """The pairs whose source has `least` to `most` words."""
        counts = [len(source.split()) for source in self.sources]
        return self.chosen(place for place, count in enumerate(counts) if least <= count <= most)

    def sample(self, count: int, *, seed: int = 0) -> SentencePairs:
        """`count` pairs, or all where there are fewer, in their order in the text.

        Which ones hangs on the seed and on each source itself, and on nothing else: the same
        sentences are drawn on every machine, and a larger sample holds the smaller ones.
        """
        drawn = sorted(range(len(self)), key=lambda place: (_lot(seed, self.sources[place]), place))
        return self.chosen(sorted(drawn[: max(count, 0)]))

    def split(self, share: float, *, seed: int = 0) -> tuple[SentencePairs, SentencePairs]:
        """Two parts that have no document in common, or, of unknown documents, no source.

        The first has about `share` of the documents; which, hangs on the seed and their names
        alone.

        Raises:
            InvalidSetting: a share outside (0, 1).
        """
        if not 0 < share < 1:
            raise InvalidSetting(f"share is {share}; it must lie between 0 and 1")
        first = [_lot(seed, key) < share for key in self.documents or self.sources]
        return (
            self.chosen(place for place, is_first in enumerate(first) if is_first),
            self.chosen(place for place, is_first in enumerate(first) if not is_first),
        )

    def write(self, path: Path) -> None:
        """As tab-separated UTF-8, the languages in the first line; :meth:`read` takes it back.

        Raises:
            InvalidSetting: a sentence or a document's name holds a tab or the end of a line.
            OSError: it cannot be written; what was there is untouched.
        """
        write_atomically(path, self.as_tsv())

    def as_tsv(self) -> bytes:
        """What :meth:`write` writes."""
        rows = [(self.source_language, self.target_language, "document"), *self._rows()]
        wanted = 3 if self.documents else 2
        for number, row in enumerate(rows):
            if any(mark in cell for cell in row[:wanted] for mark in "\t\n\r"):
                raise InvalidSetting(
                    f"pair {number} of {self.name} holds a tab or the end of a line, which its "
                    f"file cannot: {row}"
                )
        return "".join("\t".join(row[:wanted]) + "\n" for row in rows).encode()

    def _rows(self) -> list[tuple[str, str, str]]:
        documents = self.documents or ("",) * len(self)
        return list(zip(self.sources, self.targets, documents, strict=True))

    @classmethod
    def read(cls, path: Path, name: str | None = None) -> SentencePairs:
        """Read tab-separated UTF-8: a line with two languages, then a pair a line.

        A third column names documents, where the first line has one ("document").

        Raises:
            UnreadableText: no such file, bytes that are no UTF-8, a first line without languages,
                or a line with more or fewer cells than the first; the line is named.
        """
        return cls.from_lines(read_lines(path), name or path.stem, str(path))

    @classmethod
    def from_lines(cls, lines: list[str], name: str, place: str) -> SentencePairs:
        """The same of lines that were read; `place` is what errors call them."""
        head = lines[0].split("\t") if lines else []
        if len(head) not in (2, 3) or not all(_LANGUAGE.fullmatch(code) for code in head[:2]):
            raise UnreadableText(
                f"{place}: the first line must name the two languages with a tab between, as in "
                f"'en<TAB>de'; it is {lines[0][:80] if lines else ''!r}"
            )
        rows = [line.split("\t") for line in lines[1:]]
        for number, row in enumerate(rows, start=2):
            if len(row) != len(head):
                raise UnreadableText(
                    f"{place}, line {number}: {len(row)} cells, but the first line has {len(head)}"
                )
        columns = [tuple(row[place] for row in rows) for place in range(len(head))]
        return cls(name, head[0], head[1], *columns)


def file_pairs(
    source_file: Path, target_file: Path, *, languages: tuple[str, str] = ("und", "und")
) -> SentencePairs:
    """Two plain text files whose lines translate each other; empty lines count.

    Raises:
        UnreadableText: no such file, bytes that are no UTF-8 (the line is named), or files of
            different lengths (both are).
    """
    sources, targets = read_lines(source_file), read_lines(target_file)
    if len(sources) != len(targets):
        raise UnreadableText(
            f"{source_file} has {len(sources)} lines and {target_file} has {len(targets)}: line by "
            "line they must translate each other"
        )
    return SentencePairs(source_file.stem, *languages, tuple(sources), tuple(targets))


def read_lines(path: Path) -> list[str]:
    r"""Lines of UTF-8, ended by LF or CR LF; a byte order mark is dropped.

    Other ends of lines that `str.splitlines` knows stay in the text, which may hold them.

    Raises:
        UnreadableText: no such file, or bytes that are no UTF-8; the line is named.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableText(f"{path} cannot be read: {error.strerror}") from error
    return decoded_lines(content, str(path))


def decoded_lines(content: bytes, place: str) -> list[str]:
    """The same of bytes that were read; `place` is what errors call them."""
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not lines[-1]:
        lines.pop()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError as error:
            raise UnreadableText(
                f"{place}, line {number}: byte {error.start + 1} is no UTF-8 "
                f"({error.object[error.start]:#x})"
            ) from error
    return found


def _lot(seed: int, key: str) -> float:
    """A number in [0, 1) that the seed and the key alone decide."""
    drawn = hashlib.sha256(f"{seed}\0{key}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(drawn[:6], "big") / 2**48
