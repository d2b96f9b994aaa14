"""Tables with times and folders of segments become streams."""

import csv
import os
import warnings

import numpy as np
import pytest
from PIL import Image

from aefocl.chronological_stream import csv_stream, folder_stream
from lipogram.errors import (
    InvalidFeatures,
    InvalidSetting,
    InvalidTimestamps,
    OutOfOrder,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPOGRAM_CACHE", str(tmp_path / "cache"))


def write(file, head, rows):
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([head.split(","), *rows])
    return file


def numbered(n=40, **columns):
    """Rows of three classes whose feature is their number."""
    return [[i, "abc"[i % 3], i, *(of(i) for of in columns.values())] for i in range(n)]


def tail(i):
    return "test" if i >= 30 else "train"


def test_rows_come_in_order_of_time_cut_at_the_boundaries(tmp_path):
    rows = numbered(split=tail)
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    file = write(tmp_path / "road.csv", "timestamp,label,x,split", shuffled)
    with pytest.warns(OutOfOrder) as record:
        stream = csv_stream(file, boundaries=[10, "12.5"])
    assert len(record) == 1
    arrived = [stream.data.train[task.train, 0].tolist() for task in stream.segments]
    assert arrived == [list(range(10)), [10, 11, 12], list(range(13, 30))]
    assert sorted(stream.data.test[:, 0]) == list(range(30, 40))
    assert stream.data.class_names == ("a", "b", "c")
    names = np.array(stream.data.class_names)
    for part, labels in (
        (stream.data.train, stream.data.train_labels),
        (stream.data.test, stream.data.test_labels),
    ):
        assert names[labels].tolist() == ["abc"[int(x) % 3] for x in part[:, 0]]
    assert stream.data.name == "road"


def test_rows_in_order_draw_no_warning_and_segments_are_equal_without_boundaries(tmp_path):
    file = write(tmp_path / "road.csv", "timestamp,label,x,split", numbered(split=tail))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream = csv_stream(file, segments=4)
    assert [len(task.train) for task in stream.segments] == [8, 7, 7, 8]
    assert stream.data.train[stream.order, 0].tolist() == list(range(30))


def test_rows_of_one_time_come_by_video_and_frame_as_numbers(tmp_path):
    rows = [[0, "a", 1, 10, 1], [0, "a", 2, 9, 12], [0, "a", 3, 9, 2], [1, "b", 4, 1, 1]]
    file = write(tmp_path / "t.csv", "timestamp,label,x,video,sequence", rows)
    stream = csv_stream(file, boundaries=[], test_share=0.25, seed=1)
    everything = stream.data.train[stream.order, 0].tolist()
    assert everything == [x for x in (3, 2, 1, 4) if x in everything]
    text = [[t, label, x, f"v{v}", s] for t, label, x, v, s in rows]
    file = write(tmp_path / "t.csv", "timestamp,label,x,video,sequence", text)
    stream = csv_stream(file, boundaries=[], test_share=0.25, seed=1)
    # As text, v10 comes before v9.
    everything = stream.data.train[stream.order, 0].tolist()
    assert everything == [x for x in (1, 3, 2, 4) if x in everything]


def test_whole_videos_are_held_out(tmp_path):
    rows = numbered(video=lambda i: i // 4)
    file = write(tmp_path / "t.csv", "timestamp,label,x,video", rows)
    stream = csv_stream(file, test_share=0.3)
    tested = {int(x) // 4 for x in stream.data.test[:, 0]}
    assert tested.isdisjoint(int(x) // 4 for x in stream.data.train[:, 0])
    assert len(stream.data.test) == 12
    assert {int(x) // 4 for x in csv_stream(file, test_share=0.3, seed=5).data.test[:, 0]} != tested
    two = write(tmp_path / "t.csv", "timestamp,label,x,video", numbered(8, video=lambda i: i // 4))
    assert len(csv_stream(two, test_share=0.99, segments=2).data.train) == 4


def test_without_videos_a_share_of_each_class_is_held_out(tmp_path):
    file = write(tmp_path / "t.csv", "timestamp,label,x", numbered())
    assert np.bincount(csv_stream(file, test_share=0.5).data.test_labels).tolist() == [7, 6, 6]


def test_one_video_or_nothing_left_is_refused(tmp_path):
    one = write(tmp_path / "t.csv", "timestamp,label,x,video", numbered(video=lambda i: 1))
    with pytest.raises(InvalidSetting, match="one video"):
        csv_stream(one)
    for part, missing in (("train", "test"), ("test", "train")):
        rows = numbered(split=lambda i, part=part: part)
        only = write(tmp_path / "t.csv", "timestamp,label,x,split", rows)
        with pytest.raises(InvalidSetting, match=f"no row to {missing} on"):
            csv_stream(only)
    file = write(tmp_path / "t.csv", "timestamp,label,x,video", numbered(video=lambda i: i))
    with pytest.raises(InvalidSetting, match="test_share is 1"):
        csv_stream(file, test_share=1)


def test_boundaries_of_another_kind_or_order_are_refused(tmp_path):
    file = write(tmp_path / "t.csv", "timestamp,label,x", numbered())
    with pytest.raises(InvalidSetting, match="a boundary is not"):
        csv_stream(file, boundaries=["2019-11-11"])
    with pytest.raises(InvalidSetting, match="strictly increasing"):
        csv_stream(file, boundaries=[5, 5])


def test_iso_times_and_boundaries(tmp_path):
    rows = [[f"2019-11-{11 + i // 4}T{10 + i % 4}:00:00", "ab"[i % 2], i] for i in range(12)]
    file = write(tmp_path / "t.csv", "timestamp,label,x", rows)
    stream = csv_stream(file, boundaries=["2019-11-12", "2019-11-13T12:00:00"])
    days = [stream.data.train[task.train, 0] for task in stream.segments]
    assert all(x < 4 for x in days[0])
    assert all(4 <= x < 10 for x in days[1])
    assert all(x >= 10 for x in days[2])
    with pytest.raises(InvalidTimestamps):
        csv_stream(file, boundaries=["noon"])


def test_malformed_rows_raise_or_are_remarked(tmp_path):
    rows = [*numbered(), ["soon", "a", 1], [50, "a", "x"]]
    file = write(tmp_path / "t.csv", "timestamp,label,x", rows)
    with pytest.raises(InvalidTimestamps, match=r"line 42.*line 43"):
        csv_stream(file)
    stream = csv_stream(file, skip_malformed=True)
    assert len(stream.data.train) + len(stream.data.test) == 40
    assert stream.remarks[0].startswith("2 malformed rows left out: line 42")


def paint(file, shade):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(file)


def reds(rows):
    """The shades of pictures by their features under the backbone `pixels`."""
    return np.round(rows[:, 0] * 255).astype(int).tolist()


def test_pictures_go_through_the_backbone_and_broken_ones_are_remarked(tmp_path):
    for i in range(12):
        paint(tmp_path / "frames" / f"{i}.png", 10 * i)
    (tmp_path / "frames" / "3.png").write_bytes(b"no picture")
    rows = [[i, "ab"[i % 2], f"{i}.png", "test" if i > 8 else "train"] for i in range(12)]
    rows.append([20, "b", "5.png", "train"])  # a frame twice
    file = write(tmp_path / "road.csv", "timestamp,label,path,split", rows)
    settings = {"pictures": tmp_path / "frames", "backbone": "pixels", "image_size": 4}
    stream = csv_stream(file, segments=2, progress=False, **settings)
    shades = reds(stream.data.train[stream.order])
    assert shades == [0, 10, 20, 40, 50, 60, 70, 80, 50]
    assert reds(stream.data.test) == [90, 100, 110]
    assert stream.data.train_labels.tolist() == [0, 1, 0, 0, 1, 0, 1, 0, 1]
    assert stream.duplicates == 1
    assert stream.remarks[0].startswith("pictures not decoded: 1, the first 3.png (")


def test_another_recording_of_the_same_names_and_sizes_is_not_taken_for_this_one(tmp_path):
    def frames(folder, shade, when):
        for i in range(8):
            file = folder / "day" / "ab"[i % 2] / f"{i}.bmp"  # uncompressed: one size for all
            paint(file, shade + i)
            os.utime(file, (when, when))
        rows = [[i, "ab"[i % 2], f"day/{'ab'[i % 2]}/{i}.bmp"] for i in range(8)]
        table = write(folder / "road.csv", "timestamp,label,path", rows)
        settings = {"backbone": "pixels", "image_size": 4, "progress": False}
        return [
            sorted(reds(stream.data.train) + reds(stream.data.test))
            for stream in (folder_stream(folder, **settings), csv_stream(table, **settings))
        ]

    here, there = tmp_path / "1" / "city", tmp_path / "2" / "city"
    for folder, shade, when in ((here, 10, 1000), (there, 50, 1000), (there, 90, 2000)):
        assert frames(folder, shade, when) == [list(range(shade, shade + 8))] * 2


def test_a_picture_that_is_not_there_is_a_malformed_row(tmp_path):
    file = write(tmp_path / "t.csv", "timestamp,label,path", [[1, "a", "none.png"]])
    with pytest.raises(InvalidFeatures, match="line 2"):
        csv_stream(file)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "city"
    for number, segment in enumerate(("1 day", "2 night", "3 day")):
        for frame in range(6):
            name = f"{frame}.png"
            paint(root / segment / ("car", "bus")[frame % 2] / name, 40 * number + frame)
    return root


def test_segments_are_folders_and_frames_come_by_name(folder):
    for frame in range(3):
        paint(folder / "test" / "tram" / f"{frame}.png", 200 + frame)
    stream = folder_stream(folder, backbone="pixels", image_size=4, progress=False)
    assert [task.name for task in stream.segments] == ["1 day", "2 night", "3 day"]
    assert reds(stream.data.train[stream.order]) == [40 * n + i for n in range(3) for i in range(6)]
    assert reds(stream.data.test) == [200, 201, 202]
    assert stream.data.class_names == ("bus", "car", "tram")
    assert stream.data.train_labels[stream.order].tolist() == [1, 0] * 9
    assert stream.segments[0].classes == (1, 0)


def test_a_folder_without_a_test_folder_holds_a_share_out(folder):
    stream = folder_stream(folder, backbone="pixels", image_size=4, test_share=0.3, progress=False)
    assert np.bincount(stream.data.test_labels).tolist() == [3, 3]
    assert len(stream.order) == 12
    for number, task in enumerate(stream.segments):
        assert all(40 * number <= s < 40 * number + 6 for s in reds(stream.data.train[task.train]))


def test_broken_pictures_in_a_folder_are_remarked(folder):
    (folder / "1 day" / "car" / "0.png").write_bytes(b"")
    stream = folder_stream(folder, backbone="pixels", image_size=4, progress=False)
    assert stream.remarks[0].startswith("pictures not decoded: 1, the first 1 day/car/0.png (")


def test_a_folder_without_what_is_needed_is_refused(tmp_path):
    with pytest.raises(InvalidSetting, match="is no folder"):
        folder_stream(tmp_path / "none")
    (tmp_path / "empty" / "a" / "b").mkdir(parents=True)
    with pytest.raises(InvalidSetting, match="SEGMENT/CLASS/FILE"):
        folder_stream(tmp_path / "empty")
    paint(tmp_path / "only" / "test" / "car" / "0.png", 1)
    with pytest.raises(InvalidSetting, match="SEGMENT/CLASS/FILE"):
        folder_stream(tmp_path / "only")
    (tmp_path / "broken" / "a" / "car").mkdir(parents=True)
    (tmp_path / "broken" / "a" / "car" / "0.png").write_bytes(b"x")
    with pytest.raises(InvalidSetting, match="no picture to train on"):
        folder_stream(tmp_path / "broken", backbone="pixels", image_size=4, progress=False)
