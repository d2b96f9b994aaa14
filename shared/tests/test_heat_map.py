import numpy as np
import pytest
from PIL import Image

from lipogram.errors import InvalidSetting
from lipogram.heat_map import heat_maps

ORANGE, BLUE, GREY = (213, 94, 0), (0, 114, 178), (208, 212, 217)


def share(path, wanted):
    """Of the pixels, those of nearly a colour."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    return (np.abs(pixels - wanted).max(1) <= 12).mean()


def test_sign_and_gaps_have_their_colours(tmp_path):
    drawn = {}
    for name, value in (("low", -2 / 3), ("high", 2 / 3), ("gap", np.nan)):
        drawn[name] = tmp_path / f"{name}.png"
        heat_maps({"t": {"row": [value] * 20}}, range(20), drawn[name], xlabel="layer")
    assert share(drawn["low"], ORANGE) > share(drawn["high"], ORANGE) + 0.1
    assert share(drawn["high"], BLUE) > share(drawn["low"], BLUE) + 0.1
    assert share(drawn["gap"], GREY) > share(drawn["low"], GREY) + 0.1


def test_values_beyond_the_scale_and_many_rows(tmp_path):
    path = tmp_path / "map.svg"
    rows = {f"row {i} $x^2$": np.linspace(-30, 2, 8) for i in range(12)}
    heat_maps({"a": rows, "b": {"one": [np.nan] * 8}}, range(8), path, xlabel="layer")
    text = path.read_text()
    assert "−30.00" in text or "<svg" in text
    assert path.stat().st_size > 5000


@pytest.mark.parametrize(
    ("panels", "positions", "scale", "message"),
    [
        ({}, [0], 1.0, "panels"),
        ({"a": {}}, [0], 1.0, "panels"),
        ({"a": {"b": [1.0]}}, [], 1.0, "positions"),
        ({"a": {"b": [1.0, 2.0]}}, [0], 1.0, r"\(2,\)"),
        ({"a": {"b": [1.0]}}, [0], 0.0, "scale"),
    ],
)
def test_refusals(tmp_path, panels, positions, scale, message):
    with pytest.raises(InvalidSetting, match=message):
        heat_maps(panels, positions, tmp_path / "x.png", xlabel="", scale=scale)
    assert not list(tmp_path.iterdir())
