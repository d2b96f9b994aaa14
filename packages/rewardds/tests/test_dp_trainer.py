"""Steps of private training against the formula, and the noise that is in them."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lipogram.errors import InvalidSetting
from lipogram.llm import tiny_random
from lipogram.llm.tuning import lora_config, prepare_lora
from lipogram.secure_noise import secure_stream
from rewardds import dp_trainer
from rewardds.dp_trainer import DPTrainer
from rewardds.errors import (
    InadmissibleModel,
    InvalidRecords,
    UnsafeSetting,
    WeakAmplification,
)
from rewardds.losses import CausalLMLoss
from rewardds.poisson import sample
from rewardds.rows import Row, Sequence, collate
from rewardds.training_run import TrainingRun


def adapted(seed=0):
    model = tiny_random("llama", layers=1, width=16).model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return prepare_lora(model, lora_config(model, r=1), checkpointing=False)


def made_rows(n, length=8):
    made = torch.Generator().manual_seed(0)
    return [
        Row(str(i), [Sequence(torch.randint(250, (t,), generator=made).tolist(), [True] * t)])
        for i, t in enumerate(torch.randint(3, length, (n,), generator=made).tolist())
    ]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


def trainer(model, run, **settings):
    settings = {"loss": CausalLMLoss(), "lr": 1e-2, "clip": 0.5, "bucket": 8} | settings
    return DPTrainer(model, run, **settings)


def silent(model, batch):
    """A loss whose gradient is zero."""
    return 0 * CausalLMLoss()(model, batch)


@pytest.fixture
def gradients():
    """What the optimiser is given in each step, flat."""
    seen = []

    def keep(optimizer, args, kwargs):
        seen.append(
            torch.cat([p.grad.flatten() for g in optimizer.param_groups for p in g["params"]])
        )

    handle = register_optimizer_step_pre_hook(keep)
    yield seen
    handle.remove()


def test_noise_has_its_variance_and_nothing_else(gradients):
    sigma, clip, batch, steps = 1.3, 0.5, 4, 200
    run = TrainingRun(sigma, 400, batch, steps)
    report = trainer(adapted(), run, loss=silent, clip=clip).train(made_rows(40))
    found = torch.stack(gradients).double().numpy()
    expected = (sigma * clip / batch) ** 2
    assert report.noise_additions == len(found) == steps
    assert found.var() == pytest.approx(expected, rel=0.02)
    each = (found**2).sum(0) / expected
    assert each.mean() / steps == pytest.approx(1, abs=0.02)
    spread = chi2(steps).ppf([1e-7, 1 - 1e-7])
    assert spread[0] < each.min()
    assert each.max() < spread[1]
    assert abs(found.mean()) < 5 * math.sqrt(expected / found.size)
    assert kstest(found[:, ::7].ravel() / math.sqrt(expected), "norm").pvalue > 1e-4
    between = np.corrcoef(found[:-1].ravel(), found[1:].ravel())[0, 1]
    assert abs(between) < 5 / math.sqrt(found.size)


def test_the_sensitivity_is_shared_out_so_that_all_numbers_have_one_noise(monkeypatch):
    seen, add = [], dp_trainer.add_gaussian

    def watched(sums, std, sensitivity, **settings):
        seen.append((sums[0].numel(), std, sensitivity))
        return add(sums, std, sensitivity, **settings)

    monkeypatch.setattr(dp_trainer, "add_gaussian", watched)
    trainer(adapted(), TrainingRun(1.3, 20, 2, 1), clip=0.5).train(made_rows(20))
    sizes, stds, shares = np.array(seen).T
    assert len(set(sizes)) > 1
    assert set(stds) == {1.3 * 0.5}
    assert (shares**2).sum() == pytest.approx(0.5**2)
    np.testing.assert_allclose(np.sqrt(sizes) / shares, np.sqrt(sizes.sum()) / 0.5)


def test_noise_comes_from_the_system_and_no_seed_brings_it_back(gradients):
    for _ in range(2):
        torch.manual_seed(0)
        trainer(adapted(), TrainingRun(1.0, 20, 2, 2), loss=silent).train(made_rows(20))
    assert len({tuple(each.tolist()) for each in gradients}) == 4


def test_empty_batches_are_steps_too(gradients):
    with pytest.warns(WeakAmplification, match="1 of n = 8"):
        run = TrainingRun(1.0, 8, 1, 300)
    made = trainer(adapted(), run, clip=1e-4)
    sizes = []
    step = made._step

    def watched(*args):
        seen = step(*args)
        sizes.append(seen.records)
        return seen

    made._step = watched
    report = made.train(made_rows(8, 5))
    assert report.noise_additions == len(gradients) == len(sizes) == 300
    assert report.release.steps == 300
    assert 0.2 < sizes.count(0) / 300 < 0.5  # (7/8)⁸ = 0.34
    assert sum(sizes) / 300 == pytest.approx(1, abs=0.25)
    assert all(each.any() for each in gradients)
    assert made.tally.records == sum(sizes)


@pytest.mark.parametrize("grad", ["hooks", "ghost"])
def test_steps_are_the_formula(grad):
    """AdamW on (Σ clipped)/B, over samples that the same coins give, without opacus."""
    rows, clip, batch, steps = made_rows(12), 0.4, 3, 4
    model, ours = adapted(), adapted()
    seed = 5
    coins = secure_stream(2 * seed)
    parameters = [p for p in ours.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1, eps=1e-8)
    for _ in range(steps):
        total = [torch.zeros_like(p) for p in parameters]
        for place in sample(coins, len(rows), batch / len(rows)):
            single = collate([rows[place]], pad_id=0, bucket=8)
            found = torch.autograd.grad(CausalLMLoss()(ours, single)[0], parameters)
            norm = math.sqrt(sum(float(g.double().square().sum()) for g in found))
            for each, g in zip(total, found, strict=True):
                each += g * min(1.0, clip / norm)
        for parameter, each in zip(parameters, total, strict=True):
            parameter.grad = each / batch
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeakAmplification)
        run = TrainingRun(0.0, len(rows), batch, steps)
    report = trainer(
        model, run, clip=clip, grad=grad, physical_batch=2, weight_decay=0.1,
        unsafe_no_noise=True, unsafe_seed=seed,
    ).train(rows)  # fmt: skip
    torch.testing.assert_close(weights(model), weights(ours), rtol=1e-4, atol=1e-5)
    assert not torch.equal(weights(model), weights(adapted()))
    assert not report.private
    assert report.release.sigma == 0


def test_physical_batches_and_ways_to_clip_change_nothing():
    found = []
    for settings in (
        {"physical_batch": 1},
        {"physical_batch": 30},
        {"physical_batch": 3, "grad": "ghost"},
    ):
        model = adapted()
        run = TrainingRun(0.7, 30, 3, 5)
        report = trainer(model, run, unsafe_seed=1, **settings).train(made_rows(30))
        found.append(weights(model))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[2], found[0], rtol=1e-4, atol=1e-5)
    assert (report.sigma, report.sample_rate, report.batch, report.clip) == (0.7, 0.1, 3, 0.5)
    assert report.seeded
    assert report.release.sigma == 0  # whoever knows the seed takes the noise away


def test_only_what_is_trainable_moves_and_modes_come_back():
    model = adapted()
    model.eval()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    training = [module.training for module in model.modules()]
    report = trainer(model, TrainingRun(1.0, 20, 2, 2)).train(made_rows(20))
    assert report.private
    assert report.release.sigma == 1.0
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (not parameter.requires_grad), name
        assert parameter.grad is None
        assert not hasattr(parameter, "grad_sample")
    assert [module.training for module in model.modules()] == training


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"lr": 0}, "lr is 0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"clip": 0}, "clip is 0"),
        ({"clip": -1.0}, "clip is -1"),
        ({"physical_batch": 0}, "physical_batch is 0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"weight_decay": math.nan}, "weight_decay is nan"),
        ({"grad": "functorch"}, "grad is 'functorch'"),
        ({"save_every": 0}, "save_every is 0"),
        ({"bucket": 0}, "bucket is 0"),
        ({"grad": "ghost", "autocast": True}, "autocast"),
    ],
)
def test_settings_that_are_none(settings, reason):
    model = adapted()
    before = weights(model)
    with pytest.raises(InvalidSetting, match=reason):
        trainer(model, TrainingRun(1.0, 20, 2, 2), **settings)
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        ((-1.0, 20, 2, 2), "sigma is -1"),
        ((math.inf, 20, 2, 2), "sigma is inf"),
        ((math.nan, 20, 2, 2), "sigma is nan"),
        ((1.0, 0, 1, 2), "n is 0"),
        ((1.0, 20, 0, 2), "batch is 0"),
        ((1.0, 20, 21, 2), "batch is 21 of n = 20"),
        ((1.0, 20, 2, 0), "steps is 0"),
        ((1.0, 20, 2.0, 2), "batch is 2.0"),
    ],
)
def test_runs_that_are_none(run, reason):
    with pytest.raises(InvalidSetting, match=reason):
        TrainingRun(*run)


def test_no_noise_has_to_be_asked_for_by_name():
    with pytest.raises(UnsafeSetting, match="unsafe_no_noise=True"):
        trainer(adapted(), TrainingRun(0.0, 20, 2, 2))


def test_what_cannot_be_trained_on_leaves_the_model_as_it_was():
    model = adapted()
    before = weights(model)
    made = trainer(model, TrainingRun(1.0, 20, 2, 2))
    with pytest.raises(InvalidRecords, match="no rows"):
        made.train([])
    made.loss = lambda model, batch: CausalLMLoss()(model, batch).log_softmax(0)
    with pytest.raises(InadmissibleModel, match="act on another's"):
        made.train(made_rows(20))
    with pytest.raises(InadmissibleModel, match="full=True"):
        trainer(tiny_random("llama", layers=1, width=16).model, TrainingRun(1.0, 20, 2, 2))
    assert torch.equal(weights(model), before)
