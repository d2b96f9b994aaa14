import numpy as np
import pytest
from PIL import Image

from afl.client_rows import labelled_rows
from lipogram.errors import InvalidFeatures, InvalidLabels

rng = np.random.default_rng(0)


def test_a_folder_of_images_becomes_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPOGRAM_CACHE", str(tmp_path / "cache"))
    for name in ("cats", "dogs"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    rows, labels, space = labelled_rows(
        str(tmp_path / "images"), backbone="pixels", image_size=4, progress=False
    )
    assert rows.shape == (6, 48)
    assert sorted(labels.tolist()) == ["cats"] * 3 + ["dogs"] * 3
    assert len(space) == 64


def test_tables_and_arrays_become_rows(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,label\n1,2,x\n3,4,y\n")
    rows, labels, _ = labelled_rows(str(tmp_path / "t.csv"))
    assert rows.tolist() == [[1, 2], [3, 4]]
    assert labels.tolist() == ["x", "y"]
    assert labelled_rows("digits")[0].shape == (1797, 64)


def test_rows_without_labels_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", X=np.ones((2, 2)))
    with pytest.raises(InvalidLabels, match="needs y"):
        labelled_rows(str(tmp_path / "x.npz"))
    (tmp_path / "x.bin").write_bytes(b"?")
    with pytest.raises(InvalidFeatures):
        labelled_rows(str(tmp_path / "x.bin"))
