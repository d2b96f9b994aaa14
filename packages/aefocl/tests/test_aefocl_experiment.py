"""A comparison on a stream: resumable to the same figures, refusing what cannot run."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from aefocl.classifier import AEFOCLClassifier
from aefocl.comparison_report import LABELS, curves, rarest, table_of, write_comparison
from aefocl.experiment import METHODS, PRESETS, Experiment, points_of, run_experiment
from lipogram.analytic.metrics import amca
from lipogram.errors import InvalidSetting, RunMismatch
from lipogram.runs import Run

SMALL = Experiment(stream="digits", segments=3, seeds=(0, 1))
CELLS = len(METHODS) * 2


def without_times(value: object) -> object:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not k.endswith("_seconds")}
    return value


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_experiment(SMALL, tmp_path_factory.mktemp("run"))


def test_the_summary_is_what_the_points_say(finished: Run) -> None:
    assert finished.result is not None
    lines = points_of(finished)
    for method, figures in finished.result["methods"].items():
        of_seeds = []
        for seed in (0, 1):
            mine = [
                line
                for line in lines
                if (line["method"], line["seed"]) == (method, seed) and line["head"] != "plain"
            ]
            assert len(mine) == 3
            of_seeds.append(amca([line["per_class"] for line in mine]).value)
        assert figures["amca"] == pytest.approx(np.mean(of_seeds))


def test_both_heads_of_pseudo_features_are_told_and_the_plain_one_is_plain(finished: Run) -> None:
    assert finished.result is not None
    methods = finished.result["methods"]
    for method in ("aefocl", "aefocl-shared"):
        assert methods[method]["plain_amca"] == pytest.approx(methods["plain"]["amca"], abs=1e-12)
    gains = finished.result["gain_over_plain"]
    assert set(gains) == set(METHODS) - {"plain"}
    for method, gain in gains.items():
        expected = methods[method]["amca"] - methods["plain"]["amca"]
        assert gain["amca"] == pytest.approx(expected, abs=1e-12)
        assert gain["worst"] <= gain["amca"]
    assert gains["aefocl"]["worst"] > 0


def test_files(finished: Run) -> None:
    assert finished.result is not None
    told = json.loads((finished.folder / "amca.json").read_text())
    assert told["amca"] == {m: f["amca"] for m, f in finished.result["methods"].items()}
    assert np.mean(list(told["amca_by_seed"]["aefocl"].values())) == pytest.approx(
        told["amca"]["aefocl"]
    )
    lines = list(csv.DictReader((finished.folder / "per_point.csv").open()))
    assert len(lines) == 2 * 3 * (len(METHODS) + 2)  # two methods have two heads
    first = lines[0]
    assert (first["seed"], first["method"], first["head"]) == ("0", "aefocl", "balanced")
    assert {f"class {digit}" for digit in range(10)} <= set(first)
    head = AEFOCLClassifier.load(finished.folder / "head.safetensors")
    assert (head.covariance, head.seed, head.space) == ("diag", 0, "digits")
    assert sorted(head.classes_) == [str(digit) for digit in range(10)]
    counts = dict(zip(head.classes_, head.class_count_.tolist(), strict=True))
    assert counts == finished.result["rows"]


def test_curves_are_the_means_over_classes_and_seeds(finished: Run) -> None:
    rows = finished.result["rows"]  # type: ignore[index]
    fewest = rarest(finished)
    assert len(fewest) == 2
    assert max(rows[name] for name in fewest) <= sorted(rows.values())[1]
    lines = [
        line
        for line in points_of(finished)
        if (line["method"], line["head"]) == ("aefocl", "balanced")
    ]
    for names, found in ((fewest, curves(finished, fewest)), (list(rows), curves(finished))):
        n_seen, means = found["aefocl"]
        assert n_seen == [line["n_seen"] for line in lines if line["seed"] == 0]
        for i in range(3):
            mine = [lines[i]["per_class"], lines[i + 3]["per_class"]]  # of two seeds
            assert means[i] == pytest.approx(np.mean([[p[c] for c in names] for p in mine]))
    told = finished.result["methods"]["aefocl"]  # type: ignore[index]
    assert means.mean() == pytest.approx(told["amca"])


def test_a_class_without_a_test_row_leaves_a_gap(tmp_path: Path) -> None:
    run = Run.create(tmp_path, {})
    for n, rates in ((5, {"a": 1.0}), (9, {"a": 0.5, "b": 0.25})):
        run.log("point", seed=0, method="ncm", head="balanced", n_seen=n, per_class=rates)
    run.log("done", seed=0, method="ncm", lines=2)
    np.testing.assert_array_equal(curves(run, ["b"])["ncm"][1], [np.nan, 0.25])
    np.testing.assert_array_equal(curves(run)["ncm"][1], [1.0, 0.375])


def test_the_report_shows_every_method_and_stands_alone(finished: Run) -> None:
    page = write_comparison(finished, title="A test", lead="").read_text()
    for name in LABELS.values():
        assert name in page
    assert page.count("data:image/png;base64") == 5
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert finished.result is not None
    assert len(table_of(finished.result).rows) == len(METHODS)


def test_killed_and_started_again_it_ends_with_the_same_figures(
    tmp_path: Path, finished: Run
) -> None:
    code = (
        "from pathlib import Path; from aefocl.experiment import *;"
        "run_experiment(Experiment(stream='digits', segments=3, seeds=(0, 1)),"
        f" Path({str(tmp_path)!r}))"
    )
    child = subprocess.Popen([sys.executable, "-c", code])
    log = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (
        log.exists() and log.read_text().count('"done"') >= 2
    ):
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    before = log.read_text().count('"done"')
    assert before < CELLS, "the run was over before it could be killed"
    again = run_experiment(SMALL, tmp_path)
    assert without_times(again.result) == without_times(finished.result)
    assert len(again.events("done")) == CELLS
    assert len(points_of(again)) == len(points_of(finished))


def test_points_of_a_cell_that_was_cut_off_are_told_once(finished: Run, tmp_path: Path) -> None:
    run = Run.create(tmp_path, {})
    events = [event for event in finished.events() if event["event"] in ("point", "done")]
    torn = events[:2]
    for event in [*torn, *events]:
        run.log(event["event"], **{k: v for k, v in event.items() if k not in ("event", "time")})
    assert points_of(run) == points_of(finished)


def test_another_experiment_does_not_go_into_the_same_folder(finished: Run) -> None:
    with pytest.raises(RunMismatch, match="batch"):
        run_experiment(
            Experiment(stream="digits", segments=3, seeds=(0, 1), batch=5), finished.folder
        )


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"methods": ("aefocl", "icarl")}, "icarl"),
        ({"methods": ("ncm", "ncm")}, "twice"),
        ({"methods": ()}, "methods is empty"),
        ({"seeds": ()}, "seeds is empty"),
        ({"seeds": (0, -1)}, "seed is -1"),
        ({"batch": 0}, "batch is 0"),
        ({"segments": 0}, "segments is 0"),
        ({"gamma": 0.0}, "gamma is 0"),
        ({"noise": -1.0}, "noise is -1"),
        ({"budget": 0}, "budget is 0"),
        ({"sampler": "halton"}, "halton"),
        ({"sampler": "expected", "buffer_size": 64}, "buffer_size=None"),
        ({"buffer_size": -5, "methods": ("plain",)}, "buffer_size is -5"),
    ],
)
def test_settings_that_cannot_run(setting: dict[str, object], match: str) -> None:
    with pytest.raises(InvalidSetting, match=match):
        Experiment(**setting)  # type: ignore[arg-type]


def test_an_unknown_stream_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="rails"):
        run_experiment(Experiment(stream="rails"), tmp_path)


def test_presets_say_where_they_come_from() -> None:
    for preset in PRESETS.values():
        assert Experiment(**preset).source


@pytest.mark.parametrize("stream", ["nothing", "chronological:none.csv", "clad:none"])
def test_a_stream_that_is_not_there_leaves_no_run(tmp_path: Path, stream: str) -> None:
    with pytest.raises((InvalidSetting, FileNotFoundError)):
        run_experiment(Experiment(stream=stream), tmp_path / "run")
    assert not (tmp_path / "run").exists()
