"""Thresholds for wanted latencies, on the real model and in the file."""

import json

import pytest

from lipogram.errors import CorruptState, InvalidSetting
from psfuture.calibration import Calibration, Level, calibrate
from psfuture.futures import Ellipsis
from psfuture.metrics import corpus_latency
from psfuture.policies import Limits, PsFuture
from psfuture.simulation import simulate, sweep_traces

from .echo_server import english_portuguese

SOURCES = [
    "Click the button to open the file you saved .",
    "I do not know what he wants to say .",
    "",
    "If the disk is full , remove some files .",
]
REFERENCES = [
    "Clique no botão para abrir o arquivo que você salvou .",
    "Não sei o que ele quer dizer .",
    "",
    "Se o disco estiver cheio , remova alguns arquivos .",
]


@pytest.fixture(scope="module")
def enpt():
    return english_portuguese()


@pytest.fixture(scope="module")
def calibration(enpt):
    return calibrate(enpt, PsFuture(), SOURCES, [3.0, 4.5, 6.0], references=REFERENCES)


def held(calibration, tmp_path, **changes):
    path = tmp_path / "psfuture_policy.json"
    calibration.write(path)
    if changes:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def test_no_other_threshold_is_nearer_than_a_level(enpt, calibration):
    assert list(calibration.levels) == ["low", "medium", "high"]
    policies = {name: calibration.applied(PsFuture(), name) for name in calibration.levels}
    grid = {f"{value:g}": PsFuture(value) for value in (1e-4, 1e-3, 0.003, 0.01, 0.03, 0.1, 0.3, 1)}
    found = sweep_traces(enpt, policies | grid, SOURCES, REFERENCES)
    latency = {name: corpus_latency(traces).values["AL"] for name, traces in found.items()}
    for name, level in calibration.levels.items():
        assert latency[name] == pytest.approx(level.latency, abs=1e-6)
        nearest = min(abs(latency[other] - level.target) for other in grid)
        assert abs(level.latency - level.target) <= nearest + 0.05
    assert latency["low"] < latency["medium"] < latency["high"]


def test_another_threshold_costs_only_where_it_parts(enpt, monkeypatch):
    asked = []
    step, begin = enpt.step, enpt.begin
    monkeypatch.setattr(enpt, "step", lambda s, t: asked.append(len(t)) or step(s, t))
    monkeypatch.setattr(enpt, "begin", lambda e, t: asked.append(len(t)) or begin(e, t))
    simulate(enpt, PsFuture(0.02), SOURCES)
    once, asked[:] = sum(asked), []
    calibrate(enpt, PsFuture(), SOURCES, [3.5, 5.0], metric="LAAL")
    assert sum(asked) < 12 * once  # dozens of thresholds were tried


def test_what_cannot_be_reached_names_what_can(enpt):
    with pytest.raises(InvalidSetting, match=r"AL 0\.1, 90 cannot be reached: .* [\d.]+ to 10"):
        calibrate(enpt, PsFuture(), SOURCES, [4.0, 0.1, 90.0])


def test_wrong_settings_are_refused(enpt):
    for targets, sources in (([], SOURCES), ([3.0], []), ([3.0], ["", "  "])):
        with pytest.raises(InvalidSetting, match="at least"):
            calibrate(enpt, PsFuture(), sources, targets)
    with pytest.raises(InvalidSetting, match="LAG"):
        calibrate(enpt, PsFuture(), SOURCES, [3.0], metric="LAG")
    with pytest.raises(InvalidSetting, match="4 sources and 1 references"):
        calibrate(enpt, PsFuture(), SOURCES, [3.0], references=["x"])
    with pytest.raises(InvalidSetting, match="without a name"):
        calibrate(enpt, PsFuture(divergence=lambda p, q: p[:, 0]), SOURCES, [3.0])


MADE = Calibration(
    model="bergamot:enpt@1",
    future="lm",
    prefix_eos=True,
    divergence="cosine",
    reduce="mean",
    write_from="partial",
    max_words_per_read=None,
    metric="AL",
    unit="word",
    sentences=9,
    levels={"low": Level(0.1, 3.0, 3.02)},
)


def test_a_file_gives_back_what_was_written(tmp_path):
    path = held(MADE, tmp_path)
    assert Calibration.read(path, model=MADE.model) == MADE
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_file_of_another_model_is_refused_by_name(tmp_path):
    with pytest.raises(InvalidSetting, match=r"bergamot:enpt@1, not for hf:x"):
        Calibration.read(held(MADE, tmp_path), model="hf:x")


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"model": 3},
        {"prefix_eos": "yes"},
        {"divergence": "wasserstein"},
        {"reduce": "sum"},
        {"write_from": "memory"},
        {"max_words_per_read": 0},
        {"metric": "BLEU"},
        {"unit": "metre"},
        {"sentences": 0},
        {"levels": {}},
        {"levels": {"low": {"threshold": "0.1", "target": 3, "latency": 3}}},
        {"levels": {"low": {"threshold": None, "target": 3, "latency": 3}}},
        {"levels": {"low": 0.1}},
        {"levels": [0.1]},
        {"extra": 1},
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, changes):
    with pytest.raises(CorruptState, match=r"psfuture_policy\.json"):
        Calibration.read(held(MADE, tmp_path, **changes), model=MADE.model)


@pytest.mark.parametrize("content", ["", "[]", "3", '{"schema": 1}', "{", '{"schema": NaN}'])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "psfuture_policy.json"
    path.write_text(content)
    with pytest.raises(CorruptState):
        Calibration.read(path, model=MADE.model)


def test_a_threshold_beyond_its_divergence_is_refused(tmp_path):
    levels = {"low": {"threshold": 1.5, "target": 3.0, "latency": 3.0}}
    with pytest.raises(InvalidSetting, match=r"1\.5"):
        Calibration.read(held(MADE, tmp_path, levels=levels), model=MADE.model)


def test_a_level_fits_no_other_policy():
    assert MADE.applied(PsFuture(0.5), "low").threshold == 0.1
    for other in (
        PsFuture(prefix_eos=False),
        PsFuture(divergence="js"),
        PsFuture(reduce="max", future=Ellipsis()),
        PsFuture(write_from="mix"),
        PsFuture(limits=Limits(max_words_per_read=1)),
    ):
        with pytest.raises(InvalidSetting, match="carry over"):
            MADE.applied(other, "low")
    with pytest.raises(InvalidSetting, match="low"):
        MADE.applied(PsFuture(), "turbo")
