"""A study from its settings to its figures: recounted by hand, killed, shared, refused."""

import json
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from dpcr.incremental_metrics import accuracy_matrix, backward_transfer, forgetting
from dpcr.methods import METHODS, Method
from dpcr.study import Study, run_study, summarise
from dpcr.study_data import StudyData, digits_data, features_under, seeded, taken
from dpcr.task_context import TaskContext, TestContext
from dpcr.train_settings import TrainConfig
from dpcr.trained_networks import TrainedNetworks
from lipogram.errors import InvalidFeatures, InvalidLabels, InvalidSetting, RunMismatch
from lipogram.runs import Run

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")
QUICK = TrainConfig(
    first_epochs=3, epochs=2, batch_size=16, first_milestones=(), milestones=(), head_scale=8.0
)
FAST = ("lwf", "ncm", "dpcr")


def network():
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 6), nn.ReLU())


def blobs(seed=0, **changes):
    """Seven blobs of 20 training and 40 test samples."""
    rng = np.random.default_rng(seed)
    centres = 2 * rng.normal(size=(len(NAMES), 5))

    def drawn(n):
        slots = rng.permutation(np.repeat(np.arange(len(NAMES)), n))
        x = centres[slots] + 0.6 * rng.normal(size=(len(slots), 5))
        return torch.from_numpy(x).float(), np.array(NAMES)[slots]

    (x, y), (x_test, y_test) = drawn(20), drawn(40)
    fields = {
        "name": "blobs",
        "network": seeded(network),
        "train": x,
        "train_labels": y,
        "test": x_test,
        "test_labels": y_test,
    }
    return StudyData(**(fields | changes))


def settings(**changes):
    fields = {
        "data": "blobs",
        "tasks": None,
        "initial": 3,
        "increment": 2,
        "methods": FAST,
        "options": {"gamma": 1.0},
        "train": QUICK,
        "top": 3,
    }
    return Study(**(fields | changes))


