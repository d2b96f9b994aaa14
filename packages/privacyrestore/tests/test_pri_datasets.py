"""What a file of questions must be, and what the real ones are like where a copy is at hand."""

import json
from pathlib import Path

import pytest

from lipogram.errors import InvalidProbes, MissingAsset
from privacyrestore.pri_datasets import (
    PrivateQuestion,
    load_questions,
    load_spans,
    removal_residue,
)
from privacyrestore.span_detector import SpanDetector
from privacyrestore.span_removal import remove_spans

LOCAL = Path(__file__).parents[4] / "shared/data/privacyrestore"
SPANS = ("mild cough", "finding-07", "cold feet")
GOOD = {
    "age": 200,  # as the real ones have beside what is read
    "question": "Somebody has mild cough, hiccups and cold feet. What is it?",
    "question_removed": "Somebody has hiccups. What is it?",
    "private_spans": ["cold feet", "mild cough"],
    "kept_spans": ["hiccups"],
    "options": ["a cold", "a joke", "nothing"],
    "answer": "a cold",
    "answer_index": 0,
}
local = pytest.mark.skipif(not LOCAL.is_dir(), reason="no local copy of the data sets")
EACH = pytest.mark.parametrize("name", ["ddxplus", "nlice", "slja"])


def write(path, *rows):
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_rows_come_in_order_with_ids_for_spans(tmp_path):
    other = GOOD | {"private_spans": [], "kept_spans": [], "answer": "nothing", "answer_index": 2}
    found = load_questions(write(tmp_path / "q.jsonl", GOOD, b"", other), SPANS)
    assert found[0] == PrivateQuestion(
        question=GOOD["question"],
        question_removed=GOOD["question_removed"],
        span_ids=(2, 0),
        kept_spans=("hiccups",),
        options=("a cold", "a joke", "nothing"),
        answer="a cold",
        answer_index=0,
    )
    assert (found[1].span_ids, found[1].answer_index) == ((), 2)
    assert len(found) == 2


def test_a_span_named_twice_counts_once(tmp_path):
    row = GOOD | {"private_spans": ["cold feet", "mild cough", "cold feet"]}
    assert load_questions(write(tmp_path / "q.jsonl", row), SPANS)[0].span_ids == (2, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"question": "  "}, "question must be a text"),
        ({"question_removed": None}, "question_removed must be a text"),
        ({"private_spans": "mild cough"}, "private_spans must be a list"),
        ({"private_spans": ["mild cough", 7]}, "private_spans must be a list"),
        ({"private_spans": ["mild cough", "warm feet"]}, r"private_spans\[1\].*3 spans"),
        ({"kept_spans": {}}, "kept_spans must be a list"),
        ({"options": ["a cold"]}, "options.*1 of 1"),
        ({"options": ["a cold", "a cold", "b"]}, "options.*2 of 3"),
        ({"answer_index": 3}, "answer_index.*0 to 2"),
        ({"answer_index": -3}, "answer_index.*0 to 2"),
        ({"answer_index": True}, "answer_index.*0 to 2"),
        ({"answer_index": 0.0}, "answer_index.*0 to 2"),
        ({"answer_index": 1}, "not option 1"),
        ({"answer": "warm feet"}, "not option 0"),
    ],
)
def test_a_bad_field_is_named_with_its_line_and_not_repeated(tmp_path, change, said):
    path = write(tmp_path / "q.jsonl", GOOD, GOOD | change)
    with pytest.raises(InvalidProbes, match=f"q.jsonl, line 2: .*{said}") as caught:
        load_questions(path, SPANS)
    for text in ("mild cough", "warm feet", "a cold", "Somebody"):
        assert text not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in GOOD if name != "age"])
def test_a_missing_field_is_named_with_its_line(tmp_path, name):
    row = {key: value for key, value in GOOD.items() if key != name}
    with pytest.raises(InvalidProbes, match=f"line 1: .*{name}"):
        load_questions(write(tmp_path / "q.jsonl", row), SPANS)


@pytest.mark.parametrize(
    "line",
    [
        b"[1, 2]",
        b'"text"',
        b"{",
        b"\xff\xfe",
        b'{"question": "a", "question": "b"}',
        b'{"answer_index": NaN}',
        b"[" * 100_000,
    ],
)
def test_a_line_that_is_no_object_is_refused(tmp_path, line):
    with pytest.raises(InvalidProbes, match=r"q.jsonl, line 3: not a JSON object"):
        load_questions(write(tmp_path / "q.jsonl", GOOD, GOOD, line, GOOD), SPANS)


def test_files_that_are_not_there_or_hold_nothing(tmp_path):
    for load in (load_spans, lambda path: load_questions(path, SPANS)):
        with pytest.raises(MissingAsset, match=r"gone\.json"):
            load(tmp_path / "gone.json")
        with pytest.raises(InvalidProbes, match="cannot be read"):
            load(tmp_path)
    with pytest.raises(InvalidProbes, match="no questions"):
        load_questions(write(tmp_path / "q.jsonl", b"", b"  "), SPANS)


def test_spans_are_read_by_their_place(tmp_path):
    assert load_spans(write(tmp_path / "s.json", SPANS)) == SPANS


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[]", "at least one span"),
        (b'{"a": 1}', "at least one span"),
        (b'["a", " "]', "entry 1"),
        (b'["a", 3]', "entry 1"),
        (b'["a", "b", "a"]', "entries 0 and 2"),
        (b'["a",\n"b" "c"]', "line 2"),
        (b'["\xff"]', "UTF-8"),
        (b"[" * 100_000, "not a JSON array"),
    ],
)
def test_spans_that_are_none(tmp_path, content, said):
    with pytest.raises(InvalidProbes, match=rf"s\.json.*{said}"):
        load_spans(write(tmp_path / "s.json", content))


def test_residue_counts_rows_and_only_spans_that_were_removed(tmp_path):
    left = GOOD | {"question_removed": "Somebody has mild coughing and cold feet."}
    kept = GOOD | {"question_removed": "Somebody has cold feet.", "private_spans": ["mild cough"]}
    rows = load_questions(write(tmp_path / "q.jsonl", GOOD, left, kept), SPANS)
    assert removal_residue(rows, SPANS) == 1


def of(name, split):
    vocabulary = load_spans(LOCAL / f"pri_{name}_spans.json")
    return vocabulary, load_questions(LOCAL / f"pri_{name}_{split}.jsonl", vocabulary)


@local
@EACH
def test_the_real_files_hold_what_is_known_of_them(name):
    size, dev, test, residue, spans = {
        "ddxplus": (149, 309, 1549, 59, 8934),
        "nlice": (64, 130, 650, 0, 2759),
        "slja": (142, 130, 654, 14, 2022),
    }[name]
    vocabulary, rows = of(name, "test")
    assert (len(vocabulary), len(rows), len(of(name, "dev")[1])) == (size, test, dev)
    assert removal_residue(rows, vocabulary) == residue
    assert sum(len(row.span_ids) for row in rows) == spans
    assert {len(row.options) for row in rows} == {4}


@local
@EACH
def test_the_detector_finds_what_is_labelled_and_nothing_after_removal(name):
    vocabulary, rows = of(name, "dev")
    detector = SpanDetector(vocabulary)
    found = labelled = 0
    for row in rows:
        wanted = set(row.span_ids)
        labelled += len(wanted)
        found += len(wanted & {span.span_id for span in detector.find(row.question)})
        left = remove_spans(row.question, detector).text
        assert not detector.find(left)
        assert not any(vocabulary[i] in left for i in wanted)
    assert found == labelled
