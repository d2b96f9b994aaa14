"""The whole learner against numpy, and against every input that it has to refuse."""

import copy
import inspect
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from dpcr import DPCR, DriftCalibrator, TrainConfig
from dpcr.networks import mlp
from dpcr.training import AtChance
from lipogram.analytic.blas import symmetric
from lipogram.errors import InvalidFeatures, InvalidLabels, InvalidSetting, NotFinite, NotSeen

D, GAMMA = 5, 0.7
QUICK = TrainConfig(first_epochs=3, epochs=2, first_milestones=(), milestones=(), batch_size=16)


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, D))


def task(number, per_class=15, classes=2, seed=0):
    """Separable samples of classes 2 t and 2 t + 1."""
    rng = np.random.default_rng([seed, number])
    y = np.repeat(np.arange(classes * number, classes * (number + 1)), per_class)
    x = rng.normal(size=(len(y), 6)) + 3 * np.eye(10)[y % 10][:, :6]
    return torch.tensor(x, dtype=torch.float32), y


def learner(tasks=2, **options):
    options = {"gamma": GAMMA, "eps": 1e-3, "prior": "zero", "train": QUICK, **options}
    made = DPCR(network(), **options)
    for t in range(tasks):
        made.fit_task(task(t))
    return made


def features(backbone, x):
    with torch.no_grad():
        return backbone.eval()(x).double().numpy()


