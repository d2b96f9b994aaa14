"""The scanner of the wire test finds what is there, in each writing, and nothing that is not."""

import base64
import codecs
import gzip
import html
import json
import secrets
import urllib.parse
import zlib

import pytest

from .leak_scanner import LeakScanner
from .span_corpus import FORMS, SpanCorpus
from .wire_recorder import whole_request

WORD = "vragbrobo"
TEXT = f"There is {WORD} rash, since May."


def deflated(data):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


WRITINGS = {
    "plain": TEXT.encode(),
    "upper": TEXT.upper().encode(),
    "accents": TEXT.replace("o", "ó").encode(),
    "spread": " ".join(TEXT).encode(),
    "zero width": TEXT.replace("gb", "g\u200bb").encode(),
    "utf-16-le": TEXT.encode("utf-16-le"),
    "utf-16-be": TEXT.encode("utf-16-be"),
    "utf-16 off by one": b"x" + TEXT.encode("utf-16-be"),
    "utf-32": TEXT.encode("utf-32"),
    "full width": "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in TEXT).encode(),
    "reversed": TEXT[::-1].encode(),
    "base64": base64.b64encode(TEXT.encode()),
    "base64, one byte on": base64.b64encode(b"x" + TEXT.encode()),
    "base64, two bytes on": base64.b64encode(b"xy" + TEXT.encode()),
    "base64, url-safe": base64.urlsafe_b64encode(b"\xff\xfe\xfd" + TEXT.encode()),
    "base64 without padding": base64.b64encode(TEXT.encode()).rstrip(b"="),
    "base64 glued to letters": b"tag" + base64.b64encode(TEXT.encode()),
    "base64 of the word": base64.b64encode(WORD.encode()),
    "base64 in mime lines": base64.encodebytes(b"x" * 70 + TEXT.encode() * 3),
    "base64 of utf-16": base64.b64encode(TEXT.encode("utf-16")),
    "hex": TEXT.encode().hex().encode(),
    "hex, upper, glued": b"a" + TEXT.encode().hex().upper().encode(),
    "hex with spaces": TEXT.encode().hex(" ").encode(),
    "percent": urllib.parse.quote(TEXT).encode(),
    "percent, each byte": "".join(f"%{byte:02x}" for byte in TEXT.encode()).encode(),
    "form": urllib.parse.urlencode({"q": TEXT}).encode(),
    "json": json.dumps({"q": TEXT}).encode(),
    "json escapes": "".join(f"\\u{ord(letter):04x}" for letter in TEXT).encode(),
    "json in json": json.dumps("".join(f"\\u{ord(letter):04X}" for letter in TEXT)).encode(),
    "json newline": json.dumps(TEXT.replace("gb", "g\nb")).encode(),
    "entities": "".join(f"&#{ord(letter)};" for letter in TEXT).encode(),
    "hex entities": "".join(f"&#x{ord(letter):x};" for letter in TEXT).encode(),
    "named entities": html.escape(TEXT.replace("gb", "g&b")).replace("amp;", "shy;").encode(),
    "gzip": gzip.compress(TEXT.encode()),
    "zlib": zlib.compress(TEXT.encode()),
    "deflate": deflated(TEXT.encode()),
    "gzip in a body": b"POST / HTTP/1.1\r\n\r\n" + gzip.compress(TEXT.encode()),
    "deflate in a body": b"POST / HTTP/1.1\r\n\r\n" + deflated(TEXT.encode()),
    "gzip in base64 in json": json.dumps(base64.b64encode(gzip.compress(TEXT.encode())).decode())
    .encode(),
}  # fmt: skip


@pytest.mark.parametrize("writing", WRITINGS)
def test_a_word_is_found_in_every_writing(writing):
    around = b"POST /v1/chat/completions HTTP/1.1\r\nx-note: "
    scanner = LeakScanner([WORD, "elsewhere"])
    assert {leak.word for leak in scanner.scan(WRITINGS[writing])} == {WORD}
    if "deflate" not in writing:  # raw deflate has no head by which to find its begin
        assert {leak.word for leak in scanner.scan(around + WRITINGS[writing] + b"\r\n")} == {WORD}


def test_a_leak_says_how_it_was_written():
    (leak, *_) = LeakScanner([WORD]).scan(base64.b64encode(TEXT.encode("utf-16-be")))
    assert leak.word == WORD
    assert "base64 > " in leak.written


def test_nothing_is_found_where_nothing_is():
    scanner = LeakScanner(SpanCorpus(3).markers)
    body = json.dumps({"messages": "I am 41.", "meta": base64.b64encode(secrets.token_bytes(4096))
                       .decode()}).encode()  # fmt: skip
    assert scanner.scan(b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" + body) == []
    assert scanner.scan(secrets.token_bytes(1 << 16)) == []
    assert LeakScanner([WORD]).scan(codecs.encode(TEXT, "rot13").encode()) == []


def test_words_too_short_to_be_rare_are_refused():
    with pytest.raises(ValueError, match=r"'bro-ra'.*6 letters"):
        LeakScanner([WORD, "bro-ra"])


def test_every_question_of_the_corpus_shows_its_words():
    corpus = SpanCorpus(0)
    scanner = LeakScanner(corpus.markers)
    questions = corpus.questions(200)
    for question in questions:
        words = {
            word
            for span in question.canonical
            for word in (span.split()[0], corpus.aliases[span][0].split()[0])
        }
        found = {leak.word for leak in scanner.scan(question.text.encode())}
        assert found <= words
        assert len(found) == len(question.canonical)
        assert not scanner.scan(question.template.encode())
    assert {form for question in questions for form in question.forms} == {
        form.__name__ for form in FORMS
    }
    assert [q.text for q in SpanCorpus(0).questions(200)] == [q.text for q in questions]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_the_recorder_knows_when_a_request_is_whole(request_bytes):
    for size in range(len(request_bytes)):
        assert whole_request(request_bytes[:size]) is None
    assert whole_request(request_bytes) == len(request_bytes)
    assert whole_request(request_bytes + b"GET") == len(request_bytes)