class Rows(Dataset):
    """The same samples as pairs of a sample and something else."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i].numpy(), "ignored"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study of all methods, two seeds, three tasks of 3, 2 and 2 classes."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    study = settings(methods=(*METHODS, "bare"), variants={"bare": BARE}, seeds=(3, 4))
    return run_study(study, blobs, folder), study


BARE = {"method": "dpcr", "normalize": None, "gamma": 2.0}


# ------------------------------------------------------------------ figures


def test_one_line_a_task_and_seed_with_every_method(whole):
    run, study = whole
    lines = run.events("task")
    assert [(line["seed"], line["task"]) for line in lines] == [
        (seed, t) for seed in (3, 4) for t in range(3)
    ]
    for line in lines:
        assert list(line["methods"]) == list(study.methods)
        assert line["samples"] == 20 * len(line["classes"])
        assert line["training"]["epochs"] == (2 if line["task"] else 3)
        assert [len(m["row"]) for m in line["methods"].values()] == [line["task"] + 1] * 11
    assert [len(line["classes"]) for line in lines[:3]] == [3, 2, 2]


def test_the_accuracies_are_those_of_predictions_made_by_hand(whole):
    """Nearest means of the last task, from the networks on disk."""
    run, study = whole
    data = blobs(3)
    tasks = study.stream(data.train_labels, 3)
    kept = TrainedNetworks(run.folder / "networks" / "seed-3", data, tasks, QUICK, seed=3)
    means, names = [], []
    for t, task in enumerate(tasks):
        z = kept.after(t).backbone(data.train[torch.from_numpy(task.train)]).detach().numpy()
        labels = data.train_labels[task.train]
        means.append(np.stack([z[labels == c].mean(0) for c in task.classes]))
        names.append(task.classes)
    z = kept.after(2).backbone(data.test).detach().numpy()
    distance = np.linalg.norm(z[:, None] - np.concatenate(means), axis=2)
    hits = np.concatenate(names)[distance.argmin(1)] == data.test_labels
    line = run.events("task")[2]["methods"]["ncm"]
    assert line["accuracy"] == pytest.approx(hits.mean())
    rows = [hits[np.isin(data.test_labels, task.classes)].mean() for task in tasks]
    assert line["row"] == pytest.approx(rows)
    assert line["new"] == pytest.approx(rows[2])
    old = hits[~np.isin(data.test_labels, tasks[2].classes)].mean()
    assert line["old"] == pytest.approx(old)
    column = np.argmax(data.test_labels[:, None] == np.concatenate(names), axis=1)[:, None]
    nearer = (distance < np.take_along_axis(distance, column, 1)).sum(1)
    assert line["top"] == pytest.approx((nearer < 3).mean())


def test_methods_are_told_what_the_networks_on_disk_say(whole):
    """Contexts made from the networks of the first two tasks give the second line's accuracies."""
    run, study = whole
    data = blobs(3)
    a, b = study.stream(data.train_labels, 3)[:2]
    kept = TrainedNetworks(run.folder / "networks" / "seed-3", data, [a, b], QUICK, seed=3)
    old, new = (kept.after(t).backbone.requires_grad_(False) for t in (0, 1))
    tested = np.isin(data.test_labels, b.seen)
    first, second, both = data.train[a.train], data.train[b.train], [*a.train, *b.train]
    contexts = [
        TaskContext(
            number=t,
            known=a.classes if t else (),
            classes=task.classes,
            labels=data.train_labels[task.train],
            features=(new if t else old)(x),
            old_features=old(x) if t else None,
            images=lambda rows: second[rows],
            network=new if t else old,
            old_network=old if t else None,
            first_features=lambda x=x: old(x),
            joint=lambda t=t: (
                (new(data.train[both]), data.train_labels[both])
                if t
                else (old(first), data.train_labels[a.train])
            ),
        )
        for t, task, x in ((0, a, first), (1, b, second))
    ]
    x = data.test[tested]
    test = TestContext(new(x), kept.after(1).scores(new(x)), lambda: old(x))
    line = run.events("task")[1]["methods"]
    told = {}
    for name in study.methods:
        method = study.method(name)
        for context in contexts:
            method.learn(context)
        told[name] = (method.predict(test) == data.test_labels[tested]).mean()
        figures = method.figures()
        assert figures == pytest.approx({key: line[name][key] for key in figures})
    assert told == pytest.approx({name: line[name]["accuracy"] for name in study.methods})
    assert len(set(told.values())) > 6


class Spy(Method):
    """Keeps what it is told, and answers with the training head."""

    def __init__(self):
        super().__init__()
        self.told = []

    def learn(self, task):
        self.classes += task.classes
        self.told.append(task)

    def scores(self, test):
        return test.head_scores


def test_images_are_the_tasks_own_by_their_place_in_it(tmp_path):
    class Watched(Study):
        def method(self, name):
            return spy if name == "ncm" else super().method(name)

    spy, data = Spy(), blobs(3)
    study = Watched(**vars(settings(methods=("ncm",), seeds=(3,))))
    run_study(study, data, tmp_path)
    for task, context in zip(study.stream(data.train_labels, 3), spy.told, strict=True):
        expected = data.train[task.train]
        assert torch.equal(context.images(np.array([4, 0])), expected[[4, 0]])
        assert (context.labels == data.train_labels[task.train]).all()
        assert (*context.known, *context.classes) == task.seen
        features = context.network(context.images(np.arange(len(expected))))
        np.testing.assert_allclose(features.detach(), context.features, atol=1e-6)


def test_a_seeds_figures_are_those_of_its_lines(whole):
    run, study = whole
    for event in run.events("seed"):
        lines = [e for e in run.events("task") if e["seed"] == event["seed"]]
        assert sorted(event["classes"]) == list(NAMES)
        for name in study.methods:
            mine = [line["methods"][name] for line in lines]
            accuracies = [each["accuracy"] for each in mine]
            matrix = accuracy_matrix([each["row"] for each in mine])
            figures = event["methods"][name]
            assert figures["accuracies"] == accuracies
            assert figures["a_last"] == accuracies[-1]
            assert figures["a_avg"] == pytest.approx(np.mean(accuracies))
            assert figures["forgetting"] == forgetting(matrix)
            assert figures["backward_transfer"] == backward_transfer(matrix)
            assert figures["matrix"][0][1:] == [None, None]


