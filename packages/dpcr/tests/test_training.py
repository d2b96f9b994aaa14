import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from dpcr.cosine_head import CosineClassifier, CosineHead
from dpcr.training import AtChance, TrainConfig, train_task
from lipogram.errors import (
    CorruptState,
    InvalidFeatures,
    InvalidLabels,
    NotFinite,
    RunMismatch,
)

QUICK = TrainConfig(
    first_epochs=4, epochs=4, batch_size=16, first_lr=0.05, lr=0.02, schedule="cosine", lam=2.0
)


def data(classes=(0, 1, 2), each=20, seed=0):
    random = np.random.default_rng(seed)
    slots = np.repeat(classes, each)
    x = random.normal(size=(len(slots), 6)) + 3 * np.eye(6)[slots]
    return torch.from_numpy(x).float(), slots


def network(classes=3, *, scale=8.0, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 8)
        )
        return CosineClassifier(backbone, CosineHead(8, classes, scale=scale))


def noisy(x, generator):
    return x + 0.1 * torch.randn(x.shape, generator=generator)


def same(a, b):
    ours, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


def trained(config=QUICK, **options):
    x, slots = data()
    net = network()
    report = train_task(net, x, slots, config, augment=noisy, **options)
    return net, report


def test_a_task_is_learned_and_distillation_keeps_the_old_scores():
    first, report = trained()
    assert report.accuracies[-1] > 0.8
    assert report.losses[-1] < report.losses[0] / 2
    assert (report.samples, report.epochs, len(report.losses)) == (60, 4, 4)
    assert not first.training
    x, slots = data((3, 4), seed=1)
    moved = {}
    for lam in (0.0, 5.0):
        net = first.grown(5, generator=torch.Generator().manual_seed(0))
        config = replace(QUICK, lam=lam, epochs=10)
        assert train_task(net, x, slots, config, old=first, task=1).accuracies[-1] > 0.8
        with torch.no_grad():
            before = first(x).div(2).softmax(1)
            gap = before * (before.log() - net(x)[:, :3].div(2).log_softmax(1))
        moved[lam] = float(gap.sum(1).mean())
    assert moved[5.0] < 0.3 * moved[0.0]


def test_bits_follow_from_seed_and_task_and_from_nothing_else():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, _ = trained(seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two, _ = trained(seed=3)
    assert same(one, two)
    assert not same(one, trained(seed=4)[0])
    x, slots = data()
    alike = {"lr": QUICK.first_lr, "weight_decay": QUICK.first_weight_decay}
    config = replace(QUICK, **alike)
    net, other = network(), network()
    train_task(net, x, slots, QUICK, task=0)
    train_task(other, x, slots, config, task=1)
    assert not same(net, other)  # trained alike, but for the task's number


class Cut(Exception):
    pass


@pytest.mark.parametrize("every", [1, 2])
def test_a_training_that_was_cut_off_ends_with_the_same_bits(tmp_path, every):
    config = replace(QUICK, checkpoint_every=every)
    whole, _ = trained(config)
    path = tmp_path / "part.safetensors"

    def cut(line):
        if line.startswith("epoch 4"):
            raise Cut

    with pytest.raises(Cut):
        trained(config, checkpoint=path, progress=cut)
    lines = []
    resumed, report = trained(config, checkpoint=path, progress=lines.append)
    assert [line[:7] for line in lines] == ["epoch 4"] if every == 1 else ["epoch 3", "epoch 4"]
    assert same(whole, resumed)
    assert len(report.losses) == 4


def cut_training(tmp_path, config):
    path = tmp_path / "part.safetensors"
    trained(config, checkpoint=path, identity={"data": "a"})
    return path


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    config = replace(QUICK, checkpoint_every=3)
    path = cut_training(tmp_path, config)
    content = path.read_bytes()
    for options, message in (
        ({"identity": {"data": "b"}}, "data is"),
        ({"identity": {"data": "a"}, "seed": 1}, "seed is 0"),
        ({"identity": {"data": "a"}, "task": 1}, "task is 0"),
    ):
        with pytest.raises(RunMismatch, match=message):
            trained(config, checkpoint=path, **options)
    other = replace(config, momentum=0.5)
    with pytest.raises(RunMismatch, match="momentum"):
        trained(other, checkpoint=path, identity={"data": "a"})
    x, slots = data()
    wider = CosineClassifier(nn.Linear(6, 9), CosineHead(9, 3))
    with pytest.raises(CorruptState, match="another network"):
        train_task(wider, x, slots, config, checkpoint=path, identity={"data": "a"})
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptState, match="damaged"):
        trained(config, checkpoint=path, identity={"data": "a"})
    workers = replace(config, workers=2, checkpoint_every=5)
    path.write_bytes(content)
    assert len(trained(workers, checkpoint=path, identity={"data": "a"})[1].losses) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"losses": [1.0], "accuracies": []},
        {"losses": "abcd"},
        {"losses": [True], "accuracies": [1]},
        {"seconds": None},
    ],
)
def test_a_hostile_checkpoint_is_refused(tmp_path, change):
    from lipogram.analytic.state import read_state, write_state

    path = cut_training(tmp_path, replace(QUICK, checkpoint_every=3))
    tensors, described = read_state(path)
    write_state(path, tensors, described | change)
    with pytest.raises(CorruptState, match="do not fit together"):
        trained(checkpoint=path, identity={"data": "a"})
    tensors["velocity/head.scale"] = torch.ones(2)
    write_state(path, tensors, described)
    with pytest.raises(CorruptState, match="do not fit together"):
        trained(checkpoint=path, identity={"data": "a"})


