from afl.benchmark import run_benchmark


def test_the_benchmark_measures_both_ways():
    measured = run_benchmark(clients=8, width=24, classes=3, pairs=4)
    assert min(measured.law, measured.streamed, measured.exact) > 0
    assert set(measured.upload) == {10, 100}
    assert all(0.4 < ratio < 1 for ratio in measured.upload.values())
    assert len(measured.table().rows) == 6
