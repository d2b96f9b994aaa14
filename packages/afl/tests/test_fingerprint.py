import subprocess
import sys

import numpy as np
import pytest
import torch

from afl.fingerprint import feature_fingerprint
from lipogram.analytic import load_backbone
from lipogram.errors import InvalidSetting

PROGRAM = """
import torch
from afl.fingerprint import feature_fingerprint
torch.manual_seed(3)
print(feature_fingerprint(torch.nn.Linear(4, 3), "to 224 px"))
"""


def linear(seed=3):
    torch.manual_seed(seed)
    return torch.nn.Linear(4, 3)


def test_a_module_has_one_name_everywhere():
    there = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert there.stdout.strip() == feature_fingerprint(linear(), "to 224 px")


def test_other_parameters_or_preparation_have_other_names():
    names = {
        feature_fingerprint(linear()),
        feature_fingerprint(linear(4)),
        feature_fingerprint(linear().bfloat16()),
        feature_fingerprint(linear(), "to 96 px"),
        feature_fingerprint(load_backbone("pixels", image_size=8)),
        feature_fingerprint(load_backbone("pixels", image_size=9)),
    }
    assert len(names) == 6


def test_a_callable_is_known_by_what_it_does():
    probe = np.linspace(0, 1, 12).reshape(3, 4)
    name = feature_fingerprint(lambda x: 2 * x, probe=probe)
    assert name == feature_fingerprint(lambda x: x + x + 1e-9, probe=probe)
    assert name != feature_fingerprint(lambda x: 2 * x + 0.1 * x**2, probe=probe)
    with pytest.raises(InvalidSetting, match="probe"):
        feature_fingerprint(lambda x: x)
    with pytest.raises(InvalidSetting, match="NaN"):
        feature_fingerprint(lambda x: x * np.nan, probe=probe)