class Rows(Dataset):
    def __init__(self, x):
        self.x, self.epochs, self.asked = x, [], []

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        self.asked.append(row)
        return self.x[row], "a label that nobody reads"

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


def test_a_dataset_trains_like_its_tensor_and_is_told_the_epoch():
    x, slots = data()
    rows = np.arange(10, 50)
    tensor, dataset = network(), network()
    train_task(tensor, x, slots[rows], QUICK, rows=rows)
    samples = Rows(x)
    train_task(dataset, samples, slots[rows], QUICK, rows=rows)
    assert same(tensor, dataset)
    assert samples.epochs == [0, 1, 2, 3]
    for epoch in range(4):
        asked = samples.asked[40 * epoch : 40 * (epoch + 1)]
        assert sorted(asked) == rows.tolist()
    assert samples.asked[:40] != samples.asked[40:80]


def test_workers_change_nothing():
    x, slots = data()
    one, two = network(), network()
    config = replace(QUICK, first_epochs=1)
    train_task(one, Rows(x), slots, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of fork beside threads
        train_task(two, Rows(x), slots, replace(config, workers=1))
    assert same(one, two)


def test_batches_are_even_and_none_is_too_large():
    sizes = []

    def counted(x, generator):
        sizes.append(len(x))
        return x

    x, slots = data((0, 1), each=17)
    config = replace(QUICK, first_epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AtChance)  # after three steps
        train_task(network(), x, slots, config, augment=counted)
    assert sizes == [12, 11, 11]


def test_one_sample_is_trained_on_with_the_running_statistics():
    x, _ = data()
    net = network()
    before = net.backbone[1].running_mean.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = train_task(net, x[:1], np.array([2]), QUICK)
    assert report.samples == 1
    assert torch.equal(net.backbone[1].running_mean, before)
    train_task(net, x[:2], np.array([0, 2]), QUICK, old=None, task=1)
    assert not torch.equal(net.backbone[1].running_mean, before)


def test_what_need_not_be_learned_stays():
    net = network()
    net.backbone[0].requires_grad_(False)
    before = net.backbone[0].weight.clone()
    x, slots = data()
    train_task(net, x, slots, QUICK)
    assert torch.equal(net.backbone[0].weight, before)
    old = net.grown(3)
    kept = [value.clone() for value in old.state_dict().values()]
    train_task(net.grown(4), *data((3,)), QUICK, old=old, task=1)
    for value, held in zip(old.state_dict().values(), kept, strict=True):
        assert torch.equal(value, held)


def test_classes_met_again_are_distilled_only():
    first, _ = trained()
    x, slots = data()
    net = first.grown(3)
    report = train_task(net, x, slots, QUICK, old=first, task=1)
    assert report.accuracies == (1.0,) * 4
    assert not same(net, first)
    mixed = np.where(np.arange(60) < 40, slots, 3)
    report = train_task(first.grown(4), x, mixed, QUICK, old=first, task=1)
    assert report.accuracies == (1.0,) * 4  # of the one new class, among the one new class


def test_a_loss_that_is_no_number(tmp_path):
    x, slots = data()
    path = tmp_path / "part.safetensors"
    config = replace(QUICK, checkpoint_every=1)

    def poisoned(batch, generator):
        return batch * float("nan") if path.is_file() else batch

    with pytest.raises(NotFinite, match=r"nan in epoch 2 of task 0: lower the learning rate"):
        train_task(network(), x, slots, config, augment=poisoned, checkpoint=path)
    assert not path.exists()


def test_a_network_that_learns_nothing_is_reported():
    x, slots = data()
    config = replace(QUICK, first_lr=1e-7)
    with pytest.warns(AtChance, match=r"largest class alone makes 33.3%.*learning rate"):
        train_task(network(), x, slots, config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_task(network(), x[:20], slots[:20], config)  # one class says nothing


def test_refused_samples():
    x, slots = data()
    net, before = network(), network()
    for arguments, error, message in (
        ((x[:0], slots[:0]), InvalidFeatures, "no sample"),
        ((x, slots[:-1]), InvalidFeatures, "60 samples, labels"),
        ((x, slots + 1), InvalidLabels, "columns 1 to 3 .* 3 classes"),
        ((x, slots - 1), InvalidLabels, "columns -1 to 1"),
    ):
        with pytest.raises(error, match=message):
            train_task(net, *arguments, QUICK)
    with pytest.raises(InvalidLabels, match="the one before 4: grow it first"):
        train_task(net, x, slots, QUICK, old=network(4), task=1)
    assert same(net, before)


def test_half_precision_trains_too():
    config = replace(QUICK, amp=True)
    net, report = trained(config)
    assert report.accuracies[-1] > 0.8
    assert net.backbone[0].weight.dtype == torch.float32
    assert not same(net, trained()[0])