def state(made):
    """Everything that a refused call must not touch."""
    weights = {} if made.network is None else made.network.state_dict()
    bank = made.calibrator.bank
    return (
        {name: value.clone() for name, value in weights.items()},
        None if bank is None else (bank.classes, bank.counts.tolist(), bank.sums.clone()),
        list(made.classes),
        made.reports,
        made.calibrator.pairs.rows,
        None if bank is None else made.predict_proba(task(0)[0]).tobytes(),
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def test_the_head_is_the_papers_in_numpy():
    made = DPCR(network(), gamma=GAMMA, eps=1e-3, prior="zero", normalize=None, train=QUICK)
    backbones = []
    for t in range(3):
        made.fit_task(task(t))
        backbones.append(copy.deepcopy(made.backbone))
    gram, sums = np.zeros((D, D)), np.zeros((D, 0))
    for t in range(3):
        x, y = task(t)
        new = features(backbones[t], x)
        if t:
            old = features(backbones[t - 1], x)
            a = old.T @ old
            shift = np.linalg.solve(a + 1e-3 * np.trace(a) / D * np.eye(D), old.T @ new)
            gram, sums = shift.T @ gram @ shift, shift.T @ sums
        gram += new.T @ new
        sums = np.hstack([sums, new.T @ (y[:, None] == np.unique(y))])
    weight = np.linalg.solve(gram + GAMMA * np.eye(D), sums)
    np.testing.assert_allclose(made.head.weight.numpy(), weight.T, rtol=1e-8, atol=1e-10)
    assert made.classes_.tolist() == [0, 1, 2, 3, 4, 5]
    x, y = task(1)
    scores = features(made.backbone, x) @ weight
    np.testing.assert_allclose(made.decision_function(x), scores, rtol=1e-7, atol=1e-8)
    assert made.score(x, y) == made.score((x, y)) == np.mean(scores.argmax(1) == y)
    probability = made.predict_proba(x)
    np.testing.assert_allclose(probability.sum(1), 1)
    np.testing.assert_allclose(probability, np.exp(scores) / np.exp(scores).sum(1)[:, None])


def test_training_does_what_it_is_for_and_leaves_the_callers_network_alone():
    mine = network()
    before = copy.deepcopy(mine.state_dict())
    x, y = task(0, per_class=40)
    made = DPCR(mine, gamma=1.0, train=TrainConfig(first_epochs=20, batch_size=16, head_scale=8.0))
    report = made.fit_task((x, y), test=task(0, seed=1))
    assert same(dict(mine.state_dict()), dict(before))
    assert report.training["losses"][-1] < 0.5 * report.training["losses"][0]
    assert report.accuracy > 0.9
    assert (report.number, report.classes, report.samples, report.shift) == (0, (0, 1), 80, None)
    assert made.reports == [report]
    second = made.fit_task(task(1), test=task(0))
    assert second.shift["rows"] == 30
    json.dumps([each.as_dict() for each in made.reports], allow_nan=False)


class Pairs(Dataset):
    """A Dataset with nothing but what the interface asks for."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, position):
        return self.x[position], self.y[position]


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: (x.numpy(), y.tolist()),
        lambda x, y: (TensorDataset(x), torch.tensor(y)),
        lambda x, y: TensorDataset(x, torch.tensor(y)),
        lambda x, y: Pairs(x, y),
        lambda x, y: Pairs(x, [f"class {each}" for each in y]),
    ],
)
def test_forms_of_the_same_samples_give_the_same_head(form):
    expected, made = learner(), learner(tasks=0)
    for t in range(2):
        made.fit_task(form(*task(t)), test=form(*task(t)))
    assert torch.equal(made.head.weight, expected.head.weight)
    names = [str(each).removeprefix("class ") for each in made.classes_]
    assert names == [str(each) for each in expected.classes_]


def test_a_known_class_is_refused_before_anything_is_done():
    lines = []
    made = learner(progress=lines.append)
    lines.clear()
    with pytest.raises(InvalidLabels, match="earlier task"):
        made.fit_task(task(1))
    assert not lines


def test_the_order_of_classes_can_be_asked_for():
    made = learner(tasks=0)
    x, y = task(0)
    made.fit_task((x, y), classes=[1, 0])
    assert made.classes == [1, 0]
    head = made.network.head.weight
    assert not torch.equal(head, learner(tasks=1).network.head.weight)


def test_settings_mean_what_they_mean_to_the_calibrator():
    theirs = inspect.signature(DriftCalibrator).parameters
    ours = inspect.signature(DPCR).parameters
    shared = (theirs.keys() & ours.keys()) - {"device"}
    assert {"gamma", "eps", "prior", "cip", "normalize", "repeat", "pooled", "storage"} == shared
    assert all(theirs[name].default == ours[name].default for name in shared)
    values = {"gamma": 3.0, "eps": "auto", "prior": "identity", "cip": "rank", "normalize": None}
    values |= {"repeat": "merge", "storage": "packed"}
    held = DPCR(network(), **values).calibrator.settings()
    assert {name: held[name] for name in values} == values
    assert DPCR(network(), pooled=True).calibrator.pooled
    assert DPCR(network(), stats_augment="train").calibrator.head_rows == "observed"


def test_statistics_of_plain_or_of_augmented_samples():
    calls = []

    def louder(batch, generator):
        calls.append(len(batch))
        return batch + 0.5

    x, y = task(1)
    for stats in ("none", "train"):
        made = learner(tasks=1, stats_augment=stats, augment=louder, normalize=None)
        before = copy.deepcopy(made.backbone)
        first = made.calibrator.bank
        made.fit_task((x, y))
        plain = features(made.backbone, x)
        shown = features(made.backbone, x + 0.5) if stats == "train" else plain
        old = features(before, x + 0.5) if stats == "train" else features(before, x)
        a = old.T @ old
        shift = np.linalg.solve(a + 1e-3 * np.trace(a) / D * np.eye(D), old.T @ shown)
        np.testing.assert_allclose(made.calibrator.shift.matrix.numpy(), shift, atol=1e-9)
        one_hot = (y[:, None] == np.unique(y)).astype(float)
        np.testing.assert_allclose(made.calibrator.bank.sums[2:].numpy(), one_hot.T @ plain)
        gram = shift.T @ symmetric(first.reweight().gram).numpy() @ shift + shown.T @ shown
        sums = np.hstack([shift.T @ first.sums.numpy().T, shown.T @ one_hot])
        weight = np.linalg.solve(gram + GAMMA * np.eye(D), sums)
        np.testing.assert_allclose(made.head.weight.numpy().T, weight, atol=1e-8)
    assert sum(calls) == 30 * (3 + 2) * 2 + 30 * 2  # epochs, and one pass a task


class Changing(Dataset):
    """Samples that are others in each epoch."""

    def __init__(self, x, y):
        self.x, self.targets, self.epoch, self.epochs = x, y, 0, []

    def __len__(self):
        return len(self.x)

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.epochs.append(epoch)

    def __getitem__(self, position):
        return self.x[position] + self.epoch, self.targets[position]


def test_a_dataset_is_told_the_epoch_and_its_plain_twin_is_looked_at():
    x, y = task(0)
    changing = Changing(x, y)
    made = learner(tasks=0)
    made.fit_task(changing, plain=(x, y))
    assert changing.epochs == [0, 1, 2, 3]
    expected = np.array([features(made.backbone, x)[y == c].sum(0) for c in (0, 1)])
    np.testing.assert_allclose(made.calibrator.bank.sums.numpy(), expected, rtol=1e-9)


def test_a_repeated_class_adds_to_what_is_known_and_is_not_trained_on():
    made = learner(tasks=2, repeat="merge")
    trained = copy.deepcopy(made.network.state_dict())
    x, y = task(0, seed=7)
    report = made.fit_task((x, y))
    assert (report.training, report.classes, made.tasks) == (None, (), 3)
    assert same(dict(made.network.state_dict()), dict(trained))
    assert made.calibrator.bank.counts.tolist() == [30, 30, 15, 15]
    np.testing.assert_array_equal(made.calibrator.shift.matrix, np.eye(D))
    mixed = (torch.cat([task(2)[0], x]), np.concatenate([task(2)[1], y]))
    report = made.fit_task(mixed)
    assert (report.classes, report.samples, report.training["samples"]) == ((4, 5), 60, 30)
    assert made.calibrator.bank.counts.tolist() == [45, 45, 15, 15, 15, 15]
    assert report.shift["rows"] == 60
    only_new = learner(tasks=2, repeat="merge")
    only_new.fit_task((x, y))
    only_new.fit_task(task(2))
    assert same(dict(only_new.network.state_dict()), dict(made.network.state_dict()))


def test_one_class_and_one_sample_are_a_task():
    made = learner(tasks=1, eps="auto")
    made.fit_task((torch.ones(1, 6), [7]))
    x, y = task(1, per_class=4)
    made.fit_task((torch.cat([x, torch.ones(1, 6)]), [*y.tolist(), 9]))
    assert made.classes_.tolist() == [0, 1, 7, 2, 3, 9]
    assert np.isfinite(made.predict_proba(x)).all()
    assert made.calibrator.bank.counts.tolist() == [15, 15, 1, 4, 4, 1]


X, Y = task(2)


@pytest.mark.parametrize(
    ("data", "options", "error", "named"),
    [
        ((X[:0], []), {}, InvalidFeatures, "task 3 is empty"),
        ((X, Y - 4), {}, InvalidLabels, 'class 0 .*earlier.*"merge"'),
        ((X, Y.astype(str)), {}, InvalidLabels, "kind str"),
        ((X, Y[:-1]), {}, InvalidFeatures, "30 training samples, 29 labels"),
        ((X, Y + 0.5), {}, InvalidLabels, "whole number"),
        (X, {}, InvalidFeatures, "without labels"),
        ((3.0, Y), {}, InvalidFeatures, "single number"),
        (("abc", Y), {}, InvalidFeatures, "not str"),
        ((X, Y), {"classes": [4, 6]}, InvalidLabels, "'?5'?, '?6'?"),
        ((X, Y), {"classes": [4, 5, 4]}, InvalidLabels, "twice"),
        ((X, Y), {"plain": X[:3]}, InvalidFeatures, "30 training samples, 3 of them"),
        ((X, Y), {"test": (X, Y[:2])}, InvalidFeatures, "30 test samples, 2 labels"),
        ((X * float("nan"), Y), {}, NotFinite, "nan"),
        ((X, Y), {"plain": X * float("nan")}, InvalidFeatures, "sample 0 .*0 to 29.*NaN"),
        ((X, Y), {"test": (X * float("nan"), Y)}, InvalidFeatures, "NaN"),
        ((X[:, :5], Y), {}, RuntimeError, "shape"),
    ],
)
def test_what_cannot_be_learned_leaves_the_learner_as_it_was(data, options, error, named):
    made = learner()
    before = state(made)
    with pytest.raises(error, match=named):
        made.fit_task(data, **options)
    assert same(state(made), before)
    made.fit_task(task(2))
    expected = learner(tasks=3)
    assert torch.equal(made.head.weight, expected.head.weight)


def test_a_first_task_that_fails_after_its_training_leaves_the_untrained_network():
    mine, made = network(), learner(tasks=0)
    with pytest.raises(InvalidFeatures, match="NaN"):
        made.fit_task(task(0), plain=X * float("nan"))
    assert same(dict(made.backbone.state_dict()), dict(mine.state_dict()))
    made.fit_task(task(0))
    assert torch.equal(made.head.weight, learner(tasks=1).head.weight)


def test_before_the_first_task_there_is_nothing_to_ask():
    made = learner(tasks=0)
    with pytest.raises(NotSeen, match="fit_task"):
        made.predict(X)
    with pytest.raises(InvalidFeatures, match="no sample"):
        learner().predict(X[:0])


def test_a_backbone_that_makes_no_rows_is_refused():
    for broken in (nn.Unflatten(1, (2, 3)), nn.Flatten(0)):
        with pytest.raises(InvalidFeatures, match="matrix"):
            DPCR(nn.Sequential(nn.Linear(6, 6), broken), train=QUICK).fit_task(task(0))


@pytest.mark.parametrize(
    "options",
    [{"stats_augment": "all"}, {"seed": -1}, {"gamma": -1.0}, {"cip": "full"}, {"repeat": "no"}],
)
def test_a_setting_outside_its_values_is_refused(options):
    with pytest.raises(InvalidSetting, match=next(iter(options))):
        DPCR(mlp(6, D), **options)


def test_a_seed_decides_everything():
    heads = [learner(seed=seed).head.weight for seed in (3, 3, 4)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    still = TrainConfig(first_epochs=1, first_lr=1e-12)
    with pytest.warns(AtChance):
        rows = [learner(tasks=1, seed=s, train=still).network.head.weight for s in (3, 4)]
    assert float((rows[0] - rows[1]).detach().abs().max()) > 0.1


def test_the_global_generator_is_left_alone():
    before = torch.default_generator.get_state()
    learner().predict(X)
    assert torch.equal(torch.default_generator.get_state(), before)
