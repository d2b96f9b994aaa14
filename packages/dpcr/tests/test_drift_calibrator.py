import warnings

import numpy as np
import pytest
import torch

from dpcr import DriftCalibrator, ShiftMap, calibrate, fit_shift, reconstruct
from dpcr.bank_state import load_bank, save_bank
from lipogram.analytic import ClassStatistics
from lipogram.analytic.state import read_state, write_state
from lipogram.errors import (
    CorruptState,
    IllConditioned,
    IncompatibleFeatures,
    InvalidFeatures,
    InvalidLabels,
    InvalidSetting,
    NotSeen,
)

WIDTHS = [8, 10, 10, 6]  # of the network after each task


def drift(name, shape):
    return np.random.default_rng([5, name]).normal(size=shape)


class Tasks:
    """Four tasks of three classes under a network whose drift is linear."""

    def __init__(self, n=60, widths=WIDTHS):
        random = np.random.default_rng(0)
        self.maps = [drift(t, (widths[t], widths[t + 1])) for t in range(3)]
        centres = random.normal(size=(12, widths[0])) * 2
        self.labels = [3 * t + random.integers(0, 3, n) for t in range(4)]
        raw = [centres[y] + random.normal(size=(n, widths[0])) for y in self.labels]
        self.raw = raw

    def rows(self, task, network):
        rows = self.raw[task]
        for t in range(network):
            rows = rows @ self.maps[t]
        return rows

    def show(self, calibrator, task, rows=slice(None), **options):
        old = self.rows(task, task - 1)[rows] if task else None
        return calibrator.observe(old, self.rows(task, task)[rows], self.labels[task][rows])

    def joint(self, task, **options):
        """The head over the rows of all tasks under the network after ``task``."""
        x = np.concatenate([self.rows(t, task) for t in range(task + 1)])
        y = np.concatenate(self.labels[: task + 1])
        held = ClassStatistics(x.shape[1]).update(x, y)
        return reconstruct(held, **options)


TASKS = Tasks()


def by_rows(**settings):
    """A calibrator whose shift map leaves out no class: the paper's, with ε from the rows."""
    return DriftCalibrator(**{"eps": "auto", "prior": "zero", **settings})


def gap(ours, reference):
    return float((ours - reference).norm() / reference.norm())


def bits(calibrator, tmp_path):
    path = tmp_path / "bits"
    calibrator.save(path)
    return path.read_bytes()


def filled(tasks=3, **settings):
    calibrator = by_rows(gamma=0.5, **settings)
    for task in range(tasks):
        TASKS.show(calibrator, task)
        if task < tasks - 1:
            calibrator.finish()
    return calibrator


# ---------------------------------------------------------------------------- whole streams


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("normalize", [None, "category"])
def test_a_linear_drift_of_any_width_gives_the_joint_head(pooled, normalize):
    calibrator = by_rows(gamma=0.5, pooled=pooled, normalize=normalize)
    for task in range(4):
        for start in range(0, 60, 25):
            TASKS.show(calibrator, task, slice(start, start + 25))
        with warnings.catch_warnings():
            # From 8 to 10 features and on: a task spans 8 of the 10.
            warnings.simplefilter("ignore", IllConditioned)
            head = calibrator.finish()
        joint = TASKS.joint(task, gamma=0.5, normalize=normalize)
        assert head.classes_.tolist() == joint.classes_.tolist()
        assert gap(head.weight, joint.weight) <= 1e-7
        assert head is calibrator.head
        if task:
            rows = TASKS.rows(0, task - 1)
            moved = calibrator.move(rows)
            assert gap(moved, torch.from_numpy(TASKS.rows(0, task))) < 1e-7
    assert calibrator.tasks == 4
    assert calibrator.bank.n_rows == 240
    assert calibrator.shift.out_features == 6


@pytest.mark.parametrize("cip", ["none", "rank", "soft", "official"])
def test_the_steps_done_by_hand(cip):
    tasks = Tasks(widths=[9] * 4)
    calibrator = by_rows(gamma=0.5, cip=cip, eps=1e-6, storage="factor")
    held = None
    for task in range(3):
        tasks.show(calibrator, task)
        calibrator.finish()
        new = tasks.rows(task, task)
        current = ClassStatistics(9, storage="factor").update(new, tasks.labels[task])
        if held is None:
            held = current
        else:
            shift = fit_shift(tasks.rows(task, task - 1), new, eps=1e-6)
            held = calibrate(held, shift, cip=cip).merge(current)
        expected = reconstruct(held, gamma=0.5)
        tolerance = 1e-5 if cip == "official" else 1e-8
        assert gap(calibrator.head.weight, expected.weight) < tolerance
    assert sorted(calibrator.projectors) == (list(range(9)) if cip == "rank" else [])


