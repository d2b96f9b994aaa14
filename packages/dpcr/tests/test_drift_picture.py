import numpy as np
import pytest

from dpcr.drift_picture import drift_distances, drift_picture
from lipogram.errors import InvalidSetting

RANDOM = np.random.default_rng(0)
TRUE, STALE = RANDOM.normal(size=(5, 16)), RANDOM.normal(size=(5, 16))


@pytest.mark.parametrize("suffix", ["png", "svg"])
@pytest.mark.parametrize(
    "names", [["a $1", "β", "c" * 90, "d", "e"], [f"class {i}" for i in range(5)]]
)
def test_a_picture_is_drawn(tmp_path, suffix, names):
    path = tmp_path / f"drift.{suffix}"
    drift_picture(TRUE, STALE, TRUE + 0.1, names, path, title="Drift")
    assert path.stat().st_size > 3000
    drift_picture(TRUE[:1], TRUE[:1], TRUE[:1], names[:1], path, title="one class that stayed")


def test_what_does_not_fit(tmp_path):
    for true, stale, names in (
        (TRUE[:0], STALE[:0], []),
        (TRUE, STALE[:4], "abcde"),
        (TRUE, STALE, "ab"),
    ):
        with pytest.raises(InvalidSetting, match="classes, features"):
            drift_picture(true, stale, true, list(names), tmp_path / "x.png", title="")
    assert not (tmp_path / "x.png").exists()


def test_distances():
    np.testing.assert_allclose(drift_distances(TRUE, TRUE + 1), 4.0)
