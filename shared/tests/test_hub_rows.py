import sys

import pytest

from lipogram.errors import MissingAsset, MissingExtra
from lipogram.hub_rows import hub_rows


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def test_a_folder_is_read_as_a_data_set_of_the_hub_would_be(datasets, tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "test.csv").write_text("a,b\n1,x\n2,y\n")
    assert hub_rows(str(tmp_path / "toy"), None, "test") == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


def test_what_is_nowhere_is_named_and_the_libraries_are_left_as_they_were(datasets, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with pytest.raises(MissingAsset, match=r"nobody/has-this \(main, test\) could not be had"):
        hub_rows("nobody/has-this", "main", "test")
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
    assert not datasets.config.HF_HUB_OFFLINE


def test_without_the_library_the_message_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match="pip install datasets"):
        hub_rows("nobody/has-this", None, "test")
