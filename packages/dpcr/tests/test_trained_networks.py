from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from dpcr.study_data import StudyData, seeded
from dpcr.trained_networks import TrainedNetworks
from dpcr.training import TrainConfig
from lipogram.analytic.scenarios import class_incremental
from lipogram.errors import CorruptState, RunMismatch

QUICK = TrainConfig(
    first_epochs=3, epochs=2, batch_size=16, schedule="cosine", lr=0.02, head_scale=8.0
)
CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")


def backbone():
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4))


def data(**changes):
    random = np.random.default_rng(0)
    slots = np.arange(96) % 6
    x = torch.from_numpy(random.normal(size=(96, 6)) + 4 * np.eye(6)[slots]).float()
    labels = np.array(CLASSES)[slots]
    fields = {
        "name": "blobs",
        "network": seeded(backbone),
        "train": x,
        "train_labels": labels,
        "test": x[:12],
        "test_labels": labels[:12],
    }
    return StudyData(**(fields | changes))


def networks(folder, held=None, config=QUICK, n_tasks=3, seed=1, **options):
    held = data() if held is None else held
    tasks = class_incremental(held.train_labels, increment=2, seed=0)[:n_tasks]
    return TrainedNetworks(folder, held, tasks, config, seed=seed, **options)


def same(a, b):
    return all(
        torch.equal(value, theirs.state_dict()[name])
        for ours, theirs in ((a.backbone, b.backbone), (a.head, b.head))
        for name, value in ours.state_dict().items()
    )


def test_networks_are_trained_once_and_read_afterwards(tmp_path):
    lines = []
    made = networks(tmp_path / "new", progress=lines.append)
    last = made.after(2)
    assert len(lines) == 7
    assert lines[0].startswith("task 1 of 3, epoch 1 of 3: loss")
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == [f"task-{t}.safetensors" for t in range(3)]
    lines.clear()
    again = networks(tmp_path / "new", progress=lines.append)
    assert same(again.after(2), last)
    assert again.after(2).report == {
        **last.report,
        "losses": list(last.report["losses"]),
        "accuracies": list(last.report["accuracies"]),
    }
    assert not lines
    assert last.report["samples"] == 32
    assert same(again.after(0), made.after(0))


def test_scores_come_in_order_of_exposure(tmp_path):
    made = networks(tmp_path)
    x = data().train
    for task, classes in ((0, 2), (1, 4), (2, 6)):
        network = made.after(task)
        assert not network.backbone.training
        with torch.no_grad():
            features = network.backbone(x)
        scores = network.scores(features)
        assert scores.shape == (96, classes)
        assert torch.equal(scores, network.head(features).detach())
    seen = np.array(made.tasks[0].seen)
    with torch.no_grad():
        scores = made.after(0).scores(made.after(0).backbone(x))
    mine = np.isin(data().train_labels, seen)
    right = seen[scores.argmax(1).numpy()] == data().train_labels
    assert right[mine].mean() > 0.9


def test_a_network_depends_on_its_own_past_only(tmp_path):
    short, long = networks(tmp_path / "short", n_tasks=2), networks(tmp_path / "long")
    assert same(short.after(1), long.after(1))
    short.after(1)
    shared = networks(tmp_path / "short")
    assert same(shared.after(2), long.after(2))
    before = torch.get_rng_state()
    assert not same(networks(tmp_path / "seed", seed=2).after(0), long.after(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_network_before_is_distilled_from(tmp_path):
    one = networks(tmp_path / "one")
    two = networks(tmp_path / "two", config=replace(QUICK, lam=0.0))
    assert same(one.after(0), two.after(0))
    assert not same(one.after(1), two.after(1))


def test_a_cut_off_training_is_gone_on_with(tmp_path):
    whole = networks(tmp_path / "whole").after(1)
    config = replace(QUICK, checkpoint_every=1)

    def cut(line):
        if line.startswith("task 2 of 3, epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        networks(tmp_path / "cut", config=config, progress=cut).after(1)
    assert (tmp_path / "cut" / "task-1.training.safetensors").is_file()
    lines = []
    resumed = networks(tmp_path / "cut", config=config, progress=lines.append).after(1)
    assert len(lines) == 1
    assert same(resumed, whole)
    assert not (tmp_path / "cut" / "task-1.training.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held": data(name="others")}, "data is .*blobs.* in the folder"),
        ({"held": data(train=data().train + 1)}, "samples is"),
        ({"seed": 2}, "seed is 1 in the folder, 2"),
        ({"config": TrainConfig(first_epochs=3)}, "train.batch_size is 16"),
    ],
)
def test_networks_of_another_study_are_refused(tmp_path, change, message):
    networks(tmp_path).after(0)
    content = (tmp_path / "task-0.safetensors").read_bytes()
    with pytest.raises(RunMismatch, match=message):
        networks(tmp_path, **change).after(0)
    assert (tmp_path / "task-0.safetensors").read_bytes() == content


def test_a_damaged_network_is_refused(tmp_path):
    networks(tmp_path).after(0)
    path = tmp_path / "task-0.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CorruptState, match="damaged"):
        networks(tmp_path).after(0)


class Shifted(Dataset):
    def __init__(self, x):
        self.x, self.asked = x, 0

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        self.asked += 1
        return (self.x[row] + 0.5,)


def test_training_sees_augmented_samples(tmp_path):
    plain, x = networks(tmp_path / "plain").after(0), data().train
    shifted = Shifted(x)
    other = networks(tmp_path / "other", data(augmented=shifted)).after(0)
    assert shifted.asked == 32 * 3
    assert not same(plain, other)
    third = networks(tmp_path / "third", data(augment=lambda x, generator: x + 0.5)).after(0)
    assert same(third, other)


def test_few_networks_are_held(tmp_path):
    held = data()
    tasks = class_incremental(held.train_labels, increment=1, seed=0)
    made = TrainedNetworks(tmp_path, held, tasks, QUICK)
    first = made.after(0)
    made.after(5)
    assert set(made._held) == {0, 4, 5}
    assert made.after(0) is first
    assert made.after(4) is made.after(4)
    assert made.after(1).head.n_classes == 2
