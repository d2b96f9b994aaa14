"""Every classifier of the comparison against what it has to equal where that is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid

from dpcr.adversarial import Attack, adversarial_drift
from dpcr.drift_calibrator import DriftCalibrator
from dpcr.geometric_translation import translated
from dpcr.held_out_classes import HeldOutClasses
from dpcr.methods import METHODS, method_of, options_of
from dpcr.task_context import TaskContext, TestContext
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import (
    ClosedClass,
    IncompatibleFeatures,
    InvalidFeatures,
    InvalidLabels,
    InvalidSetting,
    NotSeen,
)

D, GAMMA = 6, 0.5
TASKS = [("a", "b", "c"), ("d", "e"), ("f", "g")]


class Affine:
    """A network of one layer."""

    def __init__(self, matrix, offset=0.0):
        self.matrix, self.offset = matrix, offset

    def __call__(self, x):
        return x @ self.matrix.to(x) + self.offset


class World:
    """Images of seven classes, and one network a task."""

    def __init__(self, seed=0, networks=None, per_class=40):
        rng = torch.Generator().manual_seed(seed)
        self.names = [c for task in TASKS for c in task]
        centres = 3 * torch.randn(len(self.names), D, generator=rng)
        slots = torch.arange(len(self.names)).repeat_interleave(per_class)
        noise = torch.randn(len(slots), D, generator=rng)
        self.images = (centres[slots] + noise).double()
        self.labels = np.array(self.names)[slots.numpy()]
        self.networks = networks or [
            Affine(torch.eye(D, dtype=torch.float64) + 0.4 * torch.randn(D, D, generator=rng))
            for _ in TASKS
        ]

    def rows(self, classes):
        return np.flatnonzero(np.isin(self.labels, classes))

    def context(self, t):
        here, old = self.networks[t], self.networks[t - 1] if t else None
        own = self.rows(TASKS[t])
        known = [c for task in TASKS[:t] for c in task]
        images = self.images[own]
        seen = self.rows([*known, *TASKS[t]])
        return TaskContext(
            number=t,
            known=tuple(known),
            classes=TASKS[t],
            labels=self.labels[own],
            features=here(images),
            old_features=old(images) if old else None,
            images=lambda rows: images[rows],
            network=here,
            old_network=old,
            first_features=lambda: self.networks[0](images),
            joint=lambda: (here(self.images[seen]), self.labels[seen]),
        )

    def test(self, t):
        k = sum(map(len, TASKS[: t + 1]))
        return TestContext(
            features=self.networks[t](self.images),
            head_scores=torch.randn(
                len(self.images), k, generator=torch.Generator().manual_seed(t)
            ),
            first_features=lambda: self.networks[0](self.images),
        )

    def learnt(self, name, until=2, **options):
        method = method_of(name, **options)
        for t in range(until + 1):
            method.learn(self.context(t))
        return method

    def joint_scores(self, network, gamma=GAMMA):
        """Scikit-learn's ridge on all images under a network, its columns normalised."""
        x = network(self.images).numpy()
        y = (self.labels[:, None] == np.array(self.names)).astype(float)
        weight = Ridge(alpha=gamma, fit_intercept=False, solver="svd").fit(x, y).coef_
        return x @ (weight / np.linalg.norm(weight, axis=1, keepdims=True)).T


def shifts(*offsets):
    eye = torch.eye(D, dtype=torch.float64)
    return [Affine(eye, offset) for offset in offsets]


def test_the_names_are_those_that_can_be_made():
    for name in METHODS:
        assert method_of(name).classes == []
    with pytest.raises(InvalidSetting, match="'best' is none of lwf, stale"):
        method_of("best")
    with pytest.raises(InvalidSetting, match="'ncm' has no option 'gamma'; its options: none"):
        method_of("ncm", gamma=1.0)
    with pytest.raises(InvalidSetting, match=r"'dpcr' has no option 'g'.*gamma"):
        method_of("dpcr", g=1.0)
    assert options_of("adc") == {"samples", "steps", "step"}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_knows_all_classes_after_every_task(name):
    world = World()
    method = method_of(name)
    for t in range(len(TASKS)):
        method.learn(world.context(t))
        expected = [c for task in TASKS[: t + 1] for c in task]
        scores = method.scores(world.test(t))
        assert method.classes == expected
        assert scores.shape == (len(world.images), len(expected))
        assert set(method.predict(world.test(t))) <= set(expected)


