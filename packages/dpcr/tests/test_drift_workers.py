"""One task on several processes, over gloo on the loopback device."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import torch

from dpcr import DriftCalibrator

BODY = """
import sys, os, json, datetime
import numpy as np, torch, torch.distributed as dist
from dpcr import DriftCalibrator, ShiftAccumulator
from lipogram.analytic.distributed import rank_indices
from lipogram.analytic.state import write_state
world, port, folder = sys.argv[1:]
world = int(world)
torch.set_num_threads(1)
children = []
for rank in range(world):  # torch is imported once and has started no thread yet
    children.append(os.fork())
    if not children[-1]:
        break
else:
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes))
    os._exit(0)
dist.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world,
    timeout=datetime.timedelta(seconds=60),
)
cases = {
    "none": {"eps": "auto", "prior": "zero"},
    "rank": {"eps": "auto", "prior": "zero", "cip": "rank"},
    "classes": {},
}
def tasks():
    for task in range(3):
        random = np.random.default_rng(task)
        y = random.integers(2 * task, 2 * task + 2, 41)
        old = random.normal(size=(41, 7)) + y[:, None]
        yield old, old @ random.normal(size=(7, 7)) + 0.1 * random.normal(size=(41, 7)), y
for case, settings in cases.items():
    calibrator = DriftCalibrator(gamma=0.5, **settings)
    for task, (old, new, y) in enumerate(tasks()):
        mine = rank_indices(41, rank, world)
        if task == 2:  # one rank has no row of the last task
            mine = mine[:0] if rank else np.arange(41)
        if len(mine):
            calibrator.observe(old[mine] if task else None, new[mine], y[mine])
        if task == 1:
            calibrator.observe_new(new[mine], y[mine])
        calibrator.all_reduce()
        calibrator.finish()
    calibrator.save(f"{folder}/{case}-{rank}")
wrong = ShiftAccumulator().update(np.ones((3, 4 + rank)), np.ones((3, 2)))
try:
    wrong.all_reduce()
except Exception as error:
    text = [type(error).__name__, str(error)]
strange = DriftCalibrator().observe(None, np.ones((3, 4 + rank)), [0, 0, 1])
try:
    strange.all_reduce()
except Exception as error:
    text += [type(error).__name__, str(error)]
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump(text, file)
assert ShiftAccumulator().all_reduce().rows == 0
dist.destroy_process_group()
"""


def alone(case):
    names = {}
    start, stop = BODY.index("cases ="), BODY.index("for case, settings in")
    exec(BODY[start:stop], {"np": np}, names)
    calibrator = DriftCalibrator(gamma=0.5, **names["cases"][case])
    for task, (old, new, y) in enumerate(names["tasks"]()):
        calibrator.observe(old if task else None, new, y).finish()
    return calibrator


def test_two_processes_end_where_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ended = subprocess.run(
        [sys.executable, "-c", BODY, "2", str(port), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert json.loads(ended.stdout.splitlines()[-1]) == [0, 0], ended.stderr
    for case in ("none", "rank", "classes"):
        ranks = [DriftCalibrator.load(tmp_path / f"{case}-{rank}") for rank in range(2)]
        assert torch.equal(ranks[0].head.weight, ranks[1].head.weight)
        expected = alone(case)
        order = [ranks[0].head.classes_.tolist().index(c) for c in expected.head.classes_]
        gap = (ranks[0].head.weight[order] - expected.head.weight).norm()
        assert gap / expected.head.weight.norm() <= 1e-10
        assert (ranks[1].bank.n_rows, ranks[1].tasks) == (123, 3)
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for pairs, message, rows, widths in told:
        assert pairs == rows == "IncompatibleFeatures"
        assert "[4, 2]" in message
        assert "widths [4, 5]" in widths
