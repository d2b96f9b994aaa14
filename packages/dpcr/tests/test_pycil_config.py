import json

import numpy as np
import pytest

from dpcr.pycil_config import legacy_class_order, pycil_config, read_pycil, top1_curve
from dpcr.train_settings import TrainConfig
from lipogram.errors import InvalidSetting

LWF = {
    "prefix": "reproduce",
    "dataset": "cifar100",
    "memory_size": 2000,
    "memory_per_class": 20,
    "fixed_memory": False,
    "shuffle": True,
    "init_cls": 50,
    "increment": 10,
    "model_name": "lwf",
    "convnet_type": "resnet18",
    "device": ["1", "0"],
    "seed": [1993, 7],
}
NEEDED = {"dataset": "cub200", "init_cls": 40, "increment": 40}


def test_a_file_of_pycil_is_read(tmp_path) -> None:
    path = tmp_path / "lwf.json"
    path.write_text(json.dumps(LWF))
    found = read_pycil(path)
    assert (found.dataset, found.init_cls, found.increment) == ("cifar100", 50, 10)
    assert (found.seeds, found.device, found.method) == ((1993, 7), "cuda:1", "lwf")
    assert (found.gamma, found.eps, found.train) == (None, None, TrainConfig())
    assert found.ignored == {
        "prefix": "reproduce",
        "memory_size": 2000,
        "memory_per_class": 20,
        "fixed_memory": False,
    }


def test_a_file_of_the_released_code_is_read() -> None:
    found = pycil_config(
        LWF
        | {"dataset": "ImageNet1000", "DPCR": True, "rg": 2000, "rg_tssp": 1e-9, "cosine": True}
        | {"resume": False, "model_dir": "here/", "device": ["-1"], "seed": 3}
        | {"init_milestones": [60, 120], "lrate": 0.03, "lamda": 7, "T": 3, "batch_size": 64}
    )
    assert (found.dataset, found.method, found.device) == ("imagenet", "dpcr", "cpu")
    assert (found.gamma, found.eps, found.seeds) == (2000.0, 1e-9, (3,))
    assert found.train == TrainConfig(
        first_milestones=(60, 120), lr=0.03, lam=7, temperature=3, batch_size=64
    )


def test_defaults_are_those_of_the_toolboxes() -> None:
    found = pycil_config(NEEDED)
    assert (found.seeds, found.shuffle, found.network) == ((1993,), True, "resnet18")
    assert (found.device, found.method) == ("auto", "dpcr")


def test_the_class_order_is_that_of_numpys_legacy_generator() -> None:
    np.random.seed(1993)  # noqa: NPY002 - what the toolboxes do
    theirs = np.random.permutation(100).tolist()  # noqa: NPY002
    assert pycil_config(NEEDED).class_order(100) == theirs == legacy_class_order(100)
    assert theirs[:4] == [68, 56, 78, 8]  # as papers print it
    assert pycil_config(NEEDED).class_order(100, 5) != theirs
    assert pycil_config(NEEDED | {"shuffle": False}).class_order(4) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"init_clss": 3}, "'init_clss' .is 'init_cls' meant"),
        ({"rg_tsp": 1e-9}, "'rg_tsp' .is 'rg_tssp' meant"),
        ({"zzz": 0}, "unknown keys 'zzz'; known"),
        ({"dataset": "mnist"}, "dataset is 'mnist'.*tinyimagenet200"),
        ({"dataset": 3}, "dataset is 3"),
        ({"convnet_type": "resnet32"}, "convnet_type is 'resnet32'.*resnet18"),
        ({"model_name": "icarl"}, "model_name is 'icarl'.*lwf"),
        ({"init_cls": 0}, "init_cls is 0"),
        ({"increment": "10"}, "increment is '10'"),
        ({"seed": []}, "seed is an empty list"),
        ({"seed": [-1]}, "seed is -1"),
        ({"shuffle": 1}, "shuffle is 1"),
        ({"device": ["gpu"]}, "device is 'gpu'"),
        ({"device": -2}, "device is -2"),
        ({"rg": 0}, "rg is 0"),
        ({"rg_tssp": "1e-9"}, "rg_tssp is '1e-9'"),
        ({"lrate": -0.1}, "lr is -0.1"),
        ({"milestones": [45, 0]}, "milestones is 0"),
        ({"init_milestones": 60}, "init_milestones is 60"),
        ({"batch_size": [128]}, "batch_size is"),
        ({"init_epoch": 1.5}, "first_epochs is 1.5"),
        ({"T": "2"}, "temperature is '2'"),
    ],
)
def test_what_makes_no_sense_is_named(given: dict, match: str) -> None:
    with pytest.raises(InvalidSetting, match=match):
        pycil_config(NEEDED | given)


def test_a_file_that_is_no_such_file_is_refused(tmp_path) -> None:
    path = tmp_path / "a.json"
    for text, match in (
        ("{", "no JSON"),
        ("[1]", "holds a list"),
        ('{"dataset": "cub"}', "lacks init_cls, increment"),
        ('{"dataset": "cub", "init_cls": 1, "incrment": 2}', "increment"),
    ):
        path.write_text(text)
        with pytest.raises(InvalidSetting, match=rf"a\.json.*{match}"):
            read_pycil(path)
    with pytest.raises(FileNotFoundError):
        read_pycil(tmp_path / "none.json")


def test_devices_may_be_named() -> None:
    for given, found in (("cpu", "cpu"), (["cuda:1"], "cuda:1"), (0, "cuda:0"), ([-1], "cpu")):
        assert pycil_config(NEEDED | {"device": given}).device == found


def test_the_line_that_logs_are_compared_by() -> None:
    assert top1_curve([0.901, 0.8125, 1 / 3]) == "CNN top1 curve: [90.1, 81.25, 33.33]"
    assert top1_curve(np.array([0.5])) == "CNN top1 curve: [50.0]"
    with pytest.raises(InvalidSetting, match="5010"):
        top1_curve([50.1])
