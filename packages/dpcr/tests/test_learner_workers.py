"""The learner on two processes, over gloo on the loopback device."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import torch
from torch import nn

from dpcr import DPCR, TrainConfig

BODY = """
import datetime, json, os, sys
import torch, torch.distributed as dist
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_learner_workers import learnt
port, folder = sys.argv[2:]
children = []
for rank in range(2):
    children.append(os.fork())
    if not children[-1]:
        break
else:
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes))
    os._exit(0)
dist.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2,
    timeout=datetime.timedelta(seconds=60),
)
def stop(line):
    if line.startswith("task 3: solving"):
        raise KeyboardInterrupt
shared = folder + "/shared"
try:
    learnt(folder=shared, offset=rank, progress=stop)
except KeyboardInterrupt:
    assert os.path.exists(shared + "/observed.safetensors")
made = learnt(folder=shared, offset=rank)
made.save(f"{folder}/{rank}")
dist.destroy_process_group()
"""


def network(offset=0):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(offset)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).double()


def learnt(offset=0, **options):
    train = TrainConfig(first_epochs=3, epochs=2, batch_size=5, checkpoint_every=1, head_scale=4.0)
    made = DPCR(network(offset), gamma=0.5, repeat="merge", train=train, **options)
    for t in range(made.tasks, 4):
        rng = np.random.default_rng(t)
        y = np.repeat([2 * t, 2 * t + 1], 7) if t < 3 else np.array([0])  # then one repeated sample
        made.fit_task((torch.tensor(rng.normal(size=(len(y), 6)) + 4 * np.eye(6)[y]), y))
    return made


def test_two_processes_end_where_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ended = subprocess.run(
        [sys.executable, "-c", BODY, os.path.dirname(__file__), str(port), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert json.loads(ended.stdout.splitlines()[-1]) == [0, 0], ended.stderr
    expected = learnt()
    ranks = [DPCR.load(tmp_path / f"{rank}", network()) for rank in range(2)]
    assert torch.equal(ranks[0].head.weight, ranks[1].head.weight)
    for made in ranks:
        assert made.tasks == 4
        assert dict(
            zip(made.calibrator.bank.classes, made.calibrator.bank.counts, strict=True)
        ) == {c: 8 if c == 0 else 7 for c in range(6)}
        for name, value in made.network.state_dict().items():
            theirs = expected.network.state_dict()[name]
            np.testing.assert_allclose(value, theirs, rtol=1e-10, atol=1e-12)
        order = [made.classes_.tolist().index(c) for c in expected.classes_]
        gap = (made.head.weight[order] - expected.head.weight).norm()
        assert gap / expected.head.weight.norm() <= 1e-8
    left = sorted(path.name for path in (tmp_path / "shared").iterdir())
    assert len(left) == 3, left
