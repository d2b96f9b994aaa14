import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from aefocl.clad import SEGMENTS, CladC
from aefocl.clad_annotations import CLASS_NAMES
from lipogram.errors import (
    CorruptState,
    InvalidSetting,
    InvalidTimestamps,
    MissingAsset,
)

from .clad_tree import VAL, picture, pixels, thing, write_tree


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path)


def changed(images=(), annotations=()):
    """The validation file with more entries."""
    return VAL[0] + list(images), VAL[1] + list(annotations)


def test_six_segments_in_order_of_time_video_and_sequence(tree):
    clad = CladC(tree)
    assert [task.name for task in clad.segments] == [" ".join(segment) for segment in SEGMENTS]
    by_segment = [[o.id for o in segment.objects] for segment in clad]
    assert by_segment == [
        [103, 104, 102, 101],  # 09:30, 10:00, and 14:59:60, which is 15:00
        [105],
        [106, 113, 112, 111],  # one time: video 0, then 9 (frames 1, 2), then 13
        [107],
        [108],
        [109],
    ]
    assert [o.id for o in clad.train.objects] == [i for ids in by_segment for i in ids]
    assert np.concatenate([task.train for task in clad.segments]).tolist() == list(range(12))
    assert [len(images) for images in clad] == [len(task.train) for task in clad.segments]


def test_classes_are_the_categories(tree):
    clad = CladC(tree)
    names = [CLASS_NAMES[label] for label in clad.train.labels]
    assert names[:4] == ["Car", "Truck", "Cyclist", "Pedestrian"]
    assert clad.segments[0].classes == (2, 3, 1, 0)
    assert clad.segments[-1].seen == (2, 3, 1, 0, 4, 5)


@pytest.mark.parametrize("root", [".", "SSLAD-2D", "SSLAD-2D/labeled"])
def test_the_root_may_be_any_of_three_folders(tree, root):
    assert CladC(tree / root).train.fingerprint == CladC(tree).train.fingerprint


def test_repairs_are_listed_by_image(tree):
    clad = CladC(tree)
    assert [asdict(done) for done in clad.repairs] == [
        {"image": 2, "field": "time", "found": "145960", "read_as": "150000"},
        {"image": 5, "field": "time", "found": "13:00", "read_as": "130000"},
    ]
    clad.validation()
    assert [(done.found, done.read_as) for done in clad.repairs[2:]] == [("50181015", "20181015")]


def test_small_objects_and_those_of_the_published_rule_are_left_out(tree):
    assert CladC(tree).left_out == {"val": {"small": 1, "occlusion": 1}}
    ids = {
        rule: [o.id for o in CladC(tree, occluded=rule).train.objects]
        for rule in ("published", "visible", "any")
    }
    assert ids["visible"] == [115]
    assert sorted(ids["any"]) == sorted(ids["published"] + ids["visible"])
    assert 114 in [o.id for o in CladC(tree, min_area=1023).train.objects]
    with pytest.raises(InvalidSetting, match=r"'none'.*'published'"):
        CladC(tree, occluded="none")


def test_validation_is_the_rule_of_2021(tree):
    # From "val": not the days of a segment. From "train": tricycles, and cyclists at two instants.
    assert [(o.split, o.id) for o in CladC(tree).validation().objects] == [
        ("val", 110),
        ("train", 1),
        ("train", 3),
    ]


def test_the_whole_test_file_is_tested_on_whatever_its_times(tree):
    test = CladC(tree).test()
    assert test.labels.tolist() == [0, 2, 4]
    assert [o.moment is None for o in test.objects] == [True, False, False]


def test_a_cut_shows_the_object_in_its_own_picture(tree):
    clad = CladC(tree)
    for images in (clad.train, clad.validation(), clad.test()):
        for i, item in enumerate(images.objects):
            whole = pixels(item.split, item.image)
            # 40 x 30 at (20, 10): half of 40 and 5, so 50 pixels around (40, 25).
            assert np.array_equal(images.load(i), whole[0:50, 15:65])


def test_a_side_resizes_the_cut(tree):
    image = CladC(tree, side=64).train.load(0)
    assert image.shape == (64, 64, 3)
    # Columns 15 to 64 of a ramp stay a ramp.
    assert np.all(np.diff(image[32, :, 0].astype(int)) >= 0)
    with pytest.raises(InvalidSetting, match="side is 0"):
        CladC(tree, side=0)