def test_the_summary_is_means_and_deviations_over_seeds(whole):
    run, study = whole
    assert run.result["seeds"] == 2
    assert list(run.result["methods"]) == list(study.methods)
    values = [e["methods"]["dpcr"]["a_avg"] for e in run.events("seed")]
    told = run.result["methods"]["dpcr"]["a_avg"]
    assert told["values"] == values
    assert told["mean"] == pytest.approx(np.mean(values))
    assert told["std"] == pytest.approx(np.std(values, ddof=1))
    assert summarise(run) == run.result


def test_methods_see_what_they_ought_to(whole):
    """The first task is the same for all ridge heads; an own setting comes before a shared one."""
    lines = whole[0].events("task")
    first = lines[0]["methods"]
    for name in ("stale", "frozen", "oracle", "dpcr-published"):
        assert first[name]["row"] == first["dpcr"]["row"]
    study = whole[1]
    assert study.method("dpcr").gamma == 1.0
    assert study.method("bare").gamma == 2.0
    assert study.method("bare").normalize is None
    assert lines[1]["methods"]["dpcr"]["rank"] > 0
    assert 0 <= lines[1]["methods"]["adc"]["hit_share"] <= 1


def test_warnings_become_remarks(tmp_path):
    study = settings(methods=("dpcr-published",), train=replace(QUICK, epochs=1), seeds=(3,))
    few = blobs(3)
    keep = np.concatenate([np.flatnonzero(few.train_labels == c)[:1] for c in NAMES])
    few = replace(few, train=few.train[keep], train_labels=few.train_labels[keep])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of training at chance, which is not a method's
        run = run_study(study, few, tmp_path)
    remarks = run.events("task")[1]["methods"]["dpcr-published"]["remarks"]
    assert len(remarks) == 1
    assert "live directions" in remarks[0]


# ------------------------------------------------------------------ resume


def figures(run):
    """Everything but times."""
    events = [
        {k: v for k, v in e.items() if k != "time"} for e in run.events() if e["event"] != "resume"
    ]
    return without_seconds(events), without_seconds(run.result)


def without_seconds(value):
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if k != "seconds"}
    return [without_seconds(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("stop", ["task 1 of 3, classifiers", "task 3 of 3, training"])
def test_a_study_that_was_cut_off_ends_with_the_same_figures(tmp_path, stop):
    study = settings(seeds=(3, 4))
    expected = figures(run_study(study, blobs, tmp_path / "whole"))

    def cut(line):
        if line == f"blobs, seed 4: {stop}":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study, blobs, tmp_path / "cut", progress=cut)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "cut" / "networks").rglob("*.safe*")}
    assert figures(run_study(study, blobs, tmp_path / "cut")) == expected
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_a_finished_study_is_not_run_again(tmp_path):
    study = settings(methods=("ncm",))
    first = run_study(study, blobs, tmp_path)
    said = []
    again = run_study(study, blobs, tmp_path, progress=said.append)
    assert said == []
    assert figures(again) == figures(first)


def test_a_log_without_its_last_line_gets_it_again_and_no_other_twice(tmp_path):
    study = settings()
    expected = figures(run_study(study, blobs, tmp_path))
    log = tmp_path / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:-2]))  # the last task and the seed
    assert figures(run_study(study, blobs, tmp_path)) == expected