def test_a_projector_is_computed_once_unless_rows_come_to_its_class():
    tasks = Tasks(n=15, widths=[9] * 4)
    calibrator = by_rows(gamma=0.5, cip="rank", repeat="merge")
    for task in range(2):
        tasks.show(calibrator, task)
        calibrator.finish()
    kept = dict(calibrator.projectors)
    rows = tasks.rows(0, 2)
    calibrator.observe(tasks.rows(0, 1), rows, np.zeros(15, dtype=int)).finish()
    assert calibrator.projectors[1] is kept[1]
    assert calibrator.projectors[0] is not kept[0]
    assert calibrator.projectors[0].rank >= kept[0].rank


def test_plain_rows_are_what_is_kept():
    noise = np.random.default_rng(1).normal(size=(60, 8))
    x, y = TASKS.raw[0], TASKS.labels[0]
    both = by_rows(gamma=0.5).observe(None, x + noise, y).observe_new(x, y)
    plain = by_rows(gamma=0.5).observe_new(x, y)
    assert torch.equal(both.finish().weight, plain.finish().weight)
    shown = by_rows(gamma=0.5, head_rows="observed").observe(None, x + noise, y)
    head = shown.observe_new(x, y).finish()
    noisy = by_rows(gamma=0.5).observe(None, x + noise, y).finish()
    assert torch.equal(head.weight, noisy.weight)
    assert torch.equal(shown.bank.sums, plain.bank.sums)
    # From the next task on, the kept statistics speak for the classes.
    for calibrator in (shown, plain):
        TASKS.show(calibrator, 1).finish()
    assert gap(shown.head.weight, plain.head.weight) < 1e-12
    alone = by_rows(gamma=0.5, head_rows="observed").observe_new(x, y).finish()
    assert torch.equal(alone.weight, by_rows(gamma=0.5).observe_new(x, y).finish().weight)


