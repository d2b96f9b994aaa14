"""Parallel text of programs' message catalogues: gettext's `.mo` and `.po`, English their keys."""

from __future__ import annotations

import ast
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from psfuture.html_segments import segments
from psfuture.parallel_text import SentencePairs, UnreadableText, decoded_lines
from psfuture.sentence_pairing import unique_pairs

_MAGIC = 0x950412DE
_ACCELERATOR = re.compile(r"&(?=\w)(?!#?[\w.-]+;)|~(?=\w)")
_ENTITY = re.compile(r"&#?[\w.-]+;")
_KEYWORD = re.compile(r'(msgctxt|msgid_plural|msgid|msgstr(?:\[\d+\])?)\s+(".*")')


def mo_pairs(folder: Path, target: str, name: str | None = None) -> SentencePairs:
    """Sentences of the compiled catalogues (`*.mo`) below a folder, such as LC_MESSAGES.

    Of a plural the singular counts. Markup and accelerators (`&File`, `~File`) are taken out;
    messages that hold another's entity (`&debian;`) are left out.

    Raises:
        UnreadableText: no catalogue there, or a damaged one; the file is named.
    """
    return _pairs(folder, "*.mo", _mo_messages, target, name)


def po_pairs(folder: Path, target: str, name: str | None = None) -> SentencePairs:
    """The same of source catalogues (`*.po`); fuzzy and obsolete messages are left out.

    Raises:
        UnreadableText: no catalogue there, or a damaged one; file and line are named.
    """
    return _pairs(folder, "*.po", _po_messages, target, name)


def _pairs(
    folder: Path,
    pattern: str,
    messages: Callable[[Path], Iterator[tuple[str, str]]],
    target: str,
    name: str | None,
) -> SentencePairs:
    files = sorted(folder.rglob(pattern))
    if not files:
        raise UnreadableText(f"{folder} holds no catalogue ({pattern})")
    rows = list(
        unique_pairs(
            (file.relative_to(folder).as_posix(), source, translated)
            for file in files
            for message, translation in messages(file)
            for source, translated in _texts(message, translation)
        )
    )
    documents, sources, targets = zip(*rows, strict=True) if rows else ((), (), ())
    return SentencePairs(name or folder.name, "en", target, sources, targets, documents)


def _texts(message: str, translation: str) -> Iterator[tuple[str, str]]:
    """The runs of text of a message, which may be markup, and of its translation."""
    runs, others = (segments(_ACCELERATOR.sub("", text)) for text in (message, translation))
    if [run.border for run in runs] != [run.border for run in others]:
        return
    for run, other in zip(runs, others, strict=True):
        if not _ENTITY.search(run.text) and not _ENTITY.search(other.text):
            yield run.text, other.text


def _mo_messages(path: Path) -> Iterator[tuple[str, str]]:
    """Messages and translations of a compiled catalogue (gettext's manual, 10.3)."""
    content = path.read_bytes()
    order = {_MAGIC.to_bytes(4, "little"): "<", _MAGIC.to_bytes(4, "big"): ">"}.get(content[:4])
    if order is None:
        raise UnreadableText(f"{path} is no compiled catalogue: it begins with {content[:4]!r}")
    try:
        count, *tables = struct.unpack_from(f"{order}3I", content, 8)
        for place in range(count):
            texts = []
            for table in tables:
                length, start = struct.unpack_from(f"{order}2I", content, table + 8 * place)
                if start + length > len(content):
                    raise UnreadableText(f"{path} ends within message {place + 1} of {count}")
                texts.append(content[start : start + length].split(b"\0")[0].decode())
            message, translation = texts
            if message and translation:  # the empty message is the head
                yield message.rpartition("\4")[2], translation
    except (struct.error, UnicodeDecodeError) as error:
        raise UnreadableText(f"{path} is damaged, or not UTF-8: {error}") from error


def _po_messages(path: Path) -> Iterator[tuple[str, str]]:
    """Messages and translations of a source catalogue (gettext's manual, 3)."""
    entry: dict[str, str] = {}
    fuzzy, last = False, ""
    for number, line in enumerate([*decoded_lines(path.read_bytes(), str(path)), ""], start=1):
        text = line.strip()
        if text.startswith("#"):
            fuzzy |= text.startswith("#,") and "fuzzy" in text
            continue
        if text.startswith('"') and last:
            entry[last] += _unquoted(text, path, number)
        elif (found := _KEYWORD.fullmatch(text)) is not None:
            if found[1] in entry:
                raise UnreadableText(f"{path}, line {number}: a second {found[1]} of one message")
            last = found[1]
            entry[last] = _unquoted(found[2], path, number)
        elif text:
            raise UnreadableText(f"{path}, line {number}: {text[:60]!r} is no line of a catalogue")
        else:
            translation = entry.get("msgstr", entry.get("msgstr[0]", ""))
            if entry.get("msgid") and translation and not fuzzy:
                yield entry["msgid"], translation
            entry, fuzzy, last = {}, False, ""


def _unquoted(text: str, path: Path, number: int) -> str:
    """A string as C writes it; Python reads the escapes that gettext knows in the same way."""
    try:
        return str(ast.literal_eval(text))
    except (SyntaxError, ValueError) as error:
        raise UnreadableText(f"{path}, line {number}: {text[:60]!r} is no string") from error
