import json

import numpy as np
import pytest

from aefocl.clad import SEGMENTS, CladC
from aefocl.clad_annotations import CLASS_NAMES
from aefocl.clad_features import OBJECTS, clad_stream, prepare_clad
from lipogram.analytic.backbones import load_backbone
from lipogram.errors import CorruptState, IncompatibleFeatures, MissingAsset

from .clad_tree import write_tree


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "soda")


@pytest.fixture
def pixels():
    return load_backbone("pixels", image_size=4)


def test_the_stream_is_the_segments_and_the_test_part(tree, pixels, tmp_path):
    told = []
    summary = prepare_clad(tree, tmp_path / "out", backbone=pixels, progress=told.append)
    assert summary["counts"]["train"] == dict(zip(CLASS_NAMES, [1, 1, 7, 1, 1, 1], strict=True))
    assert [len(summary["repairs"]), summary["left_out"]["val"]] == [
        3,
        {"small": 1, "occlusion": 1},
    ]
    stream = clad_stream(tmp_path / "out")
    assert [task.name for task in stream.segments] == [" ".join(segment) for segment in SEGMENTS]
    assert [len(task.train) for task in stream.segments] == [4, 1, 4, 1, 1, 1]
    clad = CladC(tree)
    for rows, labels, images in (
        (stream.data.train, stream.data.train_labels, clad.train),
        (stream.data.test, stream.data.test_labels, clad.test()),
    ):
        cuts = np.stack(
            [pixels(pixels.prepare(images.load(i))[None])[0] for i in range(len(images))]
        )
        np.testing.assert_allclose(rows, cuts, atol=1e-6)
        assert np.array_equal(labels, images.labels)
    assert stream.data.name == "clad-c (test)"
    assert stream.data.space == pixels.fingerprint
    assert stream.remarks == ("3 malformed dates and times repaired",)
    assert [task.train.tolist() for task in stream.segments] == [
        task.train.tolist() for task in clad.segments
    ]
    assert len(told) == 3


def test_every_object_is_described(tree, pixels, tmp_path):
    prepare_clad(tree, tmp_path / "out", backbone=pixels)
    about = json.loads((tmp_path / "out" / OBJECTS).read_text())
    assert about["objects"]["train"]["val/HT_000002.png#101"] == {
        "time": "2019-11-11T15:00:00",
        "date": "20191111",
        "period": "Daytime",
        "video": 0,
        "sequence": 2,
        "segment": 0,
        "split": "val",
        "box": [20.0, 10.0, 40.0, 30.0],
    }
    assert {name: len(part) for name, part in about["objects"].items()} == {
        "train": 12,
        "test": 3,
        "validation": 3,
    }
    assert about["objects"]["test"]["test/HT_000001.png#1"]["time"] is None


def test_without_a_test_part_the_validation_part_stands_in_and_says_so(tmp_path, pixels):
    summary = prepare_clad(write_tree(tmp_path / "s", test=None), tmp_path / "out", backbone=pixels)
    assert ["instance_test.json" in line for line in summary["missing"]] == [True]
    stream = clad_stream(tmp_path / "out")
    assert stream.data.name == "clad-c (validation)"
    assert "tested on the validation part: there is no test part" in stream.remarks
    assert len(stream.data.test) == 3
    with pytest.raises(MissingAsset):
        clad_stream(tmp_path / "out", test="test")


def test_the_validation_part_can_be_asked_for(tree, pixels, tmp_path):
    prepare_clad(tree, tmp_path / "out", backbone=pixels)
    assert clad_stream(tmp_path / "out", test="validation").data.test_labels.tolist() == [2, 1, 5]


def test_with_neither_part_it_is_an_error(tmp_path, pixels):
    tree = write_tree(tmp_path / "s", test=None, train=None)
    with pytest.raises(MissingAsset, match=r"instance_test\.json.*instance_train\.json"):
        prepare_clad(tree, tmp_path / "out", backbone=pixels)
    assert not (tmp_path / "out").exists()


def test_broken_pictures_are_left_out_and_counted(tree, pixels, tmp_path):
    (tree / "SSLAD-2D/labeled/val/HT_000003.png").write_bytes(b"\x89PNG no more")
    (tree / "SSLAD-2D/labeled/val/HT_000004.png").unlink()
    told = []
    summary = prepare_clad(tree, tmp_path / "out", backbone=pixels, progress=told.append)
    assert [entry["id"] for entry in summary["skipped"]["train"]] == [
        "val/HT_000003.png#103",
        "val/HT_000003.png#104",
        "val/HT_000004.png#105",
    ]
    stream = clad_stream(tmp_path / "out")
    # The second segment has lost its only object, and is a test point all the same.
    assert [len(task.train) for task in stream.segments] == [2, 0, 4, 1, 1, 1]
    remark = "objects of train not decoded: 3, the first val/HT_000003.png#103 ("
    assert [line.startswith(remark) for line in stream.remarks] == [False, True]
    assert stream.remarks[1] in told


def test_prepared_twice_it_is_the_same_and_other_objects_are_refused(tree, pixels, tmp_path):
    out = tmp_path / "out"
    first = prepare_clad(tree, out, backbone=pixels)
    held = (out / OBJECTS).read_bytes()
    assert prepare_clad(CladC(tree), out, backbone=pixels) == first
    assert (out / OBJECTS).read_bytes() == held
    with pytest.raises(IncompatibleFeatures, match="images"):
        prepare_clad(CladC(tree, occluded="any"), out, backbone=pixels)
    with pytest.raises(IncompatibleFeatures, match="backbone"):
        prepare_clad(tree, out, backbone="pixels", image_size=5)
    assert (out / OBJECTS).read_bytes() == held


def test_parts_of_two_backbones_are_refused(tree, pixels, tmp_path):
    for side in (4, 5):
        prepare_clad(tree, tmp_path / str(side), backbone="pixels", image_size=side)
    (tmp_path / "4" / "test").rename(tmp_path / "4" / "old")
    (tmp_path / "5" / "test").rename(tmp_path / "4" / "test")
    with pytest.raises(IncompatibleFeatures, match="pixels"):
        clad_stream(tmp_path / "4")


@pytest.mark.parametrize(
    "mangle",
    [
        lambda about: about.update(schema="aefocl.clad-c/0"),
        lambda about: about.pop("objects"),
        lambda about: about["segments"].pop(),
        lambda about: about["objects"].update(train=[]),
        lambda about: about["objects"]["train"].popitem(),
        lambda about: about["objects"]["train"]["val/HT_000002.png#101"].update(segment=6),
        lambda about: about["objects"]["train"]["val/HT_000002.png#101"].update(segment="0"),
        lambda about: about["objects"]["train"].update({"val/HT_000002.png#101": 0}),
        lambda about: about.update(repairs=None),
    ],
)
def test_a_mangled_list_of_objects_is_refused(tree, pixels, tmp_path, mangle):
    prepare_clad(tree, tmp_path / "out", backbone=pixels)
    file = tmp_path / "out" / OBJECTS
    about = json.loads(file.read_text())
    mangle(about)
    file.write_text(json.dumps(about))
    with pytest.raises(CorruptState, match=r"objects\.json"):
        clad_stream(tmp_path / "out")


def test_a_folder_that_was_not_prepared_names_the_command(tmp_path):
    with pytest.raises(MissingAsset, match="aefocl prepare-clad"):
        clad_stream(tmp_path)
    (tmp_path / OBJECTS).write_bytes(b"[" * 100_000)
    with pytest.raises(CorruptState, match="is not JSON"):
        clad_stream(tmp_path)