def test_pairs_alone_move_what_is_known():
    calibrator = filled(1)
    calibrator.finish()
    calibrator.observe(TASKS.rows(1, 0), TASKS.rows(1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IllConditioned)
        head = calibrator.finish()
    assert head.classes_.tolist() == calibrator.bank.classes
    assert sorted(head.classes_) == [0, 1, 2]
    expected = reconstruct(ClassStatistics(10).update(TASKS.rows(0, 1), TASKS.labels[0]), gamma=0.5)
    assert gap(head.weight, expected.weight) < 1e-8


def test_a_map_of_ones_own():
    calibrator = filled(1)
    first = calibrator.finish()
    new = TASKS.raw[1]
    head = calibrator.observe(None, new, TASKS.labels[1]).finish(
        ShiftMap(torch.eye(8).double(), new_space="b")
    )
    joint = np.concatenate([TASKS.raw[0], new])
    labels = np.concatenate(TASKS.labels[:2])
    expected = reconstruct(ClassStatistics(8).update(joint, labels), gamma=0.5)
    assert gap(head.weight, expected.weight) < 1e-10
    assert len(first.classes_) == 3
    again = calibrator.finish(ShiftMap.identity(8))
    assert gap(again.weight, head.weight) < 1e-12


def test_a_class_of_one_sample_and_string_labels():
    x = TASKS.raw[0]
    names = np.array(["a"] * 59 + ["b"])
    head = by_rows(gamma=0.5).observe(None, x, names).finish()
    assert set(head.classes_) == {"a", "b"}
    assert head.predict(x[-1:]).tolist() == ["b"]


# ---------------------------------------------------------------------------- workers, files


@pytest.mark.parametrize("cip", ["none", "rank"])
def test_workers_merge_to_one(cip):
    tasks = Tasks(widths=[9] * 4)
    start = by_rows(gamma=0.5, cip=cip)
    tasks.show(start, 0).finish()
    paths = {}
    workers = [by_rows(gamma=0.5, cip=cip) for _ in range(2)]
    for i, worker in enumerate(workers):
        tasks.show(worker, 0).finish()
        tasks.show(worker, 1, slice(i, None, 2))
        worker.observe_new(tasks.rows(1, 1)[i::2], tasks.labels[1][i::2])
        paths[i] = worker.pairs.rows
    assert paths == {0: 30, 1: 30}
    merged = workers[0].merge(workers[1]).finish()
    alone = tasks.show(start, 1).finish()
    order = [merged.classes_.tolist().index(label) for label in alone.classes_]
    assert gap(merged.weight[order], alone.weight) < 1e-10
    with pytest.raises(IncompatibleFeatures, match="other old classes"):
        workers[0].merge(workers[1])
    with pytest.raises(IncompatibleFeatures, match="other settings"):
        by_rows().merge(by_rows(gamma=1.0))
    first = tasks.show(by_rows(), 0)
    assert by_rows().merge(first).observed.n_rows == 60
    assert first.merge(by_rows()).observed.n_rows == 60


@pytest.mark.parametrize("settings", [{}, {"pooled": True}, {"cip": "soft"}, {"prior": "identity"}])
def test_it_goes_on_where_it_was_saved(tmp_path, settings):
    tasks = Tasks(widths=[9] * 4)
    whole = by_rows(gamma=0.5, **settings)
    resumed = by_rows(gamma=0.5, **settings)
    for task in range(3):
        for calibrator in (whole, resumed):
            tasks.show(calibrator, task, slice(0, 30))
        path = resumed.save(tmp_path / f"{task}.safetensors")
        resumed = DriftCalibrator.load(path)
        for calibrator in (whole, resumed):
            tasks.show(calibrator, task, slice(30, None))
            calibrator.observe_new(tasks.rows(task, task), tasks.labels[task])
        resumed.save(path)
        resumed = DriftCalibrator.load(path)
        assert torch.equal(whole.finish().weight, resumed.finish().weight)
        resumed.save(path)
        resumed = DriftCalibrator.load(path)
        assert torch.equal(whole.head.weight, resumed.head.weight)
        assert bits(whole, tmp_path) == bits(resumed, tmp_path)
    assert torch.equal(resumed.move(tasks.raw[0]), whole.move(tasks.raw[0]))


def test_a_damaged_file_is_refused(tmp_path):
    path = filled(2, cip="rank", pooled=False, storage="dense").save(tmp_path / "c")
    tensors, described = read_state(path)
    described = {k: v for k, v in described.items() if k not in ("schema", "version")}
    gram = tensors["bank/gram/0"]
    hostile = gram.clone()
    hostile[0, 0] = hostile[0, 0] / 1e3
    cases = [
        ({}, {"kind": "air"}),
        ({}, {"settings": described["settings"] | {"gamma": -1}}),
        ({}, {"settings": described["settings"] | {"colour": 1}}),
        ({}, {"settings": []}),
        ({}, {"tasks": 0}),
        ({}, {"tasks": -1}),
        ({}, {"head": None}),
        ({}, {"bank": None}),
        ({}, {"pairs": {"rows": 1}}),
        ({}, {"projectors": ["x"]}),
        ({"bank/gram/0": hostile}, {}),
        ({"bank/sums": tensors["bank/sums"] * 1e3}, {}),
        ({"bank/counts": -tensors["bank/counts"]}, {}),
        ({"head/weight": tensors["head/weight"][:, :3].contiguous()}, {}),
        ({"pairs/cross": tensors["pairs/cross"].T.contiguous()}, {}),
        ({"projector/0/vectors": tensors["projector/0/vectors"] * 2}, {}),
        ({"projector/0/strength": tensors["projector/0/strength"][:1]}, {}),
    ]
    for more, said in cases:
        write_state(path, tensors | more, described | said)
        with pytest.raises(CorruptState):
            DriftCalibrator.load(path)
    write_state(path, tensors, described)
    assert DriftCalibrator.load(path).tasks == 1


@pytest.mark.parametrize("storage", ["dense", "packed", "factor"])
@pytest.mark.parametrize("pooled", [False, True])
def test_a_bank_comes_back_or_is_refused(tmp_path, storage, pooled):
    bank = ClassStatistics(8, storage=storage, pooled=pooled)
    bank.update(TASKS.raw[0], TASKS.labels[0]).declare([99])
    back = load_bank(save_bank(bank, tmp_path / "bank"))
    assert torch.equal(back.reweight().gram, bank.reweight().gram)
    assert back.classes == bank.classes
    tensors, described = read_state(tmp_path / "bank")
    key = "pool/row_sum" if pooled else "sums"
    write_state(tmp_path / "bad", tensors | {key: tensors[key] * 100}, described)
    with pytest.raises(CorruptState, match="none of any rows"):
        load_bank(tmp_path / "bad")
    write_state(tmp_path / "bad", tensors, described | {"kind": "dpcr-head"})
    with pytest.raises(CorruptState, match="'dpcr-head'"):
        load_bank(tmp_path / "bad")


# ---------------------------------------------------------------------------- bad input


def test_a_rejected_batch_changes_nothing(tmp_path):
    calibrator = filled(2)
    before = bits(calibrator, tmp_path)
    old, new, y = TASKS.rows(1, 0), TASKS.rows(1, 1), TASKS.labels[1]
    nan = np.where(np.arange(60)[:, None] == 4, np.nan, new)
    cases = [
        ((old[:5], new, y), InvalidFeatures, "5 rows of old features, 60 of new"),
        ((old, new, y[:5]), InvalidFeatures, "60 rows of features, 5 labels"),
        ((new, new, y), InvalidFeatures, r"\(n, 8\)"),
        ((old, old, y), InvalidFeatures, r"\(n, 10\)"),
        ((old, nan, y), InvalidFeatures, "NaN in row 4"),
        ((None, nan, y), InvalidFeatures, "NaN in row 4"),
        ((old, new, y.astype(str)), InvalidLabels, "kind"),
        ((old, new, y * 0.5), InvalidLabels, "label"),
        ((old, new, TASKS.labels[0]), InvalidLabels, r"class \d belongs to an earlier.*merge"),
        ((None, new), InvalidFeatures, "says nothing"),
        ((None, old, y), InvalidFeatures, r"\(n, 10\)"),
    ]
    for rows, kind, message in cases:
        with pytest.raises(kind, match=message):
            calibrator.observe(*rows)
        assert bits(calibrator, tmp_path) == before
    for rows in ((nan, y), (old, y), (new, TASKS.labels[0]), (new, y[:3])):
        with pytest.raises((InvalidFeatures, InvalidLabels)):
            calibrator.observe_new(*rows)
        assert bits(calibrator, tmp_path) == before


def test_old_features_of_another_width_than_the_last_task():
    calibrator = filled(1)
    calibrator.finish()
    with pytest.raises(InvalidFeatures, match="width 9, those of the last task had 8"):
        calibrator.observe(np.ones((3, 9)), np.ones((3, 9)), [5, 5, 6])
    calibrator.observe(None, np.ones((3, 9)), [5, 5, 6])
    with pytest.raises(InvalidFeatures, match="width 7, this task's had 9"):
        calibrator.observe(np.ones((3, 8)), np.ones((3, 7)))
    with pytest.raises(InvalidFeatures, match="width 7, this task's had 9"):
        calibrator.observe_new(np.ones((3, 7)), [5, 5, 6])


def test_tasks_that_cannot_be_finished(tmp_path):
    calibrator = by_rows()
    with pytest.raises(InvalidFeatures, match="task is empty"):
        calibrator.finish()
    with pytest.raises(NotSeen, match="second task"):
        calibrator.move(np.ones((1, 8)))
    calibrator.observe(TASKS.raw[0], TASKS.raw[0])
    with pytest.raises(InvalidFeatures, match="needs labelled rows"):
        calibrator.finish()
    calibrator = filled(1)
    with pytest.raises(InvalidFeatures, match="nothing to move"):
        calibrator.finish(ShiftMap.identity(8))
    calibrator.finish()
    with pytest.raises(InvalidFeatures, match="task is empty"):
        calibrator.finish()
    calibrator.observe(None, TASKS.rows(1, 1), TASKS.labels[1])
    before = bits(calibrator, tmp_path)
    with pytest.raises(NotSeen, match=r"observe\(x_old, x_new\)"):
        calibrator.finish()
    for wrong in (ShiftMap.identity(9), ShiftMap.identity(8)):
        with pytest.raises(IncompatibleFeatures):
            calibrator.finish(wrong)
        assert bits(calibrator, tmp_path) == before
    calibrator.observe_new(TASKS.rows(1, 1)[:1], TASKS.labels[1][:1])
    with pytest.raises(InvalidLabels, match="un-augmented rows too"):
        calibrator.finish()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": -1}, "gamma is -1"),
        ({"eps": "best"}, "eps is 'best'"),
        ({"prior": "half"}, "prior"),
        ({"bias": 2}, "bias"),
        ({"cip": "yes"}, "cip is 'yes'"),
        ({"normalize": "all"}, "normalize"),
        ({"repeat": "ignore"}, "repeat"),
        ({"head_rows": "all"}, "head_rows"),
        ({"storage": "disk"}, "storage"),
        ({"pooled": 1}, "pooled"),
        ({"pooled": True, "cip": "rank"}, "one second moment a class"),
        ({"bias": True, "cip": "rank"}, "takes no bias"),
    ],
)
def test_settings_outside_their_values(settings, message):
    with pytest.raises(InvalidSetting, match=message):
        by_rows(**settings)


def test_few_rows_of_dead_units_stay_finite_and_say_so():
    random = np.random.default_rng(3)
    tasks = Tasks(n=12, widths=[40] * 4)
    calibrator = by_rows(gamma=1.0)
    alive = random.random(40) > 0.2
    for task in range(3):
        old = tasks.rows(task, task - 1) * alive if task else None
        calibrator.observe(old, tasks.rows(task, task) * alive, tasks.labels[task])
        if task:
            with pytest.warns(IllConditioned, match=f"12 rows span 12 of {alive.sum()} live"):
                calibrator.finish()
        else:
            calibrator.finish()
        assert torch.isfinite(calibrator.head.weight).all()
