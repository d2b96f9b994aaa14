"""The benchmark measures what it says, on a model that takes no time."""

import statistics

import pytest
import torch

from lipogram.errors import InvalidSetting
from rewardds import benchmark
from rewardds.benchmark import Seconds, Shape, gradient_difference, scorer_speed, train

TINY = Shape(layers=1, width=32, vocabulary=64, batch=2, physical_batch=2, length=8, steps=1)


def test_every_way_trains_what_it_says(monkeypatch):
    trained = []
    real = benchmark.trainable

    def kept(*told):
        trained.append(real(*told))
        return trained[-1]

    monkeypatch.setattr(benchmark, "trainable", kept)
    for tune in ("lora", "full"):
        before = {name: p.clone() for name, p in TINY.model().named_parameters()}
        for way in ("plain", "hooks", "ghost"):
            took = train(TINY, way, tune)
            assert 0 < took.own
            assert 0 < took.wall
            names = {name for name, p in trained[-1].named_parameters() if p.requires_grad}
            assert all("lora_" in name for name in names) is (tune == "lora")
            if tune == "full":
                own = dict(trained[-1].named_parameters())
                changed = {name for name in names if not torch.equal(own[name], before[name])}
                assert changed >= {name for name in names if "proj" in name}
    with pytest.raises(InvalidSetting, match="way is 'fast'"):
        train(TINY, "fast", "lora")


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_wrong_gradient_would_be_seen(monkeypatch, tune):
    assert gradient_difference(TINY, tune) < 1e-5
    real = benchmark.ClippedGradients.add

    def wrong(self, rows):
        tally = real(self, rows)
        if self.mode == "ghost":
            for each in self.sums:
                each.mul_(1.5)
        return tally

    monkeypatch.setattr(benchmark.ClippedGradients, "add", wrong)
    assert gradient_difference(TINY, tune) > 1e-5


def test_the_scorer_is_held_against_the_same_scores(monkeypatch):
    sizes = {"question": 6, "answers": (2, 5), "questions": 2, "candidates": 3, "repeats": 1}
    found = scorer_speed(TINY, **sizes)
    assert found.difference < 1e-4
    assert found.ratio == found.one_by_one.own / found.batched.own
    monkeypatch.setattr(benchmark, "_perplexity", lambda *_: 1.0)
    assert scorer_speed(TINY, **sizes).difference > 0.1


def test_medians_are_of_each_clock_by_itself():
    taken = [Seconds(own, wall) for own, wall in ((1, 9), (5, 2), (3, 4))]
    assert Seconds.median(taken) == Seconds(
        statistics.median((1, 5, 3)), statistics.median((9, 2, 4))
    )