def test_other_methods_share_the_networks(tmp_path):
    kept = tmp_path / "networks"
    run_study(settings(), blobs, tmp_path / "a", networks=kept)
    said = []
    other = settings(methods=("stale", "oracle"))
    run_study(other, blobs, tmp_path / "b", networks=kept, progress=said.append)
    assert said
    assert not any("epoch" in line for line in said)
    assert not (tmp_path / "b" / "networks").exists()
    with pytest.raises(RunMismatch, match=r"lr is 0.05 in the folder, 0.01 asked for"):
        run_study(settings(train=replace(QUICK, lr=0.01)), blobs, tmp_path / "c", networks=kept)


def test_a_folder_of_another_study_is_refused(tmp_path):
    run_study(settings(methods=("ncm",)), blobs, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(RunMismatch, match=r"initial is 3 in the folder, 1 asked for"):
        run_study(settings(methods=("ncm",), initial=1), blobs, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    run_study(settings(methods=("ncm",), train=replace(QUICK, workers=2)), blobs, tmp_path)


def test_other_data_than_the_settings_say_are_refused(tmp_path):
    with pytest.raises(RunMismatch, match=r"of data 'blobs', these are 'drops'"):
        run_study(settings(), blobs(name="drops"), tmp_path)


def test_a_dataset_gives_the_figures_of_its_tensor(tmp_path):
    tensors = blobs(3)
    other = replace(tensors, train=Rows(tensors.train), test=Rows(tensors.test))
    study = settings(methods=(*FAST, "adc", "oracle"), seeds=(3,))
    a = run_study(study, tensors, tmp_path / "a")
    b = run_study(study, other, tmp_path / "b")
    assert figures(a) == figures(b)


def test_the_network_is_trained_on_what_is_augmented_and_read_on_what_is_not(tmp_path):
    plain = blobs(3)
    study = settings(methods=("ncm",), seeds=(3,))
    a = run_study(study, plain, tmp_path / "a")
    same = run_study(study, replace(plain, augmented=plain.train.clone()), tmp_path / "b")
    assert figures(a) == figures(same)
    mirrored = replace(plain, augment=lambda x, generator: -x)
    assert figures(run_study(study, mirrored, tmp_path / "c")) != figures(a)
    other = replace(plain, augmented=-plain.train)
    assert figures(run_study(study, other, tmp_path / "d")) != figures(a)


# ------------------------------------------------------------------ streams and settings


def sizes(study, seed=0):
    return [len(task.classes) for task in study.stream(blobs().train_labels, seed)]


def test_streams_start_cold_or_warm():
    assert sizes(settings(tasks=7, increment=None, initial=0)) == [1] * 7
    assert sizes(settings(tasks=3, increment=None, initial=3)) == [3, 2, 2]
    assert sizes(settings(tasks=1, increment=None, initial=0)) == [7]
    assert sizes(settings(tasks=1, increment=None, initial=7)) == [7]
    assert sizes(settings(tasks=4, increment=None, initial=0)) == [2, 2, 2, 1]
    assert sizes(settings(tasks=None, increment=3, initial=0)) == [3, 3, 1]


def test_the_order_is_the_seeds_or_its_own_or_given():
    labels = blobs().train_labels

    def orders(**changes):
        return [settings(**changes).stream(labels, seed)[-1].seen for seed in (0, 1)]

    a, b = orders()
    assert a != b
    a, b = orders(order_seed=5)
    assert a == b
    assert orders(order=None)[0] == NAMES
    assert orders(order=NAMES[::-1])[1] == NAMES[::-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"increment": None}, "tasks is None and increment None"),
        ({"tasks": 3}, "tasks is 3 and increment 2"),
        ({"increment": 0}, "increment is 0"),
        ({"initial": -1}, "initial is -1"),
        ({"top": 0}, "top is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"methods": ()}, "methods is"),
        ({"methods": ("ncm", "ncm")}, "none twice"),
        ({"seeds": ()}, "seeds is"),
        ({"methods": ("best",)}, "'best' is none of lwf"),
        ({"methods": ("x",), "variants": {"x": {"method": "ncm", "gamma": 1}}}, "no option"),
        ({"options": {"gama": 1.0}}, "no method has an option 'gama'"),
        ({"options": {"gamma": -1.0}}, "gamma is -1.0"),
    ],
)
def test_settings_that_cannot_run_are_refused(changes, message):
    with pytest.raises(InvalidSetting, match=message):
        settings(**changes)


