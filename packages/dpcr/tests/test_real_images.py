import json

import numpy as np
import pytest
import torch

from dpcr.demo import run_demo
from dpcr.lite0_tail import CHANNELS, Lite0Tail, maps_of, one_view
from dpcr.real_images import DIGITS_TRAINING, data_of, study_of
from lipogram.analytic import load_backbone
from lipogram.analytic.images import ArrayImages
from lipogram.assets import find
from lipogram.errors import InvalidSetting

needs_weights = pytest.mark.skipif(
    find("efficientnet-lite0") is None,
    reason="the EfficientNet-Lite0 weights are not there: `make demo-dpcr` fetches them",
)


@needs_weights
def test_first_blocks_and_tail_are_the_whole_network(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPOGRAM_CACHE", str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 255, (4, 40, 40, 3)).astype(np.uint8)
    images = ArrayImages("noise", pixels, [0, 1, 0, 1], ["a", "b"])
    backbone = load_backbone("effnet-lite0", image_size=64)
    maps = maps_of(images, image_size=64, progress=False)
    assert maps.views.shape == (4, 2, CHANNELS, 4, 4)
    assert maps.labels.tolist() == [0, 1, 0, 1]
    tail = Lite0Tail().eval()
    batch = torch.stack([backbone.prepare(image) for image in pixels])
    with torch.inference_mode():
        for view, seen in ((0, batch), (1, batch.flip(3))):
            ours, whole = tail(maps.views[:, view]), backbone(seen)
            assert float((ours - whole).norm() / whole.norm()) < 2e-3  # maps are kept in float16
        assert torch.equal(tail(maps.views), tail(maps.views[:, 0]))
    assert tail.width == whole.shape[1]


def test_one_view_takes_either_view_of_each_image():
    pairs = torch.stack([torch.arange(64.0), -torch.arange(64.0)], 1)[:, :, None]
    drawn = one_view(pairs, torch.Generator().manual_seed(0))[:, 0]
    assert torch.equal(drawn.abs(), torch.arange(64.0))
    assert 10 < int((drawn < 0).sum()) < 54
    assert torch.equal(drawn, one_view(pairs, torch.Generator().manual_seed(0))[:, 0])


def test_unknown_sets_and_methods_are_refused():
    with pytest.raises(InvalidSetting, match="mnist"):
        study_of("mnist")
    with pytest.raises(InvalidSetting, match="mnist"):
        data_of("mnist")
    with pytest.raises(InvalidSetting, match="best"):
        study_of("digits", methods=("best",))
    assert study_of("digits").train == DIGITS_TRAINING


def test_the_demonstration_on_digits(tmp_path):
    done = run_demo(tmp_path, datasets=("digits",))
    summary = json.loads((tmp_path / "summary.json").read_text())
    headline = summary["headline"]
    assert headline == done.headline()
    assert headline["digits, old classes, dpcr"] > headline["digits, old classes, stale"] + 0.1
    assert headline["digits, old classes, oracle"] > headline["digits, old classes, dpcr"]
    page = done.reports["digits"].read_text()
    assert "Where the old classes went" in page
    assert page.count("data:image/png") == 2
    before = (tmp_path / "digits" / "metrics.jsonl").read_bytes()
    run_demo(tmp_path, datasets=("digits",))
    assert (tmp_path / "digits" / "metrics.jsonl").read_bytes() == before
