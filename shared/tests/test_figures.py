import struct
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipogram.errors import InvalidSetting
from lipogram.figures import _apart, accuracy_curves, per_class_bars

HOSTILE = [
    "<script>alert(1)</script>",
    "$\\frac{1}{$",
    "a\nb\x00",
    "\ud800",
    "字" * 40,
    "",
    "%s{x}",
]
LABELS = {"xlabel": "task", "ylabel": "accuracy", "title": "$ stream <b>"}


def png_size(path):
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", content[16:24])


@pytest.fixture(autouse=True)
def _no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_curves_of_many_methods_fit_a_readme(tmp_path):
    x = np.arange(0, 5000, 25)
    walks = 0.6 + np.random.default_rng(0).normal(0, 0.01, (9, len(x))).cumsum(axis=1)
    path = tmp_path / "curves.png"
    accuracy_curves({f"method {i}": (x, y) for i, y in enumerate(walks)}, path, **LABELS)
    width, height = png_size(path)
    assert 1000 <= width <= 1600
    assert 500 <= height <= 1000
    assert path.stat().st_size < 200 * 1024


def test_bars_of_many_methods_fit_a_readme(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "bars.png"
    accuracies = {f"method {i}": rng.uniform(size=44) for i in range(6)}
    per_class_bars([f"class {i}" for i in range(44)], rng.integers(1, 250, 44), accuracies, path)
    assert png_size(path)[0] == 1200
    assert path.stat().st_size < 200 * 1024


def test_bars_stand_in_order_of_class_size(tmp_path):
    path = tmp_path / "bars.svg"
    per_class_bars(["small", "big", "middle"], [1, 9, 5], {"m": [0.1, 0.2, 0.3]}, path)
    text = path.read_text()
    found = sorted((text.index(f"<!-- {name} -->"), name) for name in ("small", "big", "middle"))
    assert [name for _, name in found] == ["big", "middle", "small"]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_names_are_data(tmp_path, suffix):
    curves, bars = tmp_path / f"curves.{suffix}", tmp_path / f"bars.{suffix}"
    accuracy_curves({name: ([1, 2], [0.5, 0.6]) for name in HOSTILE}, curves, **LABELS)
    rates = np.linspace(0, 1, len(HOSTILE))
    per_class_bars(HOSTILE, range(len(HOSTILE)), dict.fromkeys(HOSTILE, rates), bars)
    for path in (curves, bars):
        assert b"<script" not in path.read_bytes()


def test_gaps_and_single_points_are_drawn(tmp_path):
    accuracy_curves({"one": ([1], [0.5])}, tmp_path / "a.png", **LABELS)
    accuracy_curves({"gap": ([1, 2, 3], [0.5, np.nan, 0.7])}, tmp_path / "b.png", **LABELS)
    accuracy_curves({"loss": ([0.1, 0.2], [-3, 40])}, tmp_path / "c.png", **LABELS)
    per_class_bars(["a", "b"], [0, 0], {"m": [np.nan, np.nan]}, tmp_path / "d.png")
    per_class_bars([str(i) for i in range(300)], range(300), {"m": [0.5] * 300}, tmp_path / "e.png")
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize(
    ("series", "name", "message"),
    [
        ({}, "x.png", "at least one series"),
        ({"a": ([1, 2], [0.5])}, "x.png", r"'a' has x of \(2,\) and y of \(1,\)"),
        ({"a": ([1], [np.nan])}, "x.png", "no finite point"),
        ({"a": ([1], [0.5])}, "x.pdf", r"x\.pdf"),
    ],
)
def test_curves_refuse_bad_input(tmp_path, series, name, message):
    with pytest.raises(InvalidSetting, match=message):
        accuracy_curves(series, tmp_path / name, **LABELS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("names", "counts", "accuracies", "message"),
    [
        ([], [], {"m": []}, "at least one class"),
        (["a"], [1], {}, "one method"),
        (["a"], [1, 2], {"m": [0.5]}, r"counts has shape \(2,\), there are 1 classes"),
        (["a"], [1], {"m": [0.5, 0.5]}, r"m has shape \(2,\)"),
        (["a"], [-1], {"m": [0.5]}, "counts must be >= 0"),
        (["a"], [1], {"m": [50.0]}, r"m must be in \[0, 1\]"),
    ],
)
def test_bars_refuse_bad_input(tmp_path, names, counts, accuracies, message):
    with pytest.raises(InvalidSetting, match=message):
        per_class_bars(names, counts, accuracies, tmp_path / "x.png")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.floats(0.001, 0.2))
def test_labels_are_moved_apart_and_keep_their_order(heights, gap):
    placed = _apart(heights, gap)
    order = np.argsort(heights, kind="stable")
    assert (np.diff(np.array(placed)[order]) >= gap - 1e-9).all()
    assert np.mean(placed) == pytest.approx(np.mean(heights))
    if (np.diff(np.sort(heights)) >= gap).all():
        assert placed == pytest.approx(heights)