def test_an_option_that_only_other_methods_have_is_no_fault():
    assert settings(methods=("lwf",), options={"gamma": 3.0}).method("dpcr").gamma == 3.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initial": 8}, "initial is 8, but there are 7"),
        ({"initial": 0, "tasks": 5, "increment": None}, r"7 classes.*5 tasks.*4 \(2, 2, 2, 1"),
        ({"initial": 0, "tasks": 8, "increment": None}, "7 classes.*8 tasks"),
        ({"initial": 3, "tasks": 1, "increment": None}, "7 classes.*1 tasks"),
        ({"order": ("ant",)}, "each of the 7 classes once"),
    ],
)
def test_streams_that_cannot_be_are_refused(changes, message):
    with pytest.raises(InvalidSetting, match=message):
        settings(**changes).stream(blobs().train_labels, 0)


def test_settings_are_json_without_what_has_no_effect(tmp_path):
    told = json.loads(json.dumps(settings().settings()))
    assert told["train"]["lr"] == 0.05
    assert "workers" not in told["train"]


# ------------------------------------------------------------------ data


def test_samples_come_by_position_from_tensors_and_datasets():
    x = torch.arange(12.0).reshape(4, 3)
    for samples in (x, Rows(x), list(x)):
        assert torch.equal(taken(samples, np.array([2, 0])), x[[2, 0]])


def test_features_are_read_in_eval_mode_in_any_batches():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    rows = np.arange(10)[::-1].copy()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    one = features_under(net, x, rows)
    many = features_under(net, x, rows, batch_size=3)
    np.testing.assert_allclose(one, many, atol=1e-6)
    np.testing.assert_allclose(one, net.eval()(x[rows]).detach(), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.train()
    features_under(net, x, rows)
    assert net.training


def test_what_gives_no_features_is_refused():
    with pytest.raises(InvalidFeatures, match="no sample to look at"):
        features_under(nn.Identity(), torch.ones(2, 2), np.array([], dtype=int))
    with pytest.raises(InvalidFeatures, match=r"\(2, 2, 2\)"):
        features_under(nn.Identity(), torch.ones(2, 2, 2), np.arange(2))


def test_a_seed_makes_the_network_and_leaves_the_global_generator():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    a, b, c = (seeded(network)(seed)[0].weight for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_digits_are_split_by_class_and_seed():
    data = digits_data(seeded(network), 0)
    assert data.train.shape == (1437, 64)
    assert data.test.shape == (360, 64)
    assert float(data.train.max()) == 1.0
    assert np.bincount(data.test_labels).min() >= 34
    assert not torch.equal(digits_data(seeded(network), 1).test, data.test)
    assert data.called(3) == "3"


def test_data_that_cannot_be_studied_are_refused():
    good = blobs()
    with pytest.raises(InvalidFeatures, match="139 training samples, 140 labels"):
        replace(good, train=good.train[1:])
    with pytest.raises(InvalidFeatures, match="279 test samples, 280 labels"):
        replace(good, test=good.test[1:])
    with pytest.raises(InvalidFeatures, match="1 augmented samples"):
        replace(good, augmented=good.train[:1])
    with pytest.raises(InvalidLabels, match="'yak' is tested"):
        replace(good, test_labels=np.array(["yak"] * 280))
    with pytest.raises(InvalidLabels, match="kind"):
        replace(good, test_labels=np.arange(280))
    named = replace(good, train_labels=np.arange(140) % 7, test_labels=np.arange(280) % 7)
    assert replace(named, class_names=NAMES).called(2) == "cat"
    assert named.called(2) == "2"


def test_a_run_can_be_opened_and_moved(whole, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(whole[0].folder, moved)
    assert summarise(Run.open(moved)) == whole[0].result
