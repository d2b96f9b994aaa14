import numpy as np
import pytest
import torch
from torch import nn

from dpcr.cosine_head import CosineClassifier, CosineHead, feature_width
from lipogram.errors import InvalidFeatures, InvalidSetting


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_scores_are_scaled_cosines():
    head = CosineHead(5, 3, scale=7.0, generator=generator())
    z = torch.randn(4, 5, generator=generator(1))
    w = head.weight.detach().numpy()
    cosines = (z.numpy() @ w.T) / np.outer(np.linalg.norm(z, axis=1), np.linalg.norm(w, axis=1))
    np.testing.assert_allclose(head(z).detach().numpy(), 7 * cosines, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(head(50 * z).detach(), head(z).detach(), rtol=1e-5, atol=1e-6)
    assert torch.isfinite(head(torch.zeros(1, 5))).all()


def test_initial_weights_fill_their_bound_and_follow_from_the_generator():
    head = CosineHead(16, 200, generator=generator())
    bound = 16**-0.5
    assert head.weight.min() >= -bound
    assert head.weight.max() <= bound
    assert head.weight.min() < -0.95 * bound
    assert head.weight.max() > 0.95 * bound
    assert head.scale.item() == 1.0
    assert torch.equal(head.weight, CosineHead(16, 200, generator=generator()).weight)


def test_a_grown_head_scores_old_classes_as_before():
    head = CosineHead(6, 2, scale=3.0, generator=generator()).double()
    with torch.no_grad():
        head.scale.fill_(4.5)
    grown = head.grown(5, generator=generator(1))
    z = torch.randn(7, 6, dtype=torch.float64, generator=generator(2))
    assert grown.weight.dtype == torch.float64
    assert (grown(z)[:, :2] - head(z)).abs().max() < 1e-14
    assert (grown.n_classes, grown.width, grown.scale.item()) == (5, 6, 4.5)
    assert not torch.equal(grown.weight[2], grown.weight[3])
    with torch.no_grad():
        grown.weight.zero_()
    assert head.weight.abs().min() > 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((0, 2, 1.0), "width"), ((3, 0, 1.0), "n_classes"), ((3, 2, 0.0), "scale")],
)
def test_refused_heads(arguments, named):
    width, classes, scale = arguments
    with pytest.raises(InvalidSetting, match=named):
        CosineHead(width, classes, scale=scale)


def test_a_head_does_not_shrink():
    with pytest.raises(InvalidSetting, match="of 3 classes cannot grow to 2"):
        CosineHead(4, 3).grown(2)


def test_a_grown_classifier_is_a_copy():
    network = CosineClassifier(nn.Linear(4, 3), CosineHead(3, 2))
    grown = network.grown(4)
    x = torch.randn(5, 4, generator=generator())
    assert (grown(x)[:, :2] - network(x)).abs().max() < 1e-6
    with torch.no_grad():
        grown.backbone.weight.zero_()
    assert network.backbone.weight.abs().max() > 0


def test_half_precision_ends_before_the_head():
    network = CosineClassifier(nn.Linear(4, 3), CosineHead(3, 2, scale=16.0))
    x = torch.randn(5, 4, generator=generator())
    scores = network(x, amp=True)
    assert scores.dtype == torch.float32
    assert 0 < (scores - network(x)).abs().max() < 0.5


def test_width_of_a_backbone_is_said_or_seen():
    backbone = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    before = backbone[1].running_mean.clone()
    assert feature_width(backbone, torch.ones(1, 4)) == 3
    assert backbone.training
    assert torch.equal(backbone[1].running_mean, before)
    backbone.width = 17
    assert feature_width(backbone, torch.ones(1, 4)) == 17
    with pytest.raises(InvalidFeatures, match=r"\(1, 2, 3, 3\) for 1 samples"):
        feature_width(nn.Conv2d(1, 2, 1), torch.ones(1, 1, 3, 3))
    with pytest.raises(InvalidFeatures, match="list for 1 samples"):
        feature_width(_Lists(), torch.ones(1, 1))


class _Lists(nn.Module):
    def forward(self, x):
        return [x]
