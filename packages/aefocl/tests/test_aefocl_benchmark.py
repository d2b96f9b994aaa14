import time
from dataclasses import replace

import numpy as np
import pytest

from aefocl import benchmark
from aefocl.benchmark import FLOORS, Benchmark, run_benchmark


@pytest.fixture(scope="module")
def measured() -> Benchmark:
    return run_benchmark(width=48, largest=150)


def test_both_ways_balance_to_the_same_head(measured: Benchmark) -> None:
    assert measured.difference < 1e-9
    assert measured.rows + measured.pseudo == 6 * 150
    times = [value for value in measured.as_dict().values() if isinstance(value, float)]
    assert len(times) == 10
    assert min(times) > 0
    assert measured.setting.startswith("D=48, d=256, K=6, float64, 1 thread, ")


def test_the_recursion_is_timed_on_a_part_and_scaled_to_the_whole_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []

    def slow(rows: np.ndarray, *_: object, **__: object) -> None:
        seen.append(len(rows))
        time.sleep(0.05)

    monkeypatch.setattr(benchmark, "published_recursion", slow)
    told: list[str] = []
    scaled = run_benchmark(width=16, largest=100, progress=told.append)
    assert seen == [60, 60]
    assert 1 <= scaled.recursion / (0.05 * scaled.rows / 60) < 3
    assert told[0] == "stream in batches of 10"


def test_what_is_below_its_floor_is_told(measured: Benchmark) -> None:
    good = replace(
        measured,
        stream=1.0,
        recursion=FLOORS["stream"] * 1.01,
        balanced=1.0,
        recursion_balanced=FLOORS["balanced head"] * 1.01,
        answer=0.89,
    )
    assert good.failures() == []
    slow = replace(good, recursion=99.0, recursion_balanced=5.9, answer=0.95).failures()
    assert [line.split()[0] for line in slow] == ["stream", "balanced", "answer"]
    rows = good.table().rows
    assert [row[-1] for row in rows] == [100.0, 10.0, None, None, None, None]
    np.testing.assert_allclose([row[4] for row in rows[:2]], [101.0, 10.1])
