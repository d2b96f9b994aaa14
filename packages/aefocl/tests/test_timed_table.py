import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aefocl.timed_table import read_timed_table
from lipogram.errors import (
    InvalidFeatures,
    InvalidLabels,
    InvalidSetting,
    InvalidTimestamps,
    LipogramError,
)

GOOD = "timestamp,label,a,b,video\n1,car,0.5,-1,v\n2,bus,1e3,2,w\n"


@pytest.fixture
def table(tmp_path):
    def write(text):
        file = tmp_path / "stream.csv"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return write


def test_columns_are_told_apart_by_name(table):
    found = read_timed_table(table(GOOD))
    assert [(row.line, row.time, row.label, row.features, row.video) for row in found.rows] == [
        (2, "1", "car", (0.5, -1.0), "v"),
        (3, "2", "bus", (1000.0, 2.0), "w"),
    ]
    assert found.columns == {"video"}
    assert found.numeric
    assert found.malformed == {}


def test_a_byte_order_mark_blanks_and_empty_lines_do_not_matter(table):
    found = read_timed_table(table(b"\xef\xbb\xbf" + b" timestamp , label,a\n\n 1 , car ,2\n,,\n"))
    assert [(row.line, row.label) for row in found.rows] == [(3, "car")]


def test_iso_times(table):
    found = read_timed_table(table("timestamp,label,a\n2019-11-11T09:00:00+08:00,car,1\n"))
    assert not found.numeric


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ("3,car,1,2", InvalidFeatures, r"line 4 \(4 cells, the head has 5"),
        ("3,car,1,2,v,w", InvalidFeatures, r"6 cells"),
        ("x,car,1,2,v", InvalidTimestamps, "timestamp 'x'"),
        ("nan,car,1,2,v", InvalidTimestamps, "timestamp 'nan'"),
        ("2019-11-11,car,1,2,v", InvalidTimestamps, "another kind"),
        ("3,,1,2,v", InvalidLabels, "no label"),
        ("3,car,one,2,v", InvalidFeatures, "a 'one'"),
        ("3,car,1,inf,v", InvalidFeatures, "b 'inf'"),
        ("3,car,1,,v", InvalidFeatures, "b ''"),
    ],
)
def test_malformed_rows_are_named_by_line_or_left_out(table, row, error, message):
    file = table(GOOD + row + "\n4,car,1,1,v\n")
    with pytest.raises(error, match=r"stream\.csv: line 4.*skip_malformed"):
        read_timed_table(file)
    with pytest.raises(error, match=message):
        read_timed_table(file)
    found = read_timed_table(file, skip_malformed=True)
    assert [row.line for row in found.rows] == [2, 3, 5]
    assert list(found.malformed) == [4]


def test_many_malformed_rows_are_counted(table):
    with pytest.raises(InvalidTimestamps, match=r"line 2 .*line 6 .* and 4 more"):
        read_timed_table(table("timestamp,label,a\n" + "x,car,1\n" * 9))
    with pytest.raises(InvalidSetting, match="no row that can be read"):
        read_timed_table(table("timestamp,label,a\n" + "x,car,1\n" * 9), skip_malformed=True)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("", "no column timestamp and no column label"),
        ("label,a", "no column timestamp"),
        ("timestamp,a", "no column label"),
        ("timestamp,label", "neither a column 'path' nor"),
        ("timestamp,label,video,split", "neither a column 'path' nor"),
        ("timestamp,label,a,a", "two columns 'a'"),
    ],
)
def test_a_head_that_is_not_enough_is_refused(table, head, message):
    with pytest.raises(InvalidSetting, match=message):
        read_timed_table(table(head + "\n1,car,1,1\n"))


@pytest.mark.parametrize("split", ["Train", "val", ""])
def test_a_split_is_train_or_test(table, split):
    with pytest.raises(InvalidLabels, match="neither train nor test"):
        read_timed_table(table(f"timestamp,label,split,a\n1,car,{split},1\n"))


@pytest.mark.parametrize(
    "path", ["../up.png", "/etc/passwd", "a\\b.png", "C:a.png", "./in.png", "a//b.png", ""]
)
def test_a_picture_stays_below_the_folder(table, path):
    with pytest.raises(InvalidFeatures, match="no plain path"):
        read_timed_table(table(f"timestamp,label,path\n1,car,{path}\n"))


def test_a_picture_has_to_be_there(table, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    file = table("timestamp,label,path,note\n1,car,in/a.png,x\n2,car,in/b.png,y\n")
    with pytest.raises(InvalidFeatures, match=r"line 3 \(there is no file 'in/b.png'"):
        read_timed_table(file)
    assert len(read_timed_table(file, skip_malformed=True).rows) == 1
    near = table("timestamp,label,path\n1,car,a.png\n")
    assert len(read_timed_table(near, pictures=tmp_path / "in").rows) == 1


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_timed_table(tmp_path / "none.csv")


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("fuzz") / "stream.csv"
    for head in (b"", b"timestamp,label,a\n1,car,1\n"):
        file.write_bytes(head + content)
        with contextlib.suppress(LipogramError):
            assert read_timed_table(file).rows
