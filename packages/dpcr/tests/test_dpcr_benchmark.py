from dataclasses import replace

import torch

from dpcr.benchmark import (
    SAMPLED,
    TASK_CLASSES,
    Benchmark,
    Comparison,
    dense_head,
    random_task,
    released_head,
    run_benchmark,
)

SOUND = Comparison("rank", 512, 90, 0.1, 2.5, 0.2, 2.6, 1e-12, 2**20, 2**23)


def test_both_ways_are_measured_and_agree() -> None:
    told: list[str] = []
    measured = run_benchmark(sizes=[(40, 6), (24, 5)], progress=told.append)
    assert [each.name for each in measured.comparisons] == [
        "none, d=40, 6 classes",
        "rank, d=40, 6 classes",
        "none, d=24, 5 classes",
        "rank, d=24, 5 classes",
    ]
    for each in measured.comparisons:
        assert min(each.ours, each.task_ours, each.theirs) > 0
        assert each.theirs < each.task_theirs
        assert each.difference < 1e-10
        assert each.bytes_ours < each.bytes_theirs
    assert len(told) == 6
    assert len(measured.table().rows) == 4
    assert "1 thread" in measured.setting
    assert measured.as_dict()["comparisons"][1]["ratio"] == measured.comparisons[1].ratio


def test_the_baseline_is_the_algorithm_without_projection_as_released() -> None:
    task = random_task(48, SAMPLED)
    released, once, each = released_head(task, SAMPLED)
    plain, projected = (dense_head(task, SAMPLED, project=p) for p in (False, True))
    assert released.shape == plain.shape == (SAMPLED + TASK_CLASSES, 48)
    scale = plain.abs().max()
    assert (released - plain).abs().max() < 1e-3 * scale
    assert (projected - plain).abs().max() > 1e-2 * scale
    assert once > 0
    assert len(each) == SAMPLED


def test_the_task_is_the_same_every_time() -> None:
    one, two = random_task(12, 3), random_task(12, 3)
    assert torch.equal(one.task_new, two.task_new)
    assert [rows.shape for rows in one.old] == [(30, 12)] * 3
    assert (one.task_old - one.task_new).abs().max() > 0.1


def test_a_slow_or_wrong_head_is_told() -> None:
    def failures(**changed: float) -> list[str]:
        return Benchmark("x", (replace(SOUND, **changed),)).failures()

    assert failures() == []
    assert failures(theirs=1.9) == ["rank, d=512, 90 classes: ratio 19.0, floor 20"]
    assert failures(difference=2e-8) == ["rank, d=512, 90 classes: heads differ by 2.0e-08"]
    assert len(failures(difference=float("nan"))) == 1
    slower = Benchmark("x", (replace(SOUND, cip="none"),)).failures()
    assert slower == ["none, d=512, 90 classes: ratio 25.0, floor 50"]
