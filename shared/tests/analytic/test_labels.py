import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipogram.analytic.labels import LabelIndex, as_labels
from lipogram.errors import InvalidLabels, UnknownClass

integers = st.integers(-(2**63), 2**63 - 1)
words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
batches = st.one_of(
    *(st.lists(st.lists(kind, max_size=8), max_size=5) for kind in (integers, words, st.booleans()))
)


@given(batches)
def test_slots_are_given_in_order_of_appearance(stream):
    index, appeared = LabelIndex(), []
    for batch in stream:
        slots, new = index.plan(batch)
        index.extend(new)
        appeared += [label for label in dict.fromkeys(batch) if label not in appeared]
        assert index.labels == appeared
        assert [index.labels[slot] for slot in slots] == batch
        assert slots.dtype == np.int64
    assert LabelIndex(index.array().tolist()).labels == appeared


def test_planning_changes_nothing():
    index = LabelIndex([1, 2])
    index.plan([3, 4])
    assert index.labels == [1, 2]
    assert 3 not in index


def test_a_large_or_negative_id_costs_one_slot():
    index = LabelIndex()
    slots, new = index.plan([3_000_000, -1, 3_000_000])
    assert slots.tolist() == [0, 1, 0]
    assert new == [3_000_000, -1]


@pytest.mark.parametrize(
    "labels",
    [
        np.array([2, 0, 2], dtype=kind)
        for kind in ("i1", "u1", ">i4", "u8", "f2", "f4", "f8", "longdouble", "O")
    ]
    + [
        torch.tensor([2, 0, 2], dtype=kind)
        for kind in (torch.uint8, torch.int16, torch.int64, torch.float32, torch.bfloat16)
    ]
    + [[2, 0, 2], (2.0, 0.0, 2.0), [np.int32(2), 0, 2], np.array([[2], [0], [2]])],
    ids=str,
)
def test_every_way_to_write_whole_numbers(labels):
    array = as_labels(labels)
    assert array.dtype == np.int64 or array.dtype.kind == "i"
    assert array.tolist() == [2, 0, 2]
    assert LabelIndex([0, 2]).plan(labels)[0].tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "labels", [["a", "b"], np.array(["a", "b"]), np.array(["a", "b"], dtype=object)], ids=repr
)
def test_strings(labels):
    assert LabelIndex().plan(labels)[1] == ["a", "b"]


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ([0, 1.5], "1.5 in row 1"),
        ([0.0, float("nan")], "nan in row 1"),
        ([float("inf")], "inf in row 0"),
        ([1, "a"], "'a'|1 in row 0"),
        (["a", True], "True in row 1"),
        ([1, True], "True in row 1"),
        ([True, 2.0], "True in row 0"),
        ([np.bool_(True), 2], "in row 0"),
        (np.array([1, "a"], dtype=object), "of one kind"),
        (np.array([1, True], dtype=object), "of one kind"),
        (np.array([b"a"]), "integers or strings"),
        (np.array([1 + 1j]), "integers or strings"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "integers or strings"),
        ([None, 1], "integers or strings"),
        (np.array([1, 2**63], dtype=np.uint64), "9223372036854775808 in row 1 does not fit"),
        ([0, 2**70], "row 1 does not fit"),
        (np.array([-(2**64)], dtype=object), "does not fit"),
        ([0.0, 1e300], r"1e\+300 in row 1 does not fit"),
        ([2.0**63], "does not fit"),
        ([[0, 1], [1, 0]], r"\(2, 2\)"),
        (3, r"\(\)"),
        ([[0], [1, 2]], "one-dimensional"),
    ],
    ids=repr,
)
def test_what_is_no_label_is_named(labels, named):
    index = LabelIndex()
    with pytest.raises(InvalidLabels, match=named):
        index.plan(labels)
    assert not index.labels


def test_one_index_holds_one_kind():
    for known, other in (([1], ["1"]), (["1"], [1]), ([True], [1]), ([1], [True])):
        index = LabelIndex(known)
        with pytest.raises(InvalidLabels, match="of kind"):
            index.plan(other)
        with pytest.raises(InvalidLabels, match="of kind"):
            index.extend(other)
        assert index.labels == known


def test_removal_closes_the_gap_and_the_last_frees_the_kind():
    index = LabelIndex(["a", "b", "c"])
    assert index.remove("b") == 1
    assert index.labels == ["a", "c"]
    assert [index.slot(label) for label in ("a", "c")] == [0, 1]
    index.remove("a")
    index.remove("c")
    assert index.plan([1, 2])[1] == [1, 2]


def test_unknown_labels_are_named_with_the_known_ones():
    with pytest.raises(UnknownClass, match="'z' was never seen; known: 'a', 'b'"):
        LabelIndex(["a", "b"]).slot("z")
    with pytest.raises(UnknownClass, match="known: none"):
        LabelIndex().slot([])


def test_a_list_of_labels_that_cannot_be():
    for labels in ([1, 1], [1, "a"], [1.5]):
        with pytest.raises(InvalidLabels):
            LabelIndex(labels)
