from dataclasses import replace

import numpy as np

from afl import benchmark
from afl.benchmark import run_benchmark
from lipogram.analytic.sources import Features
from lipogram.errors import MissingAsset

rng = np.random.default_rng(0)
REAL = Features(
    np.maximum(rng.standard_normal((600, 40)), 0).astype(np.float32),
    np.arange(600) % 10,
    np.zeros((10, 40)),
    np.arange(10),
    tuple("abcdefghij"),
    "fashion-mnist",
)


def test_the_benchmark_measures_both_ways(monkeypatch):
    monkeypatch.setattr(benchmark, "features_of", lambda *_, **__: REAL)
    measured = run_benchmark(clients=8, width=24, classes=3, pairs=4)
    assert min(measured.law, measured.streamed, measured.exact, measured.read) > 0
    kinds = ("random rows, d = 24", "Fashion-MNIST, d = 40", "Fashion-MNIST, d = 24")
    assert list(measured.upload) == [f"{kind}, k = {k}" for kind in kinds for k in (10, 100)]
    assert all(0.2 < ratio < 1.2 for ratio in measured.upload.values())
    assert len(measured.table().rows) == 11


def test_a_ratio_below_its_floor_is_told():
    sound = benchmark.Measured(1000, 512, 10, 40, 50.0, 0.1, 2.5, 20.0, 0.01, {"x, k = 10": 0.45})
    assert sound.failures() == []
    large = {"random rows, k = 10": 0.51, "random rows, k = 100": 0.51}
    slow = replace(sound, law=5.0, megabytes=300.0, upload=large).failures()
    assert [line.split()[0] for line in slow] == ["50", "300", "0.510"]


def test_without_fashion_mnist_only_random_rows_are_measured(monkeypatch):
    def missing(*_, **__):
        raise MissingAsset("it is not here")

    monkeypatch.setattr(benchmark, "features_of", missing)
    measured = run_benchmark(clients=3, width=8, classes=3, pairs=2)
    assert len(measured.upload) == 2
    assert "it is not here" in measured.table().caption
