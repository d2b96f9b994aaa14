import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aefocl.clad import CladC
from aefocl.road_images import square_around
from lipogram.errors import BrokenImage

from .clad_tree import VAL, thing, write_tree

numbers = st.integers(-300, 3000)
lengths = st.integers(1, 3000)


@given(numbers, numbers, lengths, lengths, st.integers(1, 2000), st.integers(1, 2000))
def test_every_cut_is_a_square_inside_the_picture(x, y, w, h, width, height):
    left, top, right, bottom = square_around((x, y, w, h), width, height)
    assert right - left == bottom - top >= 0
    assert 0 <= left <= right <= width - 1
    assert 0 <= top <= bottom <= height - 1


@given(st.integers(0, 1919), st.integers(0, 1079), st.data())
def test_at_full_size_it_is_the_published_square(x, y, data):
    w = data.draw(st.integers(1, 1920 - x))
    h = data.draw(st.integers(1, 1080 - y))
    # The rule of the published reader, one shift after the other.
    half = min(max(w, h) // 2 + 5, 539)
    middle = {"x": x + w // 2, "y": y + h // 2}
    edges = {}
    for axis, last in (("x", 1919), ("y", 1079)):
        start, stop = middle[axis] - half, middle[axis] + half
        shift = -start if start < 0 else min(0, last - stop)
        edges[axis] = (start + shift, stop + shift)
    expected = (edges["x"][0], edges["y"][0], edges["x"][1], edges["y"][1])
    assert square_around((x, y, w, h), 1920, 1080) == expected


@given(st.integers(10, 60), st.integers(10, 40), st.integers(1, 20), st.integers(1, 20))
def test_an_object_that_fits_is_in_its_cut(x, y, w, h):
    left, top, right, bottom = square_around((x, y, w, h), 200, 150)
    assert left <= x
    assert top <= y
    assert x + w <= right
    assert y + h <= bottom
    assert right - left == 2 * (max(w, h) // 2 + 5)


def test_boxes_may_have_fractions():
    assert square_around((20.4, 10.2, 41.9, 30.0), 96, 54) == (15, 0, 65, 50)


def crowd(tmp_path, *annotations):
    tree = write_tree(tmp_path, val=(VAL[0], [*VAL[1], *annotations]))
    return tree, CladC(tree).train


def test_a_picture_that_is_not_there_or_broken_is_named(tmp_path):
    tree, train = crowd(tmp_path)
    folder = tree / "SSLAD-2D/labeled/val"
    (folder / "HT_000003.png").unlink()
    whole = (folder / "HT_000001.png").read_bytes()
    (folder / "HT_000001.png").write_bytes(whole[: len(whole) // 2])
    for i in (0, 1):
        with pytest.raises(BrokenImage, match=r"val/HT_000003\.png#10"):
            train.load(i)
    with pytest.raises(BrokenImage, match=r"val/HT_000001\.png#102"):
        train.load(2)
    assert train.load(3).shape == (50, 50, 3)
    # A picture that fails does not leave the one before it in its place.
    with pytest.raises(BrokenImage):
        train.load(2)


def test_a_picture_of_one_pixel_has_no_room(tmp_path):
    tree, train = crowd(tmp_path)
    from PIL import Image

    Image.new("RGB", (2, 2)).save(tree / "SSLAD-2D/labeled/val/HT_000003.png")
    with pytest.raises(BrokenImage, match="2 x 2 has no room"):
        train.load(0)


def test_a_box_beyond_the_picture_is_shifted_inside(tmp_path):
    _, train = crowd(tmp_path, thing(140, 4, bbox=[500, 500, 20, 20]))
    i = [o.id for o in train.objects].index(140)
    assert train.load(i)[0, 0, :2].tolist() == [95 - 30, 53 - 30]


def test_too_large_a_picture_is_refused(tmp_path):
    from aefocl.road_images import RoadImages

    tree, train = crowd(tmp_path)
    small = RoadImages("r", tree / "SSLAD-2D/labeled", train.objects, max_pixels=1000)
    with pytest.raises(BrokenImage, match="more than the limit"):
        small.load(0)
    assert (
        small.fingerprint != RoadImages("r", tree / "SSLAD-2D/labeled", train.objects).fingerprint
    )


def test_it_is_a_collection_like_any_other(tmp_path):
    from lipogram.analytic.backbones import load_backbone
    from lipogram.analytic.features import extract

    _, train = crowd(tmp_path, thing(140, 5, bbox=[30, 5, 20, 20]))
    store = extract(load_backbone("pixels", image_size=4), train, tmp_path / "store", workers=3)
    assert store.ids == train.ids
    assert np.array_equal(store.labels, train.labels)