@pytest.mark.parametrize("name", ["dpcr", "oracle"])
def test_under_a_linear_drift_calibration_is_the_joint_head(name):
    world = World()
    scores = world.learnt(name, gamma=GAMMA).scores(world.test(2))
    np.testing.assert_allclose(scores, world.joint_scores(world.networks[2]), atol=1e-7)


def test_a_stale_head_is_the_ridge_of_features_as_they_were():
    world = World()
    x = np.concatenate([world.networks[t](world.images[world.rows(TASKS[t])]) for t in range(3)])
    y = (np.concatenate([world.labels[world.rows(c)] for c in TASKS])[:, None] == world.names) * 1.0
    weight = Ridge(alpha=GAMMA, fit_intercept=False, solver="svd").fit(x, y).coef_
    scores = world.learnt("stale", gamma=GAMMA, normalize=None).scores(world.test(2))
    np.testing.assert_allclose(scores, world.test(2).features.numpy() @ weight.T, atol=1e-9)


def test_the_first_network_frozen_is_joint_ridge_on_its_features():
    world = World()
    scores = world.learnt("frozen", gamma=GAMMA).scores(world.test(2))
    np.testing.assert_allclose(scores, world.joint_scores(world.networks[0]), atol=1e-9)


def test_the_training_head_answers_with_its_own_scores():
    world = World()
    test = world.test(1)
    method = world.learnt("lwf", until=1)
    expected = np.array(method.classes)[test.head_scores.argmax(1)]
    assert (method.predict(test) == expected).all()


def test_the_nearest_mean_is_scikit_learns_where_nothing_drifts():
    world = World(networks=shifts(0, 0, 0))
    theirs = NearestCentroid().fit(world.images.numpy(), world.labels)
    assert (world.learnt("ncm").predict(world.test(2)) == theirs.predict(world.images)).all()


@pytest.mark.parametrize(
    ("name", "networks"), [("ncm+shift", None), ("adc", shifts(0.0, 1.0, -2.0))]
)
def test_means_follow_a_drift_they_can_follow(name, networks):
    world = World(networks=networks)
    method = world.learnt(name)
    moved = world.networks[2](world.images)
    true = torch.stack([moved[world.rows(c)].mean(0) for c in method.classes])
    np.testing.assert_allclose(method.means, true, atol=1e-5)
    stale = world.learnt("ncm").means
    assert float((stale - true).norm()) > 1.0


def test_ncm_refuses_a_width_that_changed_and_stays():
    wide = Affine(torch.ones(D, D + 1, dtype=torch.float64))
    world = World(networks=[*shifts(0), wide, wide])
    method = world.learnt("ncm", until=0)
    before = method.means.clone()
    with pytest.raises(InvalidSetting, match=f"from {D} to {D + 1}"):
        method.learn(world.context(1))
    assert method.classes == list(TASKS[0])
    assert torch.equal(method.means, before)
    with pytest.raises(InvalidFeatures, match=f"{D} and {D + 1}"):
        world.learnt("adc", until=1)


# ------------------------------------------------------------------ adversarial drift


def test_bent_images_come_nearer_to_their_prototype_and_drift_is_measured_there():
    """The new network moves points by how far right they lie, so it matters where one looks."""
    squash = torch.eye(D, dtype=torch.float64)
    squash[0, 0] = 0.0
    networks = [*shifts(0.0), Affine(squash), Affine(squash)]
    world = World(networks=networks)
    context = world.context(1)
    means = torch.stack([world.images[world.rows(c)].mean(0) for c in TASKS[0]])
    far = means + 0.0
    truth = far @ squash - far
    errors = []
    for steps, step in ((1, 1e-9), (40, 0.15)):
        drift = adversarial_drift(
            far,
            context.old_features,
            context.images,
            context.old_network,
            context.network,
            Attack(samples=20, steps=steps, step=step),
        )
        errors.append(float((drift.by_class - truth).norm()))
    assert errors[1] < errors[0] / 2
    assert min(drift.hits) > 0


