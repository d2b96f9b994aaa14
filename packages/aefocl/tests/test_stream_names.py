import numpy as np
import pytest
from PIL import Image

from aefocl.clad_features import prepare_clad
from aefocl.stream_names import NAMES, stream_of
from lipogram.errors import InvalidSetting

from .clad_tree import write_tree


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPOGRAM_CACHE", str(tmp_path / "cache"))


def test_every_name_leads_to_its_stream(tmp_path):
    prepare_clad(write_tree(tmp_path / "s"), tmp_path / "out", backbone="pixels", image_size=4)
    table = tmp_path / "road.csv"
    table.write_text("timestamp,label,x\n" + "".join(f"{i},{'ab'[i % 2]},{i}\n" for i in range(20)))
    for i in range(8):
        file = tmp_path / "city" / "day" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(file)
    own = (f"clad:{tmp_path / 'out'}", f"chronological:{table}", f"folder:{tmp_path / 'city'}")
    found = {
        name: stream_of(name, backbone="pixels", image_size=4, segments=3, seed=1)
        for name in ("digits", "synthetic", *own)
    }
    assert [stream.data.name for stream in found.values()] == [
        "digits",
        "road",
        "clad-c (test)",
        "road",
        "city",
    ]
    assert [len(stream.segments) for stream in found.values()] == [3, 3, 6, 3, 1]
    cut = stream_of(f"chronological:{table}", boundaries=["12"])
    early, late = (cut.data.train[task.train, 0] for task in cut.segments)
    assert early.max() < 12 <= late.min()
    assert not np.array_equal(found["synthetic"].data.train, stream_of("synthetic").data.train)


@pytest.mark.parametrize(
    "name", ["", "clad", "clad:", "chronological:", "folder:", "Digits", "x:y"]
)
def test_another_name_lists_those_there_are(name):
    with pytest.raises(InvalidSetting, match="digits, synthetic, clad:FOLDER") as caught:
        stream_of(name)
    assert all(known in str(caught.value) for known in NAMES)
