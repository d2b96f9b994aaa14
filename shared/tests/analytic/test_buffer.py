"""The fixed random feature maps."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from lipogram.analytic.buffer import GaussianKernelBuffer, RandomBuffer, buffer_from_settings
from lipogram.errors import InvalidFeatures, InvalidSetting


@given(
    st.sampled_from(["uniform_fan_in", "normal", "orthogonal"]),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 2**63 - 1),
)
def test_the_settings_alone_define_the_map(init, width, out, seed):
    one = RandomBuffer(width, out, init=init, seed=seed)
    torch.rand(3)  # what happens to the global generator does not matter
    two = buffer_from_settings(one.settings(), one.tensors())
    assert torch.equal(one.weight, two.weight)
    assert one.fingerprint == two.fingerprint


def test_fingerprint_is_pinned():
    # torch's CPU generator is part of the file format: should it change, saved states with a buffer
    # can no longer be read, and this is how we learn of it.
    buffer = RandomBuffer(4, 6, seed=3)
    pinned = "0eb09f3bd6cc1ba7642e420b7a468d5d8ba4844cd7d98d432f02507b92f83a4d"
    assert buffer.fingerprint == pinned
    expected = hashlib.sha256(b"relu (4, 6) ")
    expected.update(buffer.weight.numpy().astype("<f4").tobytes())
    assert buffer.fingerprint == expected.hexdigest()


def test_fingerprint_sees_every_setting():
    made = [
        RandomBuffer(4, 6),
        RandomBuffer(4, 6, seed=1),
        RandomBuffer(4, 6, init="normal"),
        RandomBuffer(4, 6, activation="tanh"),
        RandomBuffer(4, 6, scale=2.0),
        RandomBuffer(6, 4),
        GaussianKernelBuffer(torch.eye(4)),
        GaussianKernelBuffer(torch.eye(4), sigma=5.0),
        GaussianKernelBuffer(2 * torch.eye(4)),
    ]
    assert len({buffer.fingerprint for buffer in made}) == len(made)


@pytest.mark.parametrize("d_in", [10, 400])
def test_moments_of_the_draws(d_in):
    uniform = RandomBuffer(d_in, 1000).weight
    bound = d_in**-0.5
    assert uniform.abs().max() <= bound
    assert uniform.abs().max() > 0.99 * bound
    assert uniform.mean().abs() < 4 * bound / (3 * uniform.numel()) ** 0.5
    assert uniform.var() == pytest.approx(1 / (3 * d_in), rel=0.05)
    normal = RandomBuffer(d_in, 1000, init="normal").weight
    assert normal.var() == pytest.approx(1, rel=0.05)
    assert (normal**4).mean() == pytest.approx(3, rel=0.15)
    assert torch.equal(RandomBuffer(d_in, 9, scale=2.5).weight, 2.5 * RandomBuffer(d_in, 9).weight)


@pytest.mark.parametrize(("rows", "columns"), [(30, 30), (30, 12), (12, 30)])
def test_orthogonal_rows_or_columns(rows, columns):
    weight = RandomBuffer(rows, columns, init="orthogonal").weight
    product = weight.T @ weight if rows >= columns else weight @ weight.T
    torch.testing.assert_close(product, torch.eye(min(rows, columns)).double())


def test_orthogonal_draws_are_uniform():
    # A QR factor whose signs are left to LAPACK has a first entry of one sign.
    signs = [float(RandomBuffer(3, 3, init="orthogonal", seed=s).weight[0, 0]) for s in range(150)]
    assert abs(np.sign(signs).sum()) < 50
    assert np.mean(np.square(signs)) == pytest.approx(1 / 3, abs=0.08)


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "identity"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_projection_and_activation(activation, dtype):
    buffer = RandomBuffer(5, 8, activation=activation, init="normal", seed=2)
    z = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    projected = z.double().numpy() @ buffer.weight.numpy()
    from scipy.special import erf

    expected = {
        "relu": np.maximum(projected, 0),
        "gelu": projected * (1 + erf(projected / 2**0.5)) / 2,
        "tanh": np.tanh(projected),
        "identity": projected,
    }[activation]
    assert buffer(z).dtype == torch.float64
    np.testing.assert_allclose(buffer(z).numpy(), expected, rtol=1e-12, atol=1e-14)


def test_gaussian_kernel_against_scipy():
    generator = np.random.default_rng(0)
    z, centres = generator.normal(size=(50, 6)) * 8, generator.normal(size=(9, 6)) * 8
    buffer = GaussianKernelBuffer(torch.from_numpy(centres), sigma=7.0)
    expected = np.exp(-cdist(z, centres, "sqeuclidean") / (2 * 7.0**2))
    np.testing.assert_allclose(buffer(torch.from_numpy(z)).numpy(), expected, rtol=1e-11)
    at_centres = buffer(torch.from_numpy(centres)).diagonal()
    np.testing.assert_allclose(at_centres.numpy(), 1, rtol=0, atol=1e-14)


def test_gaussian_centres_come_from_all_rows():
    rows = torch.arange(1000.0)[:, None]
    chosen = GaussianKernelBuffer.from_rows(rows, 100).centres[:, 0]
    assert len(chosen.unique()) == 100
    assert chosen.max() > 900  # not the first hundred
    assert chosen.min() < 100
    assert torch.equal(chosen, GaussianKernelBuffer.from_rows(rows, 100).centres[:, 0])
    assert not torch.equal(chosen, GaussianKernelBuffer.from_rows(rows, 100, seed=1).centres[:, 0])
    everything = GaussianKernelBuffer.from_rows(rows, 1000).centres[:, 0]
    assert torch.equal(everything.sort().values, rows[:, 0].double())


def test_gaussian_settings_and_centres_define_the_map():
    one = GaussianKernelBuffer(torch.randn(4, 3).double(), sigma=2.0)
    two = buffer_from_settings(one.settings(), one.tensors())
    assert one.fingerprint == two.fingerprint
    centres = torch.ones(2, 2).double()
    held = GaussianKernelBuffer(centres)
    centres.zero_()  # the caller's tensor is the caller's
    assert bool((held.centres == 1).all())


@pytest.mark.parametrize(
    "buffer",
    [RandomBuffer(5, 8, activation=name) for name in ("relu", "gelu", "tanh", "identity")]
    + [GaussianKernelBuffer(torch.randn(8, 5), sigma=3.0)],
    ids=lambda buffer: getattr(buffer, "activation", "gaussian"),
)
def test_module_equals_the_map(buffer):
    z = torch.randn(20, 5)
    module = buffer.as_module()
    expected = buffer(z)
    torch.testing.assert_close(module(z).double(), expected, rtol=1e-5, atol=1e-6)
    assert all(tensor.dtype == torch.float32 for tensor in module.state_dict().values())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"in_features": 0}, "in_features"),
        ({"out_features": -1}, "out_features"),
        ({"in_features": 2**20, "out_features": 2**20}, "take fewer"),
        ({"init": "xavier"}, "init.*orthogonal"),
        ({"activation": "selu"}, "activation.*gelu"),
        ({"scale": 0.0}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
    ],
)
def test_bad_settings(settings, named):
    described = RandomBuffer(3, 4).settings() | settings
    with pytest.raises((InvalidSetting, TypeError), match=named):
        buffer_from_settings(described, {})


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_sigma(sigma):
    with pytest.raises(InvalidSetting, match="sigma"):
        GaussianKernelBuffer(torch.eye(2), sigma=sigma)


@pytest.mark.parametrize(
    "centres", [torch.zeros(0, 3), torch.zeros(3), torch.tensor([[float("nan")]])], ids=str
)
def test_bad_centres(centres):
    with pytest.raises(InvalidSetting, match="centres"):
        GaussianKernelBuffer(centres)


@pytest.mark.parametrize("count", [0, 6])
def test_as_many_centres_as_rows_at_most(count):
    with pytest.raises(InvalidSetting, match="5 rows"):
        GaussianKernelBuffer.from_rows(torch.randn(5, 2), count)


@pytest.mark.parametrize("buffer", [RandomBuffer(3, 4), GaussianKernelBuffer(torch.eye(3))])
def test_wrong_width(buffer):
    with pytest.raises(InvalidFeatures, match=r"\(2, 4\).*\(n, 3\)"):
        buffer(torch.zeros(2, 4))


def test_unknown_kind():
    with pytest.raises(InvalidSetting, match="polynomial"):
        buffer_from_settings({"kind": "polynomial"}, {})