def test_the_drift_of_images_that_missed_does_not_count():
    """Half of the images cannot move, since the network is flat there."""
    prototypes = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    x = torch.tensor([[1.0, 0.0], [9.0, 0.0]])
    drift = adversarial_drift(
        prototypes, x, lambda rows: x[rows], lambda z: z, lambda z: z * 2, Attack(step=1e-12)
    )
    assert drift.hits == [1, 1]
    np.testing.assert_allclose(drift.by_class[:, 0], [1.0, 9.0], rtol=1e-6)


def test_without_a_hit_all_images_count_and_a_flat_network_gives_no_step():
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    prototypes = torch.tensor([[1.5, 0.0], [100.0, 0.0]])
    drift = adversarial_drift(
        prototypes, x, lambda rows: x[rows], lambda z: z * 1, lambda z: z + z, Attack(step=1e-12)
    )
    assert drift.hits == [2, 0]
    np.testing.assert_allclose(drift.by_class[1], [1.5, 0.0], atol=1e-6)
    flat = adversarial_drift(
        prototypes, x, lambda rows: x[rows], lambda z: z * 0, lambda z: z * 0 + 1, Attack()
    )
    assert torch.equal(flat.by_class, torch.ones(2, 2, dtype=torch.float64))


def test_pixels_stay_in_the_range_of_the_images():
    seen = []

    def network(z):
        seen.append(z.detach())
        return z

    x = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    adversarial_drift(
        torch.full((1, 3), 50.0), x, lambda rows: x[rows], network, lambda z: z, Attack(step=10.0)
    )
    assert max(float(z.max()) for z in seen) <= float(x.max())
    assert min(float(z.min()) for z in seen) >= float(x.min())


def test_a_step_has_the_length_asked_for():
    """All images of an attack together move by step · deviation · √(pixels · images)."""
    last = []

    def network(z):
        last.append(z.detach())
        return z

    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    target = x.mean(0, keepdim=True)
    adversarial_drift(
        target, x, lambda rows: x[rows], network, lambda z: z, Attack(steps=1, step=0.01)
    )
    nearest = torch.cdist(target, x).argsort(1)[0]
    moved = last[-1] - x[nearest]
    assert float(moved.norm()) == pytest.approx(0.01 * float(x.std()) * 200**0.5, rel=1e-5)


@pytest.mark.parametrize("setting", [{"samples": 0}, {"steps": 0}, {"step": 0.0}, {"step": -1}])
def test_an_attack_that_does_nothing_is_refused(setting):
    with pytest.raises(InvalidSetting, match=f"{next(iter(setting))} is"):
        method_of("adc", **setting)


def test_drift_needs_images():
    with pytest.raises(InvalidFeatures, match="there are none"):
        adversarial_drift(torch.ones(1, 2), torch.ones(0, 2), None, None, None)


# ------------------------------------------------------------------ geometric translation


def test_translated_sums_are_those_of_translated_rows():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)) + 1, np.repeat(["k", "l", "m"], [5, 10, 15])
    prototypes = rng.normal(size=(6, 4)) + 1
    system = translated(ClassStatistics(4).update(x, y), torch.from_numpy(prototypes))
    means = np.stack([x[y == c].mean(0) for c in "klm"])
    cosine = (prototypes @ means.T) / np.linalg.norm(means, axis=1)
    rows, targets = [x], [6 + (y[:, None] == list("klm")).argmax(1)]
    for p, k in enumerate(cosine.argmax(1)):
        rows.append(x[y == "klm"[k]] - means[k] + prototypes[p])
        targets.append(np.full(len(rows[-1]), p))
    made, onehot = np.concatenate(rows), np.eye(9)[np.concatenate(targets)]
    lower = np.tril(np.ones((4, 4)))
    np.testing.assert_allclose(system.gram.numpy() * lower, (made.T @ made) * lower, atol=1e-10)
    np.testing.assert_allclose(system.cross, made.T @ onehot, atol=1e-10)
    np.testing.assert_allclose(system.row_sum, made.sum(0), atol=1e-10)
    np.testing.assert_allclose(system.target_sum, onehot.sum(0))
    assert system.mass == system.energy == system.rows == len(made)


