import numpy as np
import pytest
import torch
from torch import nn

from dpcr.checkpoints import data_digest, load_module, module_tensors
from lipogram.analytic.state import read_state, write_state
from lipogram.errors import CorruptState, InvalidFeatures, NotFinite


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2).half())
    module[1](torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)))
    module.register_buffer("mask", torch.tensor([True, bool(seed)]))
    module[0].bfloat16()
    return module


def test_a_network_comes_back_to_the_bit(tmp_path):
    path = write_state(tmp_path / "n.safetensors", module_tensors(network(1), "a/"), {"kind": "x"})
    again = network(0)
    load_module(again, read_state(path)[0], "a/")
    for name, value in network(1).state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
        assert again.state_dict()[name].dtype == value.dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("0.bias"), "'0.bias' is missing in the file"),
        (lambda t: t.update({"9.weight": torch.ones(1)}), "'9.weight' is in the file only"),
        (lambda t: t.update({"1.weight": torch.ones(4)}), r"torch.float32 \(4,\) in the file"),
        (lambda t: t.update({"1.weight": torch.ones(3).double()}), "torch.float64"),
    ],
)
def test_another_networks_file_changes_nothing(change, message):
    module, tensors = network(0), module_tensors(network(1))
    change(tensors)
    with pytest.raises(CorruptState, match=message):
        load_module(module, tensors)
    for name, value in network(0).state_dict().items():
        assert torch.equal(module.state_dict()[name], value)


def test_weights_that_no_file_holds():
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight[0, 0] = float("inf")
    with pytest.raises(NotFinite, match="'weight'"):
        module_tensors(module)
    with pytest.raises(InvalidFeatures, match="complex64"):
        module_tensors(nn.Linear(2, 2, dtype=torch.complex64))


def test_a_digest_tells_data_apart():
    x = torch.arange(200.0).reshape(100, 2)
    rows, slots = np.arange(0, 100, 2), np.arange(50) % 3
    first = data_digest(x, rows, slots)
    assert first == data_digest([(each, 0) for each in x], rows, slots)
    assert len(first) == 16
    others = {
        data_digest(x.double(), rows, slots),
        data_digest(x.reshape(100, 1, 2), rows, slots),
        data_digest(x + 1, rows, slots),
        data_digest(x, rows[::-1], slots),
        data_digest(x, rows, slots[::-1]),
        data_digest(x[:, :1].contiguous().expand(100, 2), rows, slots),
    }
    assert len(others) == 6
    assert first not in others
