import html
import re

import pandas as pd
import pytest

from lipogram.errors import InvalidSetting
from psfuture.bootstrap import Band
from psfuture.curves import plot_curves, plot_traces
from psfuture.trace import Trace

TABLE = pd.DataFrame(
    [
        ("psfuture", 0.02, True, 50.0, 3.0),
        ("psfuture", 0.1, True, 44.0, 2.0),
        ("wait-k", 3.0, True, 47.0, 3.5),
        ("wait-k", 3.0, False, 46.0, 3.4),
        ("offline", None, True, 58.3, 14.0),
    ],
    columns=["policy", "knob", "prefix_eos", "BLEU", "LAAL"],
)
SOURCE = tuple("the <b>cat</b> sleeps on $x_1$".split())
TRACES = {
    "psfuture 0.02": Trace(SOURCE, tuple("o gato dorme em $x_1$".split()), (2, 2, 4, 5, 5)),
    "wait-1": Trace(SOURCE, tuple("o gato está dormindo".split()), (1, 2, 3, 5)),
}


def words_of(svg):
    """Texts of an SVG whose letters are paths: matplotlib writes each in a comment before it."""
    return [html.unescape(text) for text in re.findall(r"<!-- (.*?) -->", svg.read_text())]


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_pictures_are_the_same_each_time(tmp_path, suffix):
    for draw, data in ((plot_curves, TABLE), (plot_traces, TRACES)):
        first, second = (tmp_path / f"{name}.{suffix}" for name in "ab")
        draw(data, first)
        draw(data, second)
        assert first.stat().st_size > 1000
        if suffix == "png":
            assert first.read_bytes() == second.read_bytes()


def test_curves_name_every_point_and_every_line(tmp_path):
    path = tmp_path / "curve.svg"
    bands = {"psfuture, closed": [Band(0.02, 3.0, 50.0, 48.0, 52.0), Band(0.1, 2.0, 44, 42, 46)]}
    plot_curves(TABLE, path, title="EN→PT", bands=bands)
    shown = words_of(path)
    for text in ("0.02", "0.1", "psfuture, closed  50.0", "wait-k, open  46.0", "EN→PT"):
        assert text in shown
    assert "offline, closed  58.3" in shown
    assert "LAAL, source words" in shown


def test_a_trace_shows_all_words_of_both_policies_as_they_are(tmp_path):
    path = tmp_path / "trace.svg"
    plot_traces(TRACES, path, title="one sentence")
    shown = words_of(path)
    for word in (*SOURCE, *TRACES["psfuture 0.02"].words, *TRACES["wait-1"].words, *TRACES):
        assert word in shown


def test_what_cannot_be_drawn_is_refused(tmp_path):
    path = tmp_path / "x.svg"
    with pytest.raises(InvalidSetting, match="DAL"):
        plot_curves(TABLE, path, x="DAL")
    with pytest.raises(InvalidSetting, match="without rows"):
        plot_curves(TABLE[:0], path)
    with pytest.raises(InvalidSetting, match=r"\.png or \.svg"):
        plot_curves(TABLE, tmp_path / "x.pdf")
    with pytest.raises(InvalidSetting, match="not 2"):
        plot_traces({"a": TRACES["wait-1"], "b": Trace(("x",), (), ())}, path)
    with pytest.raises(InvalidSetting, match="not 0"):
        plot_traces({}, path)
    with pytest.raises(InvalidSetting, match="1 to 40"):
        plot_traces({"a": Trace((), (), ())}, path)
    with pytest.raises(InvalidSetting, match="41"):
        plot_traces({"a": Trace(("x",) * 41, (), ())}, path)
    assert list(tmp_path.iterdir()) == []
