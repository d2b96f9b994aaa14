import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psfuture.parallel_text import UnreadableText
from psfuture.typed_text import typed_words


def typed(chunks, unit="word"):
    left = [*chunks, b""]
    return list(typed_words(lambda: left.pop(0), unit))


def cut(content, places):
    edges = [0, *sorted({min(place, len(content)) for place in places}), len(content)]
    return [content[a:b] for a, b in itertools.pairwise(edges) if a < b]


letters = st.text(st.sampled_from("aé字 \t\r\n\u2028🙂"), max_size=30)


@given(letters, st.lists(st.integers(0, 90), max_size=6))
def test_words_do_not_depend_on_how_they_were_sent(text, places):
    found = typed(cut(text.encode(), places))
    expected = []
    lines = text.split("\n")
    for line in lines if lines[-1] else lines[:-1]:
        expected += [*line.split(), None]
    assert found == expected


def test_a_word_is_there_before_the_next_byte_is():
    chunks = [b"the ho", b"use", b" is ", b"big\n", b""]
    there = [[], ["the"], ["the"], ["the", "house", "is"], ["the", "house", "is", "big", None]]
    found = []

    def read():
        assert found == there.pop(0)
        return chunks.pop(0)

    for word in typed_words(read):
        found += [word]
    assert found == ["the", "house", "is", "big", None]


def test_characters_are_given_as_they_come():
    assert typed(["我们".encode(), "去".encode() + b"\n"], "char") == ["我们", "去", None]


def test_bytes_that_are_no_text_name_their_line():
    with pytest.raises(UnreadableText, match="line 2"):
        typed([b"fine\n\xff\xfe"])
    with pytest.raises(UnreadableText, match="line 1"):
        typed(["é".encode()[:1]])
