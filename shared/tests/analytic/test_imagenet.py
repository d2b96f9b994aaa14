import numpy as np
import pytest
from PIL import Image

from lipogram.analytic import datasets
from lipogram.analytic.image_features import images_of
from lipogram.analytic.imagenet import legacy_subset
from lipogram.errors import CorruptState, InvalidSetting, MissingAsset

SYNSETS = ["n01440764", "n01443537", "n02119789"]
WIDTH = 6


def picture(file, shade=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, 5), (shade, shade, shade)).save(file, "JPEG")


@pytest.fixture
def imagenet(tmp_path):
    for k, name in enumerate(SYNSETS):
        for i in range(2):
            picture(tmp_path / "train" / name / f"{name}_{i}.JPEG", 50 * k)
        picture(tmp_path / "val" / name / f"ILSVRC2012_val_0000000{k}.JPEG")
    return tmp_path


@pytest.fixture
def kaggle(tmp_path):
    """The archive published for Kaggle: one flat folder of validation images and a table."""
    base = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    rows = ["ImageId,PredictionString"]
    for k, name in enumerate(SYNSETS):
        picture(base / "train" / name / f"{name}_0.JPEG")
        image = f"ILSVRC2012_val_0000000{9 - k}"
        picture(base / "val" / f"{image}.JPEG", 50 * k)
        rows.append(f"{image},{name} 1 2 3 4 {name} 5 6 7 8 ")
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_imagenet_by_folders(imagenet):
    train, test = (datasets.imagenet(split, folder=imagenet) for split in ("train", "test"))
    assert train.class_names == test.class_names == SYNSETS
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert test.labels.tolist() == [0, 1, 2]
    assert test.ids[1] == "val/n01443537/ILSVRC2012_val_00000001.JPEG"
    assert abs(int(train.load(5)[0, 0, 0]) - 100) < 8
    assert train.fingerprint == images_of("imagenet", "train", imagenet).fingerprint


def test_some_synsets_in_any_order(imagenet):
    some = datasets.imagenet("train", folder=imagenet, synsets=["n02119789", "n01440764"])
    assert some.class_names == ["n01440764", "n02119789"]
    assert some.labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(InvalidSetting, match="2 synsets, 1 of"):
        datasets.imagenet(folder=imagenet, synsets=["n01440764"] * 2)
    with pytest.raises(MissingAsset, match="n09"):
        datasets.imagenet(folder=imagenet, synsets=["n01440764", "n09"])
    with pytest.raises(MissingAsset, match="no class folders"):
        datasets.imagenet(folder=imagenet / "train")
    with pytest.raises(InvalidSetting, match="'valid'"):
        datasets.imagenet("valid", folder=imagenet)


def test_the_kaggle_layout(kaggle):
    train, test = (datasets.imagenet(split, folder=kaggle) for split in ("train", "test"))
    assert len(train) == 3
    assert [file[-6:] for file in test.ids] == ["7.JPEG", "8.JPEG", "9.JPEG"]
    assert test.labels.tolist() == [2, 1, 0]
    assert abs(int(test.load(0)[0, 0, 0]) - 100) < 8
    some = datasets.imagenet("test", folder=kaggle, synsets=SYNSETS[:1])
    assert some.labels.tolist() == [0]
    assert some.ids == ["val/ILSVRC2012_val_00000009.JPEG"]


@pytest.mark.parametrize(
    "line", ["../../x,n01440764 1 2 3 4", "gone,n01440764 1 2", "a,b,c", "ILSVRC2012_val_00000009,"]
)
def test_a_wrong_line_of_the_table_is_refused(line, kaggle):
    (kaggle / "ILSVRC" / "Data" / "x.JPEG").write_bytes(b"outside of the data set")
    table = kaggle / "LOC_val_solution.csv"
    table.write_text(f"ImageId,PredictionString\n{line}\n")
    with pytest.raises(CorruptState):
        datasets.imagenet("test", folder=kaggle)


def test_imagenet_100_takes_a_list_or_the_usual_one(tmp_path):
    names = [f"n{k:08d}" for k in range(103)]
    for name in names:
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "a.JPEG").write_bytes(b"not looked at yet")
    np.random.seed(1993)  # noqa: NPY002 - the generator of the published list
    usual = sorted(np.random.choice(names, 100, replace=False))  # noqa: NPY002
    assert datasets.imagenet_100(folder=tmp_path).class_names == usual == legacy_subset(names[::-1])
    listing = tmp_path / "imagenet100.txt"
    listing.write_text("\n".join(f"{name}/{name}_1.JPEG 0" for name in names[3:]) + "\n\n")
    found = images_of("imagenet-100", "train", tmp_path)
    assert found.class_names == names[3:]
    listing.write_text(names[0])
    with pytest.raises(InvalidSetting, match="names 1 classes"):
        datasets.imagenet_100(folder=tmp_path)


def test_imagenet_r_is_cut_by_seed_and_class(tmp_path):
    root = tmp_path / "imagenet-r"
    for name, n in (("n01443537", 10), ("n01484850", 5)):
        for i in range(n):
            picture(root / name / f"art_{i}.jpg")
    (root / "README.txt").write_text("ImageNet-R")
    train, test = (datasets.imagenet_r(split, folder=tmp_path) for split in ("train", "test"))
    assert np.bincount(train.labels).tolist() == [8, 4]
    assert np.bincount(test.labels).tolist() == [2, 1]
    assert not set(train.ids) & set(test.ids)
    assert test.class_names == ["n01443537", "n01484850"]
    assert datasets.imagenet_r("test", folder=root).ids == test.ids
    drawn = {tuple(datasets.imagenet_r("test", folder=root, seed=seed).ids) for seed in range(4)}
    assert len(drawn) > 1
    assert train.load(0).shape == (5, WIDTH, 3)
    assert images_of("imagenet-r", "test", tmp_path).ids == test.ids


def test_imagenet_r_that_is_already_cut_is_taken_as_it_is(tmp_path):
    for split, n in (("train", 3), ("test", 2)):
        for i in range(n):
            picture(tmp_path / split / "n01443537" / f"{split}{i}.jpg")
    assert len(datasets.imagenet_r("train", folder=tmp_path)) == 3
    assert datasets.imagenet_r("test", folder=tmp_path).ids == [
        "n01443537/test0.jpg",
        "n01443537/test1.jpg",
    ]


def test_a_set_without_its_folder_or_of_another_name_is_refused(tmp_path):
    with pytest.raises(InvalidSetting, match="--data"):
        images_of("cub200")
    with pytest.raises(InvalidSetting, match="imagenet-100"):
        images_of("imagenet-101", data=tmp_path)
