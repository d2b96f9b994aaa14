"""Samples and labels out of the forms that people have."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from dpcr.labelled_samples import labelled, unlabelled
from lipogram.errors import InvalidFeatures, InvalidLabels

X, Y = torch.arange(8.0).reshape(4, 2), [3, 1, 3, 2]


class Counting(Dataset):
    """Says its labels, and counts what is read."""

    def __init__(self, **attributes):
        self.read = 0
        vars(self).update(attributes)

    def __len__(self):
        return len(X)

    def __getitem__(self, position):
        self.read += 1
        return X[position], -Y[position]


@pytest.mark.parametrize("name", ["targets", "labels"])
def test_labels_that_a_dataset_says_are_taken_without_reading(name):
    told = Counting(**{name: Y})
    samples, labels = labelled(told)
    assert (samples is told, labels.tolist(), told.read) == (True, Y, 0)
    _, some = labelled(Subset(Subset(told, [3, 2, 1]), [0, 2]))
    assert (some.tolist(), told.read) == ([2, 1], 0)


def test_labels_that_something_changes_are_read():
    told = Counting(targets=Y, target_transform=lambda y: -y)
    assert labelled(told)[1].tolist() == [-3, -1, -3, -2]
    assert told.read == 4
    assert labelled(Subset(told, [1]))[1].tolist() == [-1]
    assert labelled(Counting())[1].tolist() == [-3, -1, -3, -2]


def test_forms_of_pairs():
    for x, y in ((X, Y), (X.numpy(), np.array(Y)), (X.tolist(), torch.tensor(Y)), [X, Y]):
        samples, labels = labelled((x, y))
        assert torch.equal(samples.double(), X.double())
        assert labels.tolist() == Y
    assert labelled((X, list("abca")))[1].tolist() == list("abca")
    assert labelled((Counting(), Y))[1].tolist() == Y
    assert labelled(TensorDataset(X, torch.tensor(Y)))[1].tolist() == Y
    given = unlabelled(X)
    assert given is X


class Endless(IterableDataset):
    def __iter__(self):
        yield X[0], 1


@pytest.mark.parametrize(
    ("data", "error", "named"),
    [
        (X, InvalidFeatures, "training samples come without labels"),
        ((X, Y[:3]), InvalidFeatures, "4 training samples, 3 labels"),
        ((object(), Y), InvalidFeatures, "not object"),
        ((torch.tensor(1.0), [1]), InvalidFeatures, "single number"),
        ((X, [1, "a", 2, 3]), InvalidLabels, "of another kind"),
        ((X, [[1], [2, 3]]), InvalidLabels, "one-dimensional"),
        (TensorDataset(X), InvalidLabels, "training sample 0 comes without"),
        (Endless(), InvalidFeatures, "without a length"),
        (Subset(TensorDataset(X), [2]), InvalidLabels, "sample 0 comes without"),
    ],
)
def test_what_is_no_labelled_samples_is_refused(data, error, named):
    with pytest.raises(error, match=named):
        labelled(data)
