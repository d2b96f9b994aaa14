"""Backbones: shapes, first layers, and what can be trained."""

import pytest
import torch
from torchvision import models

from dpcr.networks import ResidualNetwork, mlp, resnet18, small_resnet
from lipogram.errors import InvalidSetting


@pytest.mark.parametrize(
    ("stem", "side", "first", "places"),
    [("small", 32, 3, 4), ("small-pool", 32, 3, 2), ("imagenet", 64, 7, 2)],
)
def test_resnet18_starts_as_its_stem_says(stem, side, first, places):
    network = resnet18(stem).eval()
    seen = {}
    network.layer4.register_forward_hook(lambda module, args, out: seen.update(out=out))
    with torch.no_grad():
        features = network(torch.randn(2, 3, side, side))
    assert features.shape == (2, network.width) == (2, 512)
    assert network.conv1.kernel_size == (first, first)
    assert seen["out"].shape[2:] == (places, places)
    assert not [name for name, _ in network.named_parameters() if name.startswith("fc.")]
    assert bool((features >= 0).all())


def test_torchvisions_own_weights_fit_the_original_stem():
    theirs = models.resnet18(weights=None)
    ours = resnet18("imagenet")
    left_over = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not left_over.missing_keys
    assert set(left_over.unexpected_keys) == {"fc.weight", "fc.bias"}
    theirs.fc = torch.nn.Identity()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_grey_images():
    assert resnet18("imagenet", channels=1).conv1.weight.shape == (64, 1, 7, 7)
    assert small_resnet(16, channels=1)(torch.randn(2, 1, 8, 8)).shape == (2, 16)


def test_small_networks_have_features_and_gradients():
    residual, perceptron = small_resnet(64), mlp()
    for network, x in ((residual, torch.randn(4, 3, 16, 16)), (perceptron, torch.rand(4, 8, 8))):
        features = network(x)
        assert features.shape == (4, network.width)
        assert bool((features >= 0).all())
        features.sum().backward()
        assert all(p.grad is not None for p in network.parameters())
    assert [p.shape[0] for p in perceptron.parameters()] == [256, 256, 64, 64]
    assert sum(p.numel() for p in residual.parameters()) < 80_000


def test_each_later_stage_halves_the_resolution():
    network = ResidualNetwork((8, 8, 16), blocks=2)
    sides = []
    for stage in network.stages:
        assert len(stage) == 2
        stage.register_forward_hook(lambda module, args, out: sides.append(out.shape[-1]))
    network(torch.randn(2, 3, 16, 16))
    assert sides == [16, 8, 4]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: resnet18("large"), "stem.*small-pool"),
        (lambda: resnet18(channels=0), "channels is 0"),
        (lambda: small_resnet(3), "width is 3"),
        (lambda: ResidualNetwork(()), "stages is 0"),
        (lambda: ResidualNetwork((8, 0)), "width is 0"),
        (lambda: ResidualNetwork((8,), blocks=0), "blocks is 0"),
        (lambda: mlp(64), "sizes is 1"),
        (lambda: mlp(64, 0), "size is 0"),
    ],
)
def test_what_is_no_network_is_refused(make, named):
    with pytest.raises(InvalidSetting, match=named):
        make()
