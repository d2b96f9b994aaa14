"""Records come from any of the usual places, and their texts never get into a message."""

import csv
import dataclasses
import hashlib
import hmac
import json
import os
import warnings

import pytest

from lipogram.errors import CorruptState, InvalidSetting, LipogramError, MissingAsset
from rewardds.data_key import data_key
from rewardds.errors import InvalidRecords, RepeatedRecords
from rewardds.record_layouts import LAYOUTS
from rewardds.records import PrivateRecord, PrivateRecords, PublicRecords, Record, read_records

KEY = b"0123456789abcdef"
SECRET = "the-quiet-heron"  # stands for what must not be told


def turns(question, answer):
    said = [("system", "Be short."), ("user", question), ("assistant", answer)]
    return [{"role": role, "content": text} for role, text in said]


ROWS = {
    "messages": [{"messages": turns("q1", "a1")}, {"messages": turns("q2", "a2")[1:]}],
    "prompt and completion": [
        {"prompt": "q1", "completion": "a1"},
        {"prompt": turns("q2", "a2")[:2], "completion": turns("q2", "a2")[2:]},
    ],
    "instruction, input and output": [
        {"instruction": "q1", "input": "", "output": "a1"},
        {"instruction": "", "input": "q2", "output": "a2"},
    ],
    "instruction and response": [
        {"instruction": "q1", "response": "a1"},
        {"instruction": "q2", "response": "a2"},
    ],
    "instruction and output": [
        {"instruction": "q1", "output": "a1"},
        {"instruction": "q2", "output": "a2"},
    ],
    "question and answer": [{"question": f"q{i}", "answer": f"a{i}"} for i in (1, 2)],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_records(layout):
    records = read_records(ROWS[layout], key=KEY)
    assert list(records) == [PrivateRecord("0", "q1", "a1"), PrivateRecord("1", "q2", "a2")]
    assert isinstance(records, PrivateRecords)
    assert records.n == len(records) == 2
    assert records.texts() == ["q1", "a1", "q2", "a2"]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_every_file_gives_the_same_records(suffix, tmp_path):
    rows = [
        {"id": "x", "instruction": 'a "q",\nso', "response": "ä", "group": "eve"},
        {"id": "y", "instruction": "line\u2028end", "response": "", "group": ""},
    ]
    path = tmp_path / f"records{suffix}"
    if suffix == ".csv":
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".json":
        path.write_text(json.dumps(rows), "utf-8")
    else:
        lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        path.write_bytes(b"\xef\xbb\xbf" + lines.encode() + b"\n\n")
    read = read_records(path, private=False)
    assert isinstance(read, PublicRecords)
    assert list(read) == [Record(**row) for row in rows]
    assert type(read[0]) is Record


def test_columns_are_named_where_they_have_other_names():
    rows = [{"Q": "why", "A": "so", "who": 7, "number": 3}]
    named = {"instruction": "Q", "response": "A", "group": "who", "id": "number"}
    (record,) = read_records(rows, columns=named, key=KEY)
    assert record == PrivateRecord("3", "why", "so", "7")


@pytest.mark.slow  # the library takes seconds to import
def test_a_data_set_in_memory_is_read():
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list(ROWS["question and answer"])
    assert read_records(rows, key=KEY).texts() == ["q1", "a1", "q2", "a2"]


def test_the_fingerprint_is_of_the_contents_and_keyed():
    first = read_records(ROWS["question and answer"], key=KEY)
    turned = [Record("b", "q2", "a2"), Record("a", "q1", "a1")]
    assert PrivateRecords(turned, KEY).fingerprint == first.fingerprint
    assert PrivateRecords(turned, KEY[::-1]).fingerprint != first.fingerprint
    parts = [
        b"".join(len(text).to_bytes(8, "big") + text for text in (question, answer, b""))
        for question, answer in ((b"q1", b"a1"), (b"q2", b"a2"))
    ]
    digests = sorted(hmac.new(KEY, part, hashlib.sha256).digest() for part in parts)
    told = hmac.new(KEY, b"records/1" + b"".join(digests), hashlib.sha256).hexdigest()
    assert first.fingerprint == told


@pytest.mark.parametrize("change", [{"instruction": "q1a", "response": "1"}, {"group": "eve"}])
def test_the_fingerprint_sees_every_change(change):
    records = read_records(ROWS["question and answer"], key=KEY)
    changed = [dataclasses.replace(records[0], **change), records[1]]
    assert PrivateRecords(changed, KEY).fingerprint != records.fingerprint


def test_private_records_do_not_show_their_texts():
    records = read_records([{"prompt": SECRET, "completion": SECRET}], key=KEY)
    assert SECRET not in f"{records!r} {records[0]!r} {records[:1]!r} {vars(records).keys()}"
    assert isinstance(records[:1], PrivateRecords)
    assert isinstance(records[0], PrivateRecord)
    assert records[:1].fingerprint == records.fingerprint


def bad(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    return path


BAD_FILES = {
    "broken.jsonl": b'{"prompt": "a", "completion": "b"}\n{"prompt": "' + SECRET.encode(),
    "list.jsonl": b'["' + SECRET.encode() + b'"]',
    "object.json": b'{"prompt": "' + SECRET.encode() + b'", "completion": ""}',
    "latin.jsonl": b'{"prompt": "' + SECRET.encode() + b'\xe4"}',
    "deep.json": b"[" * 100_000 + SECRET.encode(),
    "cells.csv": b"prompt,completion\n" + SECRET.encode() + b",a,b\n",
    "quote.csv": b'prompt,completion\n"' + SECRET.encode() + b'"x,a\n',
    "empty.jsonl": b"\n",
    "records.txt": SECRET.encode(),
    "column.jsonl": b'{"prompt": "' + SECRET.encode() + b'"}',
    "number.jsonl": b'{"prompt": "' + SECRET.encode() + b'", "completion": 0.5}',
    "turns.jsonl": json.dumps({"messages": turns(SECRET, SECRET) + turns("", "")[1:]}).encode(),
    "turn.jsonl": json.dumps({"messages": [SECRET]}).encode(),
    "twice.jsonl": b'{"id": "x", "prompt": "a", "completion": "b"}\n' * 2,
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_what_cannot_be_read_is_told_without_its_text(name, tmp_path):
    with pytest.raises(InvalidRecords) as caught:
        read_records(bad(name, BAD_FILES[name], tmp_path), key=KEY)
    error = caught.value
    assert SECRET not in str(error)
    assert isinstance(error, LipogramError)
    assert error.__suppress_context__ or error.__context__ is None  # a trace would show the text
    places = {"broken.jsonl": "line 2", "cells.csv": "line 2", "quote.csv": "after line 1"}
    places |= {"empty.jsonl": "no records", "twice.jsonl": "'x'"}
    assert places.get(name, name) in str(error)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(MissingAsset, match=r"none\.jsonl"):
        read_records(tmp_path / "none.jsonl")


@pytest.mark.parametrize("columns", [{}, {"instruction": "a"}, {"instruction": "a", "x": "b"}])
def test_columns_that_name_no_record(columns):
    with pytest.raises(InvalidSetting, match="instruction and response"):
        read_records([{"a": "b"}], columns=columns)


def test_records_of_other_kinds_are_refused():
    with pytest.raises(InvalidRecords, match="dict is no Record"):
        PublicRecords([{"instruction": "a"}])
    with pytest.raises(InvalidRecords, match="response is a int"):
        PublicRecords([Record("0", "a", 3)])
    with pytest.raises(InvalidRecords, match="16 bytes"):
        PrivateRecords([Record("0", "a", "b")], b"short")


def test_repeats_are_told_unless_groups_are():
    rows = [{"prompt": "a", "completion": "b"}] * 3
    with pytest.warns(RepeatedRecords, match="2 of 3.*'group'"):
        read_records(rows, key=KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_records([row | {"group": "eve"} for row in rows], key=KEY)


def test_the_key_is_made_once_and_is_for_the_user_alone(tmp_path):
    path = tmp_path / "state" / "key"
    key = data_key(path)
    assert len(key) == 32
    assert data_key(path) == key
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o644)
        with pytest.raises(InvalidSetting, match="chmod 600"):
            data_key(path)
        path.chmod(0o600)
    path.write_bytes(b"rewardds-key/1 00\n")
    with pytest.raises(CorruptState, match="no key"):
        data_key(path)
