"""One task on two processes, over gloo on the loopback device."""

import json
import os
import socket
import subprocess
import sys

import torch

from lipogram.analytic.state import read_state

BODY = """
import datetime, json, os, sys
import numpy as np, torch, torch.distributed as dist
from torch import nn
from dpcr.checkpoints import module_tensors
from dpcr.cosine_head import CosineClassifier, CosineHead
from dpcr.training import TrainConfig, train_task
from lipogram.analytic.state import write_state
port, folder = sys.argv[1:]
torch.set_num_threads(1)
def result(name, norm=False):
    torch.manual_seed(int(os.environ.get("OFFSET", 0)))
    middle = [nn.BatchNorm1d(8)] if norm else []
    backbone = nn.Sequential(nn.Linear(5, 8), *middle, nn.ReLU(), nn.Linear(8, 4))
    net = CosineClassifier(backbone, CosineHead(4, 2, scale=8.0)).double()
    random = np.random.default_rng(0)
    y = np.arange(13) % 2
    x = torch.from_numpy(random.normal(size=(13, 5)) + 3 * y[:, None])
    settings = {"first_epochs": 3, "epochs": 3, "batch_size": 3, "schedule": "cosine"}
    config = TrainConfig(**settings, first_lr=0.05, lr=0.05, checkpoint_every=2)
    first = train_task(net, x, y, config, checkpoint=__import__("pathlib").Path(folder) / name)
    grown = net.grown(3, generator=torch.Generator().manual_seed(0))
    second = train_task(grown, x[:1] - 2, np.array([2]), config, old=net, task=1)
    told = {"losses": first.losses + second.losses, "accuracies": first.accuracies}
    write_state(f"{folder}/{name}.st", module_tensors(grown), {"kind": "test", **told})
    write_state(f"{folder}/{name}-first.st", module_tensors(net), {"kind": "test"})
result("alone")
children = []
for rank in range(2):
    children.append(os.fork())
    if not children[-1]:
        break
else:
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes))
    os._exit(0)
os.environ["OFFSET"] = str(rank)  # the second process starts from other weights
dist.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2,
    timeout=datetime.timedelta(seconds=60),
)
result(f"{rank}")
result(f"norm-{rank}", norm=True)
dist.destroy_process_group()
"""


def test_two_processes_train_as_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ended = subprocess.run(
        [sys.executable, "-c", BODY, str(port), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        timeout=180,
    )
    assert ended.stdout, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == [0, 0], ended.stderr
    alone, told = read_state(tmp_path / "alone.st")
    for rank in range(2):
        weights, mine = read_state(tmp_path / f"{rank}.st")
        for name, value in alone.items():
            assert (weights[name] - value).abs().max() <= 1e-10
        assert torch.tensor(mine["losses"]).sub(torch.tensor(told["losses"])).abs().max() < 1e-6
        assert mine["accuracies"] == told["accuracies"]
    assert (tmp_path / "0").is_file()
    assert not (tmp_path / "1").exists()  # one of them writes
    for task in ("-first", ""):
        one, two = (read_state(tmp_path / f"norm-{rank}{task}.st")[0] for rank in range(2))
        assert all(torch.equal(value, two[name]) for name, value in one.items())
        assert one["backbone.1.running_mean"].abs().max() > 0
