import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from lipogram.analytic import datasets
from lipogram.analytic.image_features import images_of
from lipogram.analytic.sources import features_of
from lipogram.errors import CorruptState, InvalidSetting, MissingAsset

LISTS = {
    "images.txt": "1 001.Black_footed_Albatross/a 1.jpg\n2 002.Laysan_Albatross/b.jpg\n"
    "3 010.Red_winged_Blackbird/c.jpg\n4 010.Red_winged_Blackbird/d.jpg\n",
    "classes.txt": "1 001.Black_footed_Albatross\n10 010.Red_winged_Blackbird\n"
    "2 002.Laysan_Albatross\n",
    "image_class_labels.txt": "1 1\n2 2\n3 10\n4 10\n",
    "train_test_split.txt": "1 1\n2 0\n3 1\n4 0\n",
}


@pytest.fixture
def birds(tmp_path):
    """CUB_200_2011.tgz, made by hand and unpacked as a person would."""
    archive = tmp_path / "CUB_200_2011.tgz"
    with tarfile.open(archive, "w:gz") as out:
        contents = {name: text.encode() for name, text in LISTS.items()}
        for line in LISTS["images.txt"].splitlines():
            picture = io.BytesIO()
            shade = 40 * int(line.partition(" ")[0])
            Image.new("RGB", (9, 7), (shade, 0, 0)).save(picture, "JPEG")
            contents["images/" + line.partition(" ")[2]] = picture.getvalue()
        for name, content in contents.items():
            member = tarfile.TarInfo(f"CUB_200_2011/{name}")
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    with tarfile.open(archive) as made:
        made.extractall(tmp_path, filter="data")
    return tmp_path


def test_cub_is_read_as_its_authors_cut_it(birds):
    train, test = (datasets.cub200(split, folder=birds) for split in ("train", "test"))
    names = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "010.Red_winged_Blackbird"]
    assert train.class_names == test.class_names == names
    assert train.labels.tolist() == [0, 2]
    assert test.labels.tolist() == [1, 2]
    assert train.ids == [
        "images/001.Black_footed_Albatross/a 1.jpg",
        "images/010.Red_winged_Blackbird/c.jpg",
    ]
    assert train.load(1).shape == (7, 9, 3)
    assert abs(int(train.load(1)[0, 0, 0]) - 120) < 8
    inner = datasets.cub200("test", folder=birds / "CUB_200_2011")
    assert np.array_equal(inner.labels, test.labels)
    assert inner.fingerprint == test.fingerprint == images_of("cub200", "test", birds).fingerprint


def test_both_parts_become_features(birds, tmp_path, monkeypatch):
    monkeypatch.setenv("LIPOGRAM_CACHE", str(tmp_path / "cache"))
    found = features_of("cub200", backbone="pixels", image_size=8, data=birds, progress=False)
    assert found.train_labels.tolist() == [0, 2]
    assert found.test_labels.tolist() == [1, 2]
    assert found.train.shape == found.test.shape == (2, 192)
    assert found.class_names[2] == "010.Red_winged_Blackbird"


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("images.txt", "1 ../../secret.jpg\n", "secret"),
        ("images.txt", "1 001.Black_footed_Albatross/gone.jpg\n", "gone"),
        ("images.txt", "1\n", "'1' is no number"),
        ("images.txt", "1 a.jpg\n1 b.jpg\n", "'1 b.jpg'"),
        ("image_class_labels.txt", "1 99\n", "class '99'"),
        ("train_test_split.txt", "1 2\n", "split '2'"),
        ("train_test_split.txt", "2 1\n", "split None"),
    ],
)
def test_a_damaged_list_is_refused(name, text, match, birds):
    (birds / "secret.jpg").write_bytes(b"outside of the data set")
    (birds / "CUB_200_2011" / name).write_text(text)
    with pytest.raises(CorruptState, match=match):
        datasets.cub200(folder=birds)


def test_what_is_missing_is_named(birds):
    (birds / "CUB_200_2011" / "classes.txt").unlink()
    with pytest.raises(MissingAsset, match=r"classes\.txt"):
        datasets.cub200(folder=birds)
    with pytest.raises(InvalidSetting, match="'val'"):
        datasets.cub200("val", folder=birds)