def test_what_decides_the_pixels_changes_the_fingerprint(tree, tmp_path):
    clad = CladC(tree)
    moved = ([*VAL[0]], [*VAL[1][:-3], thing(113, 33, bbox=[21, 10, 40, 30]), *VAL[1][-2:]])
    other = CladC(write_tree(tmp_path / "other", val=moved))
    assert other.train.ids == clad.train.ids
    prints = {
        clad.train.fingerprint,
        other.train.fingerprint,
        CladC(tree, side=64).train.fingerprint,
    }
    file = tree / "SSLAD-2D/labeled/val/HT_000001.png"
    file.write_bytes(file.read_bytes() + b" ")
    prints.add(CladC(tree).train.fingerprint)
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("date", "time"),
    [("20191111", "256000"), ("20191111", "0930"), ("20191111", ""), ("20191111", "12:61:00")],
)
def test_a_training_time_that_no_table_knows_is_refused_by_image(tmp_path, date, time):
    tree = write_tree(tmp_path, val=changed([picture(40, date, time)], [thing(140, 40)]))
    with pytest.raises(InvalidTimestamps, match=r"image 40 \(HT_000040.png.*'times'"):
        CladC(tree)
    told = CladC(tree, times={"145960": "150000", "13:00": "130000", time: "093000"})
    assert [o.id for o in told.train.objects][:3] == [103, 104, 140]


def test_a_training_picture_whose_name_has_no_video_is_refused(tmp_path):
    stray = picture(40, "20191111", "100000", file_name_old="street.png")
    tree = write_tree(tmp_path, val=changed([stray], [thing(140, 40)]))
    with pytest.raises(InvalidTimestamps, match="image 40"):
        CladC(tree)


@pytest.mark.parametrize(
    "name",
    [
        "../../secret.png",
        "/etc/passwd",
        "a/../../b.png",
        "..\\b.png",
        "C:b.png",
        "",
        "a//b",
        "a\0b",
    ],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    tree = write_tree(tmp_path)
    file = tree / "SSLAD-2D/labeled/annotations/instance_val.json"
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = name
    file.write_text(json.dumps(content))
    with pytest.raises(CorruptState, match="image 1 is called"):
        CladC(tree)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 77}, "annotation 140 belongs to image 77"),
        ({"image_id": "1"}, "image_id '1'"),
        ({"category_id": 7}, "category 7"),
        ({"category_id": 0}, "category 0"),
        ({"category_id": True}, "category_id True"),
        ({"bbox": [1, 2, 0, 4]}, "the box"),
        ({"bbox": [1, 2, 3]}, "the box"),
        ({"bbox": [1, 2, 3, "4"]}, "the box"),
        ({"bbox": [1, 10**400, 30, 40]}, "the box"),
        ({"bbox": [float("nan"), 1, 30, 40]}, "the box"),
        ({"area": float("nan")}, "area nan"),
        ({"area": None}, "area None"),
        ({"occluded": "no"}, "occluded 'no'"),
        ({"id": 101}, "annotation 101 is there twice"),
        ({"id": None}, "id None"),
    ],
)
def test_an_annotation_that_makes_no_sense_is_named(tmp_path, change, message):
    tree = write_tree(tmp_path, val=changed(annotations=[thing(140, 1) | change]))
    with pytest.raises(CorruptState, match=message):
        CladC(tree)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 200_000,
        b'{"images": []}',
        b'{"images": [], "annotations": {}}',
        b'{"images": [3], "annotations": []}',
        b'{"images": [], "annotations": [3]}',
    ],
)
def test_a_file_that_is_no_annotation_is_refused(tree, content):
    (tree / "SSLAD-2D/labeled/annotations/instance_val.json").write_bytes(content)
    with pytest.raises(CorruptState, match=r"instance_val\.json"):
        CladC(tree)


def test_an_image_twice_is_refused(tmp_path):
    tree = write_tree(tmp_path, val=changed([picture(1, "20191111", "100000")]))
    with pytest.raises(CorruptState, match="image 1 is there twice"):
        CladC(tree)


def test_annotations_without_times_name_where_times_come_from(tmp_path):
    images = [{k: v for k, v in VAL[0][0].items() if k != "time"}]
    tree = write_tree(tmp_path, val=(images, []))
    with pytest.raises(MissingAsset, match="VerwimpEli/CLAD"):
        CladC(tree)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingAsset, match="holds no annotations"):
        CladC(tmp_path)
    clad = CladC(write_tree(tmp_path / "a", test=None, train=None))
    with pytest.raises(MissingAsset, match=r"instance_test\.json"):
        clad.test()
    with pytest.raises(MissingAsset, match=r"instance_train\.json"):
        clad.validation()
    with pytest.raises(MissingAsset, match="no object of the six"):
        CladC(write_tree(tmp_path / "b", val=([picture(1, "20180101", "100000")], [thing(1, 1)])))


def test_an_old_name_wins_over_the_name_and_may_be_missing(tmp_path):
    late = picture(40, "20191111", "093000", file_name="a_99_99.png")
    del late["file_name_old"]
    tree = write_tree(tmp_path, val=changed([late], [thing(140, 40)]))
    first = CladC(tree).train.objects[:3]
    assert [(o.id, o.video, o.sequence) for o in first] == [(103, 0, 3), (104, 0, 3), (140, 99, 99)]


def test_a_whole_crowd_decodes_each_picture_once(tree, monkeypatch):
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda f, **k: (opened.append(f.name), real(f, **k))[1])
    train = CladC(tree).train
    for i in range(2):  # objects 103 and 104 of one picture
        train.load(i)
    assert opened == ["HT_000003.png"]
