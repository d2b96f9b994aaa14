"""Open Clip Art, emoji and digits as streams."""

import json

import numpy as np
import pytest
from PIL import Image

from aefocl.image_streams import digits_stream, emoji_stream, openclipart_stream
from lipogram.analytic.emoji import VENDORS
from lipogram.errors import InvalidSetting, MissingAsset

# 48 features a picture: 16 of red, then green, then blue.
PIXELS = {"backbone": "pixels", "image_size": 4}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPOGRAM_CACHE", str(tmp_path / "cache"))


def paint(file, *colour):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(file, lossless=True)


@pytest.fixture
def drawings(tmp_path):
    """A sub-category of 260 drawings, more than the usual cap, and one of 21."""
    root = tmp_path / "clipart"
    for name, n, green in (
        ("animals/birds", 260, 0),
        ("food/fruit", 21, 255),
        ("food/rare", 19, 9),
    ):
        for i in range(n):
            paint(root / name / f"{i:03d}.png", i % 256, green, i // 256)
    return root


def test_no_class_of_openclipart_is_cut_short(drawings):
    (drawings / "food/fruit/000.png").write_bytes(b"no picture")
    stream = openclipart_stream(folder=drawings, segments=5, progress=False, **PIXELS)
    assert stream.data.class_names == ("animals/birds", "food/fruit")
    tested = np.bincount(stream.data.test_labels)
    assert tested.tolist() == [65, 5]
    assert (stream.class_counts + tested).tolist() == [260, 20]
    assert [len(task.train) for task in stream.segments] == [42] * 5
    assert stream.remarks[0].startswith("drawings not decoded: 1, the first food/fruit/000.png (")
    # Greens tell the class of each picture.
    for rows, labels in (
        (stream.data.train, stream.data.train_labels),
        (stream.data.test, stream.data.test_labels),
    ):
        assert np.array_equal(rows[:, 16] > 0.5, labels == 1)


def test_openclipart_comes_in_runs_each_class_by_its_file_names(drawings):
    stream = openclipart_stream(folder=drawings, burst=4, seed=3, progress=False, **PIXELS)
    rows = np.round(stream.data.train[stream.order] * 255)
    labels = stream.data.train_labels[stream.order]
    number = rows[:, 0] + 256 * rows[:, 32]
    assert all(np.all(np.diff(number[labels == k]) > 0) for k in (0, 1))
    again = openclipart_stream(folder=drawings, burst=4, seed=3, progress=False, **PIXELS)
    assert np.array_equal(stream.order, again.order)


@pytest.fixture
def vendors(tmp_path):
    """Two groups of eight emoji by three vendors, each in a colour of its own."""
    groups = ("Smileys", "Flags")
    table = [
        {"image": f"{100 + i:x}.png", "category": groups[i // 8], "sort_order": i}
        for i in range(16)
    ]
    roots = {}
    for number, vendor in enumerate(VENDORS):
        root = roots[vendor.name] = tmp_path / vendor.asset
        for i, entry in enumerate(table):
            colour = [0, 0, 0]
            colour[number] = 100 + 5 * i
            paint(root / vendor.file.format(entry["image"].removesuffix(".png")), *colour)
    (roots["Google"] / "emoji.json").write_text(json.dumps(table))
    return roots


def test_emoji_come_vendor_by_vendor_and_those_held_out_are_tested_in_every_style(vendors):
    stream = emoji_stream(folders=vendors, **PIXELS)
    assert [task.name for task in stream.segments] == ["Google", "Twitter", "Microsoft"]
    assert stream.data.class_names == ("Flags", "Smileys")
    trained = []
    for number, task in enumerate(stream.segments):
        rows = np.round(stream.data.train[task.train] * 255)[:, ::16]
        others = [channel for channel in range(3) if channel != number]
        assert np.all(rows[:, others] == 0)
        trained.append(rows[:, number].tolist())
        # In Unicode's order, so group after group.
        assert np.all(np.diff(rows[:, number]) > 0)
        assert stream.data.train_labels[task.train].tolist() == [1] * 6 + [0] * 6
    assert trained[0] == trained[1] == trained[2]
    tested = np.round(stream.data.test * 255)[:, ::16]
    assert np.count_nonzero(tested, axis=0).tolist() == [4, 4, 4]
    assert set(tested.max(axis=1)).isdisjoint(trained[0])
    assert stream.data.test_labels.tolist() == [1, 1, 0, 0] * 3


def test_without_drawings_the_emoji_say_what_is_missing(vendors):
    file = vendors["Twitter"] / VENDORS[1].file.format("64")
    file.write_bytes(b"no picture")
    with pytest.raises(MissingAsset, match="of Twitter"):
        emoji_stream(folders=vendors, **PIXELS)


def test_digits_are_long_tailed_in_another_order_for_another_seed():
    stream = digits_stream(seed=0)
    counts = np.sort(stream.class_counts)
    assert counts[-1] >= 100 * counts[0] > 0 or counts[0] == 1
    assert len(stream.segments) == 6
    assert np.all(np.bincount(stream.data.test_labels) > 40)
    other = digits_stream(seed=1)
    assert np.argsort(other.class_counts).tolist() != np.argsort(stream.class_counts).tolist()
    with pytest.raises(InvalidSetting, match="rho"):
        digits_stream(rho=0.5)
