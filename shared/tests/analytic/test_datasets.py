import gzip
import hashlib
import io
import pickle
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from lipogram import assets
from lipogram.analytic import datasets
from lipogram.errors import AssetMismatch, CorruptState, InvalidSetting, MissingAsset


def idx(values: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, values.ndim])
        + struct.pack(f">{values.ndim}I", *values.shape)
        + values.tobytes()
    )


@pytest.fixture
def fashion(tmp_path):
    rng = np.random.default_rng(0)
    content = {"train": rng.integers(0, 256, (20, 28, 28), np.uint8), "t10k": None}
    content["t10k"] = content["train"][:5]
    for split, pixels in content.items():
        labels = np.arange(len(pixels), dtype=np.uint8) % 10
        for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            (tmp_path / f"{split}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(values)))
    return tmp_path, content


def test_digits_are_always_there():
    X, y = datasets.digits()
    assert X.shape == (1797, 64)
    assert X.dtype == np.float64
    assert (X.min(), X.max()) == (0, 1)
    assert y.dtype == np.int64
    assert np.bincount(y).min() > 170


def test_fashion_mnist_is_read_from_a_folder(fashion):
    folder, content = fashion
    train, test = (datasets.fashion_mnist(split, folder) for split in ("train", "test"))
    assert (len(train), len(test)) == (20, 5)
    assert np.array_equal(train.load(7)[:, :, 1], content["train"][7])
    assert train.labels.tolist() == [i % 10 for i in range(20)]
    assert train.class_names[9] == "Ankle boot"
    assert train.fingerprint != test.fingerprint


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-20],
        lambda data: b"no gzip",
        lambda data: gzip.compress(gzip.decompress(data)[:-1]),
        lambda data: gzip.compress(b"\0\0\x0d\3" + gzip.decompress(data)[4:]),
        lambda data: gzip.compress(b"\0\0\x08\3" + b"\xff" * 12),
        lambda data: gzip.compress(b"\0\0"),
    ],
)
def test_a_damaged_idx_file_is_refused(damage, fashion):
    folder, _ = fashion
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CorruptState, match="train-images"):
        datasets.fashion_mnist("train", folder)


def test_a_missing_file_and_a_wrong_split_are_named(tmp_path):
    with pytest.raises(MissingAsset, match="t10k-images"):
        datasets.fashion_mnist("test", tmp_path)
    with pytest.raises(InvalidSetting, match="'validation'"):
        datasets.fashion_mnist("validation", tmp_path)


@pytest.fixture
def clipart(tmp_path):
    sizes = {"animals/birds": 6, "animals/fish": 3, "food/fruit": 4, "food/meat": 2}
    for name, n in sizes.items():
        for i in range(n):
            deep = "more/" if i % 2 else ""
            file = tmp_path / name / f"{deep}{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (i, 0, 0)).save(file)
    Image.new("RGB", (4, 4)).save(tmp_path / "animals" / "stray.png")
    return tmp_path


def test_openclipart_keeps_the_classes_that_are_large_enough(clipart):
    images = datasets.openclipart(min_count=3, cap=None, folder=clipart)
    assert images.class_names == ["animals/birds", "animals/fish", "food/fruit"]
    assert np.bincount(images.labels).tolist() == [6, 3, 4]
    assert all(
        identifier.startswith(images.class_names[label])
        for identifier, label in zip(images.ids, images.labels, strict=True)
    )
    everything = datasets.openclipart(min_count=1, cap=None, folder=clipart)
    assert everything.class_names == [*images.class_names, "food/meat"]
    with pytest.raises(InvalidSetting, match="no sub-category with 7"):
        datasets.openclipart(min_count=7, folder=clipart)


def test_the_cap_is_drawn_with_a_seed(clipart):
    def draw(seed):
        return datasets.openclipart(min_count=3, cap=3, seed=seed, folder=clipart).ids

    assert draw(0) == draw(0)
    assert len({tuple(draw(seed)) for seed in range(5)}) > 1
    assert len(draw(0)) == len(set(draw(0))) == 9
    with pytest.raises(InvalidSetting, match="cap is 0"):
        datasets.openclipart(cap=0, folder=clipart)


def cached(name):
    """The asset where it is on this machine, else a skip that says how to bring it."""
    place = assets.find(name)
    if place is None:
        pytest.skip(
            f"needs {name}: python -c \"from lipogram import assets; assets.get('{name}')\""
        )
    return place


def test_the_real_openclipart_has_44_classes():
    cached("openclipart")
    images = datasets.openclipart()
    assert (len(images), len(images.class_names)) == (3308, 44)
    full = np.bincount(datasets.openclipart(cap=None).labels)
    assert sorted(full)[::-1][:3] == [1853, 1378, 551]
    assert full.min() >= 20


def test_the_real_fashion_mnist_is_complete():
    cached("fashion-mnist")
    for split, n in (("train", 6000), ("test", 1000)):
        images = datasets.fashion_mnist(split)
        assert np.bincount(images.labels).tolist() == [n] * 10
        assert images.load(0).shape == (28, 28, 3)


