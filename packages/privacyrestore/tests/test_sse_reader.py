"""Streams are read alike however they are cut, and hostile ones end in a typed error."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacyrestore.errors import Unreachable
from privacyrestore.sse_reader import Limits, events, json_object

LIMITS = Limits(line=200, total=5000, seconds=5)
OBJECTS = st.lists(
    st.dictionaries(st.text(max_size=5), st.text(max_size=10), max_size=3).filter(
        lambda each: len(json.dumps(each)) < 150
    ),
    max_size=6,
)


@given(OBJECTS, st.sampled_from(["\n", "\r", "\r\n"]), st.data())
def test_events_come_out_as_they_went_in_wherever_the_bytes_are_cut(objects, end, data):
    told = "\ufeff"
    for each in objects:
        noise = data.draw(st.sampled_from(["", f": alive{end}", f"id: 3{end}", f"retry: 9{end}"]))
        told += noise + f"data: {json.dumps(each)}{end}{end}"
    raw = (told + f"data: [DONE]{end}{end}data: after the end{end}{end}").encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=20)))
    chunks = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert list(events(chunks, LIMITS)) == objects
    assert list(events((raw[i : i + 1] for i in range(len(raw))), LIMITS)) == objects


def test_an_object_may_stand_on_several_data_lines():
    assert list(events([b'data: {"a":\ndata: 1}\n\ndata:[DONE]\n\n'], LIMITS)) == [{"a": 1}]


def endless(piece):
    while True:
        yield piece


@pytest.mark.parametrize(
    ("chunks", "told"),
    [
        ([], "broke off"),
        ([b'data: {"a": 1}\n\n'], "broke off"),
        ([b'data: {"a": 1}\n\ndata: {"a"'], "broke off"),
        ([b"data: [DONE]"], "broke off"),
        ([b"data: " + b"x" * 300], "line.*200"),
        ([b"data: " + b"x" * 300 + b"\n"], "line.*200"),
        (endless(b"x"), "line.*200"),
        (endless(b"data: x\n"), "event.*200"),
        (endless(b": alive\n\n"), "5000"),
        (endless(b"\n"), "5000"),
        ([b"data: no json\n\n"], "no JSON object"),
        ([b"data: [1]\n\n"], "no JSON object"),
        ([b'data: {"a": 1, "a": 2}\n\n'], "no JSON object"),
        ([b'data: {"a": NaN}\n\n'], "no JSON object"),
        ([b"data: \xff\xfe\n\n"], "no JSON object"),
        ([b"<html>not what was asked for</html>"], "broke off"),
    ],
)
def test_a_stream_that_breaks_the_rules(chunks, told):
    with pytest.raises(Unreachable, match=told) as caught:
        list(events(chunks, LIMITS))
    assert "no json" not in str(caught.value)
    assert "html" not in str(caught.value)


def test_what_came_before_the_break_was_handed_out():
    stream = events([b'data: {"a": 1}\n\ndata: {'], LIMITS)
    assert next(stream) == {"a": 1}
    with pytest.raises(Unreachable):
        next(stream)


def test_a_slow_stream_ends_when_its_time_is_over():
    with pytest.raises(Unreachable, match="longer than 0 s"):
        list(events(endless(b": alive\n\n"), Limits(seconds=0)))


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[" * 100_000, b'{"a": ' + b"9" * 10_000 + b"}", b"{} {}"]
)
def test_json_that_is_no_object(content):
    with pytest.raises(Unreachable, match="no JSON object"):
        json_object(content)
