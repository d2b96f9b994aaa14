import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipogram.errors import InvalidSetting
from privacyrestore.strict_json import read_object

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=40)
@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_what_json_writes_is_read_back(value):
    assert read_object(json.dumps(value).encode(), max_depth=100) == value
    assert read_object(json.dumps(value, ensure_ascii=False).encode(), max_depth=100) == value


SECRET = "finding-07"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not JSON"),
        (b'"finding-07"', "not a JSON object"),
        (b"[1]", "not a JSON object"),
        (b'{"finding-07": 1', "not JSON"),
        (b'{"a": 1} finding-07', "not JSON"),
        (b"{'finding-07': 1}", "not JSON"),
        (b'{"finding-07": 1, "finding-07": 1}', "twice"),
        (b'{"a": {"finding-07": 1, "\\u0066inding-07": 2}}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a": "finding-07\n"}', "not JSON"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b'\xef\xbb\xbf{"a": 1}', "not JSON"),
        (b'{"a": "\xff"}', "UTF-8"),
        ('{"a": "finding-07"}'.encode("utf-16"), "UTF-8"),
        ('{"a": "finding-07"}'.encode("utf-16-be"), "not JSON"),
        (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "deeper"),
        (b'{"a": ' + b"[" * 100_000, "deeper"),
        (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "deeper"),
    ],
)
def test_anything_else_is_refused_without_being_repeated(body, told):
    with pytest.raises(InvalidSetting, match=told) as caught:
        read_object(body)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_pair_of_surrogates_is_one_character():
    assert read_object(b'{"a": "\\ud83d\\ude00"}') == {"a": "\N{GRINNING FACE}"}


@pytest.mark.parametrize("depth", [1, 5, 32])
def test_the_depth_that_is_allowed_is_allowed(depth):
    deepest = b'{"a": ' * (depth - 1) + b"{}" + b"}" * (depth - 1)
    read_object(deepest, max_depth=depth)
    with pytest.raises(InvalidSetting, match="deeper"):
        read_object(b'{"a": ' + deepest + b"}", max_depth=depth)
