"""Samples through networks, batch by batch."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from dpcr.feature_pass import features_of, show_features
from lipogram.errors import InvalidFeatures

X = torch.arange(22.0).reshape(11, 2)


class Noisy(Dataset):
    """Draws from torch's global generator."""

    def __len__(self):
        return len(X)

    def __getitem__(self, position):
        return X[position] + torch.randn(2), 0


@pytest.mark.parametrize("batch_size", [1, 4, 11, 50])
def test_every_sample_once_in_order_through_every_network(batch_size):
    seen = []
    networks = [nn.Linear(2, 3), nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))]
    rows = np.array([7, 0, 3, 9, 10, 1])
    show_features(networks, X, lambda *each: seen.append(each), rows=rows, batch_size=batch_size)
    np.testing.assert_array_equal(np.concatenate([where for where, _ in seen]), rows)
    for i, network in enumerate(networks):
        assert not network.training
        found = torch.cat([each[i] for _, each in seen])
        assert not found.requires_grad
        np.testing.assert_allclose(found, network(X[rows]).detach(), rtol=1e-5, atol=1e-5)
    assert networks[1][1].num_batches_tracked == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_random_samples_follow_from_the_numbers_alone(workers):
    options = {"workers": workers, "batch_size": 4}
    looks = []
    for number in (5, 5, 6):
        torch.randn(3)
        before = torch.default_generator.get_state()
        looks.append(features_of(nn.Identity(), Noisy(), numbers=(number,), **options))
        assert torch.equal(torch.default_generator.get_state(), before)
    assert torch.equal(looks[0], looks[1])
    assert not torch.equal(looks[0], looks[2])


def test_both_networks_see_the_same_change():
    seen = []
    show_features(
        [nn.Identity(), nn.Identity()],
        TensorDataset(X),
        lambda where, each: seen.append(each),
        augment=lambda x, generator: x + torch.randn(len(x), 1, generator=generator),
        batch_size=5,
    )
    assert [len(a) for a, _ in seen] == [5, 5, 1]
    assert all(torch.equal(a, b) for a, b in seen)
    assert not torch.equal(torch.cat([a for a, _ in seen]), X)


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (nn.Unflatten(1, (1, 2)), r"\(4, 1, 2\) for 4 samples"),
        (nn.Flatten(0), r"\(8,\) for 4"),
        (lambda x: [x], "list for 4"),
        (lambda x: x[:1], r"\(1, 2\) for 4"),
    ],
)
def test_what_is_no_matrix_of_features_is_refused(network, named):
    module = network if isinstance(network, nn.Module) else Wrapped(network)
    with pytest.raises(InvalidFeatures, match=named):
        features_of(module, X, batch_size=4)


class Wrapped(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_sample_with_bad_features_is_named(bad):
    x = X.clone()
    x[6, 1] = bad
    with pytest.raises(InvalidFeatures, match=r"sample 6 .*samples 4 to 7"):
        features_of(nn.Identity(), x, batch_size=4)