def cifar_rows(n, label_bytes, n_classes, rng):
    labels = rng.integers(0, n_classes, n, np.uint8)
    pixels = rng.integers(0, 256, (n, 3, 32, 32), np.uint8)
    coarse = np.zeros((n, label_bytes - 1), np.uint8)
    rows = np.concatenate([coarse, labels[:, None], pixels.reshape(n, -1)], axis=1)
    return rows.tobytes(), labels, pixels


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("kind", "n_classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_binary_version(kind, n_classes, packed, tmp_path):
    rng = np.random.default_rng(0)
    reader = getattr(datasets, kind)
    parts = [f"data_batch_{i}.bin" for i in range(1, 6)] if kind == "cifar10" else ["train.bin"]
    base = "cifar-10-batches-bin" if kind == "cifar10" else "cifar-100-binary"
    names = "batches.meta.txt" if kind == "cifar10" else "fine_label_names.txt"
    files = {names: "\n".join(f"class{i}" for i in range(n_classes)).encode() + b"\n\n"}
    labels, pixels = [], []
    for part in parts:
        files[part], y, x = cifar_rows(4, 1 if kind == "cifar10" else 2, n_classes, rng)
        labels += y.tolist()
        pixels += list(x)
    if packed:
        archive = "cifar-10-binary.tar.gz" if kind == "cifar10" else "cifar-100-binary.tar.gz"
        with tarfile.open(tmp_path / archive, "w:gz") as out:
            for name, content in files.items():
                entry = tarfile.TarInfo(f"{base}/{name}")
                entry.size = len(content)
                out.addfile(entry, io.BytesIO(content))
    else:
        (tmp_path / base).mkdir()
        for name, content in files.items():
            (tmp_path / base / name).write_bytes(content)
    images = reader("train", folder=tmp_path)
    assert images.labels.tolist() == labels
    assert images.class_names == [f"class{i}" for i in range(n_classes)]
    assert np.array_equal(images.load(3), pixels[3].transpose(1, 2, 0))
    with pytest.raises((MissingAsset, CorruptState), match=r"test"):
        reader("test", folder=tmp_path)
    with pytest.raises(InvalidSetting, match="'val'"):
        reader("val", folder=tmp_path)
    if not packed:
        (tmp_path / base / parts[0]).write_bytes(files[parts[0]][:-1])
        with pytest.raises(CorruptState, match="no whole number"):
            reader("train", folder=tmp_path)


def test_cifar_that_is_not_there_names_the_archive(tmp_path):
    with pytest.raises(MissingAsset, match=r"cifar-100-binary\.tar\.gz"):
        datasets.cifar100(folder=tmp_path)


def test_cifar_python_version_is_read_only_with_its_published_hash(tmp_path, monkeypatch):
    """The published files are pickles: one with another MD5 must never be opened."""
    reader = pytest.importorskip("torchvision.datasets").CIFAR100
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 3072), np.uint8)
    base = tmp_path / "cifar-100-python"
    base.mkdir()
    content = {
        "train": {"data": pixels, "fine_labels": [5, 4, 3, 2, 1, 0]},
        "test": {"data": pixels[:2], "fine_labels": [1, 2]},
        "meta": {"fine_label_names": [f"class{i}" for i in range(100)]},
    }
    for name, value in content.items():
        (base / name).write_bytes(pickle.dumps(value))
    with pytest.raises(CorruptState, match="damaged"):
        datasets.cifar100(folder=tmp_path)
    hashes = {
        name: hashlib.md5((base / name).read_bytes(), usedforsecurity=False).hexdigest()
        for name in content
    }
    monkeypatch.setattr(reader, "train_list", [["train", hashes["train"]]])
    monkeypatch.setattr(reader, "test_list", [["test", hashes["test"]]])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": hashes["meta"]})
    images = datasets.cifar100(folder=tmp_path)
    assert images.labels.tolist() == [5, 4, 3, 2, 1, 0]
    assert np.array_equal(images.load(1), pixels[1].reshape(3, 32, 32).transpose(1, 2, 0))


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "wnids.txt").write_text("n02\nn01\n")
    for name in ("train/n01/images/n01_0", "train/n02/images/n02_0", "val/images/val_0"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64)).save(tmp_path / f"{name}.JPEG")
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t62\t62\n")
    return tmp_path


def test_tiny_imagenet(tiny):
    train, test = (datasets.tiny_imagenet(split, folder=tiny) for split in ("train", "test"))
    assert train.class_names == test.class_names == ["n01", "n02"]
    assert train.ids == ["train/n01/images/n01_0.JPEG", "train/n02/images/n02_0.JPEG"]
    assert (test.ids, test.labels.tolist()) == (["val/images/val_0.JPEG"], [1])
    assert test.load(0).shape == (64, 64, 3)


@pytest.mark.parametrize("line", ["val_0.JPEG\tn03\t0\n", "gone.JPEG\tn01\t0\n", "val_0.JPEG\n"])
def test_a_wrong_annotation_is_refused(line, tiny):
    (tiny / "val" / "val_annotations.txt").write_text(line)
    with pytest.raises(CorruptState, match="no such class"):
        datasets.tiny_imagenet("test", folder=tiny)
    with pytest.raises(MissingAsset, match=r"wnids\.txt"):
        datasets.tiny_imagenet(folder=tiny / "val")


def test_annotations_cannot_lead_out_of_the_folder(tiny):
    (tiny / "val" / "val_annotations.txt").write_text("../../wnids.txt\tn01\t0\n")
    with pytest.raises(CorruptState):
        datasets.tiny_imagenet("test", folder=tiny)


def test_a_mismatch_of_the_asset_reaches_the_caller(monkeypatch):
    def mismatched(name):
        raise AssetMismatch(name)

    monkeypatch.setattr(assets, "get", mismatched)
    with pytest.raises(AssetMismatch, match="openclipart"):
        datasets.openclipart()