@pytest.mark.parametrize("present", [False, True])
def test_fetril_classifies_through_the_network_it_is_said_to(present):
    eye = torch.eye(D, dtype=torch.float64)
    world = World(networks=[Affine(eye), Affine(-eye), Affine(eye.flip(0))])
    method = world.learnt("fetril", gamma=GAMMA, present=present)
    hits = method.predict(world.test(2)) == world.labels
    assert hits[world.rows(TASKS[2])].mean() > 0.8
    assert hits.mean() < 0.6 if present else hits.mean() > 0.9


def test_translation_refuses_what_it_cannot_translate():
    statistics = ClassStatistics(2).update(torch.ones(2, 2), [0, 1])
    with pytest.raises(IncompatibleFeatures, match=r"\(1, 3\).*2 features"):
        translated(statistics, torch.ones(1, 3))
    with pytest.raises(NotSeen, match="needs a row"):
        translated(statistics.declare([2]), torch.ones(1, 2))
    pooled = ClassStatistics(2, pooled=True).update(torch.ones(2, 2), [0, 1])
    with pytest.raises(ClosedClass):
        translated(pooled, torch.ones(1, 2))


# ------------------------------------------------------------------ contexts


def test_a_context_that_contradicts_itself_is_refused():
    world = World()
    good = vars(world.context(1))
    with pytest.raises(InvalidLabels, match="'a' belongs to an earlier task"):
        TaskContext(**{**good, "classes": ("a", "d", "e")})
    with pytest.raises(InvalidLabels, match=r"do not agree.*'e'"):
        TaskContext(**{**good, "classes": ("d",)})
    with pytest.raises(InvalidFeatures, match="3 rows of features, 80 labels"):
        TaskContext(**{**good, "features": torch.ones(3, D)})
    with pytest.raises(InvalidFeatures, match="3 rows of features, 80 labels"):
        TaskContext(**{**good, "old_features": torch.ones(3, D)})


def test_figures_say_how_the_drift_was_met():
    world = World()
    assert world.learnt("dpcr", until=0).figures() == {}
    figures = world.learnt("dpcr", until=1).figures()
    assert figures["residual"] < 1e-9
    assert figures["rank"] == pytest.approx(D, abs=1e-6)
    assert world.learnt("adc", until=0).figures() == {}
    shares = [world.learnt("adc", until=1, steps=s).figures()["hit_share"] for s in (1, 40)]
    assert 0 < shares[0] < 0.9 < shares[1] <= 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dpcr", {"eps": "classes"}),
        ("dpcr", {"eps": "classes", "widen": False}),
        ("dpcr", {"eps": "auto"}),
        ("dpcr", {"eps": 1e-9, "prior": "zero"}),
        ("dpcr-published", {}),
    ],
)
def test_calibration_is_the_drift_calibrators_with_the_settings_asked_for(name, options):
    """Under a drift that no linear map follows, every setting has another head."""

    def bent(scale):
        mix = torch.randn(D, D, generator=torch.Generator().manual_seed(9)).double()
        return lambda x: torch.relu(x @ mix * scale + 1)

    world = World(networks=[bent(1.0), lambda x: bent(0.5)(x.flip(1)), bent(-1.0)])
    method = world.learnt(name, gamma=GAMMA, **options)
    settings = {"eps": 1e-9, "prior": "zero"} if name == "dpcr-published" else dict(options)
    widen = settings.pop("widen", True)
    calibrator = DriftCalibrator(gamma=GAMMA, **settings)
    for t in range(3):
        c = world.context(t)
        calibrator.observe(c.old_features, c.features, c.labels)
        shift = calibrator.pairs.solve() if t and not widen else None
        head = calibrator.finish(None if shift is None else replace(shift, noise=None))
    np.testing.assert_allclose(method.head.weight, head.weight, rtol=1e-9, atol=1e-12)


def test_means_follow_the_map_that_carries_left_out_classes():
    world = World()
    method = world.learnt("ncm+shift", eps="classes", prior="auto", until=1)
    c = world.context(1)
    shift = HeldOutClasses().update(c.old_features, c.features, c.labels).solve()
    expected = shift(world.learnt("ncm", until=0).means)
    np.testing.assert_allclose(method.means[:3], expected)
    with pytest.raises(InvalidSetting, match="fits no offset"):
        method_of("ncm+shift", eps="classes", bias=True)
