"""A comparison: resumable to the same summary, refusing what cannot run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from air.comparison_report import tables, write_comparison
from air.experiment import PRESETS, Experiment, run_experiment
from lipogram.errors import InvalidSetting, RunMismatch

pytestmark = pytest.mark.filterwarnings("ignore::lipogram.errors.IllConditioned")

SMALL = Experiment(
    dataset="digits", orders=("descending", "shuffled"), tasks=5, buffer_size=64, seeds=(0, 1)
)


def figures(summary: dict[str, object] | None) -> str:
    """A summary without its times."""

    def without(value: object) -> object:
        if isinstance(value, dict):
            return {k: without(v) for k, v in value.items() if not k.endswith("_seconds")}
        return value

    return json.dumps(without(summary), sort_keys=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> object:
    return run_experiment(SMALL, tmp_path_factory.mktemp("run"))


def test_air_ends_at_one_place_whatever_the_order(finished: object) -> None:
    orders = finished.result["orders"]  # type: ignore[attr-defined]
    assert orders["descending"]["air"]["a_last"] == orders["shuffled"]["air"]["a_last"]
    assert all(gain["balanced"] > 0 for gain in finished.result["gain_over_ridge"].values())  # type: ignore[attr-defined]


def test_the_report_shows_every_method_and_stands_alone(finished: object) -> None:
    page = write_comparison(finished, title="A test", lead="").read_text()  # type: ignore[arg-type]
    for name in ("AIR", "ridge", "streaming LDA", "RanPAC", "data:image/png;base64"):
        assert name in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    for table in tables(finished.result).values():  # type: ignore[attr-defined]
        assert len(table.rows) == 6


def test_killed_and_started_again_it_ends_with_the_same_summary(
    tmp_path: Path, finished: object
) -> None:
    code = (
        "from pathlib import Path; from air.experiment import *;"
        "run_experiment(Experiment(dataset='digits', orders=('descending', 'shuffled'), tasks=5,"
        f" buffer_size=64, seeds=(0, 1)), Path({str(tmp_path)!r}))"
    )
    child = subprocess.Popen([sys.executable, "-c", code])
    log = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (
        log.exists() and log.read_text().count('"done"') >= 2
    ):
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    before = log.read_text().count('"done"')
    assert before < 24, "the run was over before it could be killed"
    again = run_experiment(SMALL, tmp_path)
    assert figures(again.result) == figures(finished.result)  # type: ignore[attr-defined]
    assert len(again.events("done")) == 24


def test_another_experiment_does_not_go_into_the_same_folder(tmp_path: Path) -> None:
    quick = {"dataset": "digits", "methods": ("ncm",), "tasks": 2}
    run_experiment(Experiment(**quick), tmp_path)
    with pytest.raises(RunMismatch, match="tasks"):
        run_experiment(Experiment(**{**quick, "tasks": 5}), tmp_path)


def test_gcil_has_the_three_figures_of_the_literature(tmp_path: Path) -> None:
    run = run_experiment(
        Experiment(scenario="gcil", buffer_size=64, every=200, methods=("air", "ridge")), tmp_path
    )
    assert {"a_auc", "a_avg", "a_last"} <= set(run.result["orders"]["mixed"]["air"])  # type: ignore[index]


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"scenario": "til"}, "scenario 'til'"),
        ({"orders": ("up",)}, "order 'up'"),
        ({"methods": ("air", "icarl")}, "icarl"),
        ({"methods": ()}, "methods is empty"),
        ({"tasks": 0}, "tasks is 0"),
        ({"every": 0}, "every is 0"),
    ],
)
def test_settings_that_cannot_run(setting: dict[str, object], match: str) -> None:
    with pytest.raises(InvalidSetting, match=match):
        Experiment(**setting)  # type: ignore[arg-type]


def test_presets_say_where_they_come_from() -> None:
    for preset in PRESETS.values():
        assert Experiment(**preset).source  # type: ignore[arg-type]
