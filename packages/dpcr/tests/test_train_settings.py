import json
from dataclasses import asdict

import pytest

from dpcr.train_settings import Phase, TrainConfig
from lipogram.errors import InvalidSetting
from lipogram.settings import settings_of


def test_a_rate_falls_at_its_milestones():
    phase = TrainConfig().phase(0)
    rates = [phase.rate(epoch, 0.5) for epoch in (0, 59, 60, 119, 120, 160, 199)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 1e-4, 1e-4])
    later = TrainConfig().phase(3)
    assert later == Phase(
        epochs=100,
        lr=0.05,
        milestones=(45, 90),
        decay=0.1,
        weight_decay=2e-4,
        schedule="milestones",
    )


def test_a_cosine_falls_step_by_step():
    phase = TrainConfig(schedule="cosine", epochs=4, lr=0.2).phase(1)
    assert phase.rate(0, 0.0) == pytest.approx(0.2)
    assert phase.rate(2, 0.0) == pytest.approx(0.1)
    assert phase.rate(1, 0.5) == pytest.approx(0.1 * (1 + 0.3826834323650898))
    assert phase.rate(3, 0.999) < 1e-6


def test_settings_come_back_from_json():
    config = TrainConfig(first_milestones=(3,), milestones=(), schedule="cosine")
    again = TrainConfig(**json.loads(json.dumps(settings_of(config))))
    assert again == config
    assert asdict(again)["first_milestones"] == (3,)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("first_epochs", 0),
        ("epochs", 2.0),
        ("batch_size", 0),
        ("workers", -1),
        ("checkpoint_every", -1),
        ("first_lr", 0.0),
        ("lr", float("nan")),
        ("first_decay", 0),
        ("decay", -0.1),
        ("temperature", 0.0),
        ("head_scale", float("inf")),
        ("first_weight_decay", -1e-4),
        ("weight_decay", "no"),
        ("lam", -1.0),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("schedule", "linear"),
        ("amp", 1),
        ("milestones", (0,)),
        ("first_milestones", (1.5,)),
    ],
)
def test_refused_settings(name, value):
    with pytest.raises(InvalidSetting, match=name):
        TrainConfig(**{name: value})


def test_nothing_is_a_weight_too():
    config = TrainConfig(lam=0, weight_decay=0, first_weight_decay=0.0, momentum=0)
    assert (config.lam, config.momentum) == (0, 0)
