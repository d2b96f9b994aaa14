"""Finds words in bytes however they are written: decodes what can be decoded, then looks again."""

import base64
import binascii
import html
import re
import unicodedata
import urllib.parse
import zlib
from dataclasses import dataclass

DEEPEST = 3
GRAM = 6
MOST = 1 << 20
BASE64_RUN = re.compile(rb"[A-Za-z0-9+/_\-]{8,}")
HEX_RUN = re.compile(rb"(?:[0-9A-Fa-f]{2}[ :,]?){6,}")
JSON_ESCAPE = re.compile(rb"\\+u([0-9A-Fa-f]{4})")
BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f\x80-\xff]")
ZLIB_HEADS = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")


@dataclass(frozen=True)
class Leak:
    """A word that was found, and how it was written."""

    word: str
    written: str


class LeakScanner:
    """Looks for `words`, each of at least six letters once folded, in any writing of them.

    A writing is any case, with or without accents, with anything that is not a letter or digit
    between the letters; in UTF-8, UTF-16 or UTF-32; backwards; in base64 of any alignment and
    alphabet, hex, percent escapes, JSON escapes, HTML entities, gzip, zlib or raw deflate; and up
    to three of these over each other.
    """

    def __init__(self, words):
        self._by_gram: dict[str, list[tuple[str, str, str]]] = {}
        for word in words:
            letters = folded(word)
            if len(letters) < GRAM:
                raise ValueError(f"{word!r} is too short to be looked for: {GRAM} letters or more")
            for needle, how in ((letters, "as it is"), (letters[::-1], "reversed")):
                self._by_gram.setdefault(needle[:GRAM], []).append((needle, word, how))

    def scan(self, data):
        """The leaks in `data`, without repeats."""
        found, seen, todo = {}, {bytes(data)}, [(bytes(data), "", 0)]
        while todo:
            blob, path, depth = todo.pop()
            for reading, text in readings(blob):
                letters = folded(text)
                for at in range(len(letters) - GRAM + 1):
                    for needle, word, how in self._by_gram.get(letters[at : at + GRAM], ()):
                        if letters.startswith(needle, at):
                            found[Leak(word, f"{path}{reading}, {how}")] = None
            if depth < DEEPEST:
                for name, inner in decodings(blob):
                    if inner not in seen:
                        seen.add(inner)
                        todo.append((inner, f"{path}{name} > ", depth + 1))
        return list(found)


def folded(text):
    """Letters and digits only, without accents and case."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in plain if letter.isalnum())


def readings(blob):
    """`blob` as text in each character encoding that would show a word."""
    yield "utf-8", blob.decode("utf-8", "ignore")
    if BINARY.search(blob):
        for start in (0, 1):
            for name in ("utf-16-le", "utf-16-be"):
                yield name, blob[start:].decode(name, "ignore")
        yield "without zeros", blob.replace(b"\0", b"").decode("utf-8", "ignore")


def decodings(blob):
    """What `blob`, or a part of it, says when it is taken for an encoding of something else."""
    for run in BASE64_RUN.findall(blob):
        yield from based64(run)
    joined = b"".join(blob.split())
    if joined != blob:
        for run in BASE64_RUN.findall(joined):
            if len(run) >= 76:  # lines of MIME
                yield from based64(run)
    for run in HEX_RUN.findall(blob):
        digits = re.sub(rb"[^0-9A-Fa-f]", b"", run)
        for start in (0, 1):
            part = digits[start : len(digits) - (len(digits) - start) % 2]
            yield "hex", binascii.unhexlify(part)
    if b"%" in blob or b"+" in blob:
        yield "percent escapes", urllib.parse.unquote_to_bytes(blob.replace(b"+", b" "))
    if b"\\" in blob:
        plain = JSON_ESCAPE.sub(lambda found: from_json(found[1]), blob)
        yield "json escapes", re.sub(rb"\\+[nrtbf]", b" ", plain).replace(b"\\", b"")
    if b"&" in blob:
        entities = html.unescape(blob.decode("utf-8", "ignore"))
        yield "html entities", entities.encode("utf-8", "ignore")
    yield from inflated(blob)


def based64(run):
    """Base64 in both alphabets, beginning at each of its four letters."""
    letters = run.replace(b"-", b"+").replace(b"_", b"/")
    for start in range(4):
        part = letters[start:]
        part = part[: len(part) - (len(part) % 4 == 1)]
        yield "base64", base64.b64decode(part + b"=" * (-len(part) % 4))


def from_json(digits):
    return (
        chr(int(digits, 16)).encode("utf-16", "surrogatepass").decode("utf-16", "ignore").encode()
    )


def inflated(blob):
    """Every stream of gzip, zlib or raw deflate that begins where one could."""
    starts = (0, *(found.end() for found in re.finditer(rb"\r\n\r\n", blob)))
    tries = [("deflate", start, -zlib.MAX_WBITS) for start in starts]
    tries += [("gzip", found.start(), 31) for found in re.finditer(rb"\x1f\x8b\x08", blob)]
    for head in ZLIB_HEADS:
        tries += [("zlib", m.start(), zlib.MAX_WBITS) for m in re.finditer(re.escape(head), blob)]
    for name, start, bits in tries:
        try:
            inner = zlib.decompressobj(bits).decompress(blob[start : start + MOST], MOST)
        except zlib.error:
            continue
        if len(inner) >= GRAM:
            yield name, inner
