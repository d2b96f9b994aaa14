"""Saving a classifier, loading it, and going on."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lipogram.analytic import AnalyticClassifier, RandomBuffer
from lipogram.analytic.state import read_state, write_state
from lipogram.analytic.statistics import ClassStatistics
from lipogram.errors import CorruptState, InvalidSetting

GENERATOR = np.random.default_rng(0)
Y = GENERATOR.integers(0, 4, size=150)
X = GENERATOR.normal(size=(150, 7)) + 1.5 * GENERATOR.normal(size=(4, 7))[Y]
NAMES = np.array(["ä", "bee", "cow", "dog"])[Y]
SETTINGS = [
    {"gamma": gamma, "buffer_size": size} for gamma in (0.3, "gcv", "cv") for size in (None, 12)
]


class PerClass(AnalyticClassifier):
    def _pooled(self):
        return False


class Ruled(PerClass):
    """A method with a setting that JSON cannot hold as it is."""

    def __init__(self, *, rule=None, gamma=0.1):
        super().__init__(gamma=gamma)
        self.rule = rule


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", [AnalyticClassifier, PerClass])
def test_save_load_continue_is_not_to_have_stopped(tmp_path, kind, settings):
    first, second = slice(0, 70), slice(70, 150)
    model = kind(**settings).partial_fit(X[first], NAMES[first], classes=["later"])
    model.predict(X)
    resumed = kind.load(model.save(tmp_path / "head"))
    assert resumed.get_params() == model.get_params()
    assert resumed.n_features_in_ == 7
    np.testing.assert_array_equal(resumed.classes_, model.classes_)
    np.testing.assert_array_equal(resumed.class_count_, model.class_count_)
    np.testing.assert_array_equal(resumed.coef_, model.coef_)
    np.testing.assert_array_equal(resumed.predict(X), model.predict(X))
    for each in (model, resumed):
        each.partial_fit(X[second], NAMES[second])
        each.forget(X[:20], NAMES[:20])
    assert resumed.gamma_ == pytest.approx(model.gamma_, rel=1e-12)
    np.testing.assert_array_equal(resumed.class_count_, model.class_count_)
    assert resumed.n_samples_seen_ == 130
    np.testing.assert_allclose(resumed.coef_, model.coef_, rtol=1e-12, atol=1e-13)
    resumed.merge(model)
    assert resumed.n_samples_seen_ == 260


def test_saving_does_not_disturb_a_stream(tmp_path):
    model, peer = AnalyticClassifier(), AnalyticClassifier()
    for i in range(0, 150, 10):
        model.partial_fit(X[i : i + 10], Y[i : i + 10]).save(tmp_path / "head")
        peer.partial_fit(X[i : i + 10], Y[i : i + 10])
    np.testing.assert_allclose(model.coef_, peer.coef_, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("labels", [Y, Y.astype(bool), NAMES, -Y, Y + 2_000_000])
def test_labels_keep_their_kind(tmp_path, labels):
    model = AnalyticClassifier().fit(X, labels)
    loaded = AnalyticClassifier.load(model.save(tmp_path / "head"))
    np.testing.assert_array_equal(loaded.classes_, model.classes_)
    assert loaded.classes_.dtype == model.classes_.dtype


def test_gamma_can_change_between_fit_and_save(tmp_path):
    parts = AnalyticClassifier(gamma="cv").fit(X, Y).set_params(gamma=2.0)
    loaded = AnalyticClassifier.load(parts.save(tmp_path / "head"))
    np.testing.assert_array_equal(loaded.coef_, parts.coef_)
    np.testing.assert_array_equal(
        loaded.set_params(gamma="cv").coef_, parts.set_params(gamma="cv").coef_
    )


def test_feature_names_are_kept(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcdefg"))
    model = AnalyticClassifier().fit(frame, Y)
    loaded = AnalyticClassifier.load(model.save(tmp_path / "head"))
    np.testing.assert_array_equal(loaded.predict(frame), model.predict(frame))
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(frame[list("gfedcba")])


@pytest.mark.parametrize("rule", [{0: 1.5, 3: 2}, {"a": 1}, np.float64(0.5), None, "balanced"])
def test_settings_come_back_as_they_were(tmp_path, rule):
    loaded = Ruled.load(Ruled(rule=rule).fit(X, Y).save(tmp_path / "head"))
    assert loaded.rule == rule
    if isinstance(rule, dict):
        assert [type(key) for key in loaded.rule] == [type(key) for key in rule]


def test_a_setting_that_no_file_can_hold_is_named(tmp_path):
    model = Ruled(rule=np.sqrt).fit(X, Y)
    with pytest.raises(InvalidSetting, match=r"rule is .*cannot hold"):
        model.save(tmp_path / "head")
    assert list(tmp_path.iterdir()) == []


def test_the_file_names_no_place_of_the_machine(tmp_path):
    model = AnalyticClassifier(folder=str(tmp_path), storage="memmap", buffer_size=9).fit(X, Y)
    model.save(tmp_path / "head")
    assert str(tmp_path).encode() not in (tmp_path / "head").read_bytes()
    loaded = AnalyticClassifier.load(tmp_path / "head", folder=str(tmp_path))
    assert loaded.folder == str(tmp_path)
    np.testing.assert_array_equal(loaded.coef_, model.coef_)


def test_a_buffer_is_drawn_once_for_all_folds(tmp_path, monkeypatch):
    model = AnalyticClassifier(gamma="cv", buffer_size=12).fit(X, Y)
    path, drawn = model.save(tmp_path / "head"), []
    init = RandomBuffer.__init__
    monkeypatch.setattr(RandomBuffer, "__init__", lambda *a, **k: drawn.append(1) or init(*a, **k))
    AnalyticClassifier.load(path)
    assert len(drawn) == 1


def test_no_pickle_is_written_or_read(tmp_path, monkeypatch):
    def refuse(*arguments, **more):
        raise AssertionError("pickle")

    for module, names in (
        (pickle, ("dump", "dumps", "load", "loads", "Pickler", "Unpickler")),
        (torch, ("save", "load")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    model = AnalyticClassifier(gamma="cv", buffer_size=12).fit(X, Y)
    AnalyticClassifier.load(model.save(tmp_path / "head")).predict(X)


def test_another_method_is_named(tmp_path):
    AnalyticClassifier().fit(X, Y).save(tmp_path / "head")
    with pytest.raises(CorruptState, match="holds a 'AnalyticClassifier', not a PerClass"):
        PerClass.load(tmp_path / "head")
    with pytest.raises(FileNotFoundError):
        PerClass.load(tmp_path / "other")


def test_the_file_says_what_it_is(tmp_path):
    AnalyticClassifier(buffer_size=12, space="resnet").fit(X, NAMES).save(tmp_path / "head")
    with safe_open(tmp_path / "head", framework="pt") as file:
        said = json.loads(file.metadata()["lipogram"])
    assert said["schema"] == 1
    assert said["version"]
    assert said["method"] == "AnalyticClassifier"
    assert said["settings"]["buffer_size"] == 12
    assert said["parts"][0]["classes"] == ["bee", "cow", "dog", "ä"]
    assert said["parts"][0]["feature_map"]["seed"] == 0
    assert said["parts"][0]["space"] == "resnet"


def test_truncated_at_every_kind_of_place(tmp_path):
    path = AnalyticClassifier(buffer_size=12).fit(X, Y).save(tmp_path / "head")
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    lengths = {0, 3, 8, 9, header // 2, header - 1, header, header + 5, len(whole) // 2}
    for length in sorted(lengths | {len(whole) - 8, len(whole) - 1}):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptState):
            AnalyticClassifier.load(path)


def settings_with(**changes):
    return lambda tensors, said: said["settings"].update(changes)


def parts_with(index, **changes):
    return lambda tensors, said: said["parts"][index].update(changes)


def without(*names):
    return lambda tensors, said: [said.pop(name) for name in names]


def shuffled_classes(tensors, said):
    said["parts"][1]["classes"].reverse()


def lone_part(tensors, said):
    said["parts"] = said["parts"][:1]


HOSTILE = {
    "gamma negative": settings_with(gamma=-1),
    "gamma a list": settings_with(gamma=[1]),
    "gamma true": settings_with(gamma=True),
    "gamma enormous": settings_with(gamma=10**400),
    "gamma unknown": settings_with(gamma="loo"),
    "buffer size text": settings_with(buffer_size="9"),
    "buffer size true": settings_with(buffer_size=True),
    "folds enormous": settings_with(folds=10**9),
    "folds text": settings_with(folds="5"),
    "seed negative": settings_with(seed=-1),
    "storage a list": settings_with(storage=["dense"]),
    "budget text": settings_with(memory_budget="all"),
    "intercept text": settings_with(fit_intercept="no"),
    "space a number": settings_with(space=3),
    "unknown setting": settings_with(command="rm"),
    "device in the file": settings_with(device="cuda", gamma=None),
    "mapping without pairs": settings_with(space={"a": 1}),
    "mapping of odd pairs": settings_with(space={"pairs": [1, 2]}),
    "mapping of lists": settings_with(space={"pairs": [[[1], 2]]}),
    "settings a list": lambda tensors, said: said.update(settings=[1]),
    "no settings": without("settings"),
    "no parts": without("parts"),
    "no split": without("split"),
    "no names": without("feature_names"),
    "parts empty": lambda tensors, said: said.update(parts=[]),
    "parts a number": lambda tensors, said: said.update(parts=3),
    "parts of parts": lambda tensors, said: said.update(parts=[[], []]),
    "one part of a split": lone_part,
    "not split": lambda tensors, said: said.update(split=False),
    "split by a word": lambda tensors, said: said.update(split="yes"),
    "names of other features": lambda tensors, said: said.update(feature_names=["a"]),
    "names that are none": lambda tensors, said: said.update(feature_names=[1] * 7),
    "names a number": lambda tensors, said: said.update(feature_names=7),
    "classes in another order": shuffled_classes,
    "one part pooled otherwise": parts_with(1, pooled=False),
    "one part of another space": parts_with(1, space="elsewhere"),
    "one part without map": parts_with(1, feature_map=None),
    "one part wider": parts_with(1, n_features=13),
    "an enormous part": parts_with(0, n_features=2**24),
    "a negative count": lambda tensors, said: tensors["0/counts"].neg_().sub_(1),
    "a matrix missing": lambda tensors, said: tensors.pop("1/gram/-1"),
    "a method that is a list": lambda tensors, said: said.update(method=["AnalyticClassifier"]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_descriptions(tmp_path, name):
    path = tmp_path / "head"
    AnalyticClassifier(gamma="cv", folds=2, buffer_size=12).fit(X, Y).save(path)
    tensors, said = read_state(path)
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    HOSTILE[name](tensors, said)
    write_state(path, tensors, said)
    with pytest.raises(CorruptState):
        AnalyticClassifier.load(path)


def test_sums_of_another_kind_of_method(tmp_path):
    path = PerClass().fit(X, Y).save(tmp_path / "head")
    tensors, said = read_state(path)
    write_state(path, tensors, {**said, "method": "AnalyticClassifier"})
    with pytest.raises(CorruptState, match="AnalyticClassifier"):
        AnalyticClassifier.load(path)


def test_nan_inside_and_pickles(tmp_path):
    path = AnalyticClassifier().fit(X, Y).save(tmp_path / "head")
    tensors, said = read_state(path)
    tensors["0/sums"][1, 2] = float("nan")
    write_state(path, tensors, said)
    with pytest.raises(CorruptState, match="NaN"):
        AnalyticClassifier.load(path)
    path.write_bytes(pickle.dumps(AnalyticClassifier().fit(X, Y)))
    with pytest.raises(CorruptState):
        AnalyticClassifier.load(path)
    save_file({"x": torch.ones(3)}, path)
    with pytest.raises(CorruptState):
        AnalyticClassifier.load(path)


def test_sums_made_elsewhere_can_be_adopted_and_saved(tmp_path):
    sums = ClassStatistics(7, pooled=True).declare(range(4)).update(X, Y)
    model = AnalyticClassifier().adopt(sums)
    np.testing.assert_allclose(model.coef_, AnalyticClassifier().fit(X, Y).coef_)
    loaded = AnalyticClassifier.load(model.save(tmp_path / "head"))
    np.testing.assert_array_equal(loaded.coef_, model.coef_)
