"""One stream on several processes, over gloo on the loopback device."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aefocl import AEFOCLClassifier

CASES: dict[str, dict[str, Any]] = {
    "diag": {},
    "shared": {"covariance": "shared"},
    "expected": {"buffer_size": None, "covariance": "diag+shared", "sampler": "expected"},
}
BODY = """
import sys, os, json, datetime
import numpy as np, torch, torch.distributed as dist
from aefocl import AEFOCLClassifier
from lipogram.analytic.distributed import all_reduce_statistics, rank_indices
world, port, folder, cases = sys.argv[1:]
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
stream = np.load(f"{folder}/stream.npz")
X, Y = stream["X"], stream["Y"]
mine = rank_indices(len(Y), rank, world)
for case, settings in json.loads(cases).items():
    model = AEFOCLClassifier(**{"gamma": 0.5, "buffer_size": 24, **settings})
    model.partial_fit(X[mine], Y[mine])
    before = model.coef_
    total = all_reduce_statistics(model.statistics_)
    assert np.array_equal(before, model.coef_)
    model.adopt(total).save(f"{folder}/{case}-{rank}")
weight = np.arange(1, len(Y) + 1) / len(Y)
far = AEFOCLClassifier(buffer_size=None)
far.partial_fit(X[mine] + 1e8, Y[mine], sample_weight=weight[mine])
far.adopt(all_reduce_statistics(far.statistics_)).save(f"{folder}/far-{rank}")
late = AEFOCLClassifier(buffer_size=24, covariance="shared")
late.partial_fit(X if rank else X[:0], Y if rank else Y[:0])
late.adopt(all_reduce_statistics(late.statistics_)).save(f"{folder}/late-{rank}")
told = []
for covariance in (("diag", "shared"), ("lowrank:2", "lowrank:2")):
    model = AEFOCLClassifier(buffer_size=24, covariance=covariance[rank])
    try:
        all_reduce_statistics(model.fit(X, Y).statistics_)
    except ValueError as error:
        told.append([type(error).__name__, str(error)])
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump(told, file)
dist.destroy_process_group()
"""


@pytest.mark.parametrize("world", [2])
def test_processes_end_where_one_does(world: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.r_[np.repeat([5, 3, 8], [40, 12, 3]), 1]  # two classes are on one rank alone
    x = rng.standard_normal((9, 6))[y] + rng.standard_normal((len(y), 6)) + 50
    np.savez(tmp_path / "stream.npz", X=x, Y=y)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ended = subprocess.run(
        [sys.executable, "-c", BODY, str(world), str(port), str(tmp_path), json.dumps(CASES)],
        capture_output=True,
        text=True,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert json.loads(ended.stdout.splitlines()[-1]) == [0] * world, ended.stderr
    for case, settings in CASES.items():
        alone = AEFOCLClassifier(**{"gamma": 0.5, "buffer_size": 24, **settings}).fit(x, y)
        ranks = [AEFOCLClassifier.load(tmp_path / f"{case}-{rank}") for rank in range(world)]
        order = np.argsort(ranks[0].classes_)
        for theirs in ranks:
            np.testing.assert_array_equal(theirs.classes_, ranks[0].classes_)
            np.testing.assert_array_equal(theirs.coef_, ranks[0].coef_)
        np.testing.assert_array_equal(ranks[0].class_count_[order], alone.class_count_)
        for name in ("class_mean_", "class_std_"):
            np.testing.assert_allclose(
                getattr(ranks[0], name)[order], getattr(alone, name), rtol=1e-12, atol=1e-12
            )
        gap = np.abs(ranks[0].coef_[order] - alone.coef_).max() / np.abs(alone.coef_).max()
        assert gap <= 1e-8
        more = ranks[0].partial_fit(x[:3], y[:3]).forget(x[:3], y[:3])
        assert np.abs(more.coef_[order] - alone.coef_).max() <= 1e-6 * np.abs(alone.coef_).max()
    weight = np.arange(1, len(y) + 1) / len(y)
    late = AEFOCLClassifier(buffer_size=24, covariance="shared").fit(x, y)
    for rank in range(world):
        far = AEFOCLClassifier.load(tmp_path / f"far-{rank}")
        for label in np.unique(y).tolist():
            mine, slot = y == label, list(far.classes_).index(label)
            mean = np.average(x[mine] + 1e8, 0, weight[mine])
            m2 = weight[mine] @ (x[mine] + 1e8 - mean) ** 2
            np.testing.assert_allclose(far.class_mean_[slot], mean, rtol=1e-15)
            np.testing.assert_allclose(far.statistics_.moments.m2[slot], m2, rtol=1e-6, atol=1e-12)
        one = AEFOCLClassifier.load(tmp_path / f"late-{rank}")  # rank 0 had no row
        order = np.argsort(one.classes_)
        np.testing.assert_allclose(one.coef_[order], late.coef_, rtol=1e-8, atol=1e-10)
        different, low_rank = json.loads((tmp_path / f"{rank}.json").read_text())
        assert different[0] == "IncompatibleFeatures"
        assert "covariance of incoming features" in different[1]
        assert low_rank[0] == "InvalidSetting"
        assert "low-rank" in low_rank[1]
