"""A training that is killed, and one that several processes share; forked, to import once."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

BODY = """
import datetime, json, os, random, signal, sys, time, warnings
from pathlib import Path
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from lipogram.llm import tiny_random
from lipogram.llm.tuning import lora_config, prepare_lora
from rewardds import dp_trainer
from rewardds.dp_trainer import DPTrainer
from rewardds.errors import DataMismatch
from rewardds.losses import CausalLMLoss
from rewardds.rows import Row, Sequence
from rewardds.training_run import TrainingRun
port, home = sys.argv[1], Path(sys.argv[2])
torch.set_num_threads(1)
warnings.simplefilter("ignore")
rows = [Row(str(i), [Sequence([i, i + 1, i + 2], [True] * 3)]) for i in range(30)]
def adapted(seed):
    model = tiny_random("llama", layers=1, width=16).model
    torch.manual_seed(seed)
    return prepare_lora(model, lora_config(model, r=1), checkpointing=False)
first, second = adapted(0), adapted(1)  # here: children inherit them, and what they import
with torch.no_grad():
    first(input_ids=torch.tensor([[1, 2, 3]]))
def saved(model, path):
    save_file({n: p.detach() for n, p in model.named_parameters() if p.requires_grad}, path)

def drawn_and_counted(folder, steps):
    # Beside the folder, each step leaves a byte just before its noise is drawn.
    with open(home / "drawn", "ab", buffering=0) as oracle:
        add, begin = dp_trainer.add_gaussian, []
        def watched(sums, *args, **kwargs):
            if not begin or sums[0].data_ptr() == begin[0]:
                begin[:] = [sums[0].data_ptr()]
                oracle.write(b".")
            return add(sums, *args, **kwargs)
        dp_trainer.add_gaussian = watched
        trainer = DPTrainer(first, TrainingRun(1.0, 30, 2, steps), loss=CausalLMLoss(),
                            lr=1e-3, clip=1.0, folder=folder, save_every=3, bucket=8)
        (home / "told").write_text(str(trainer.train(rows).noise_additions))

def forked(run):
    child = os.fork()
    if not child:
        try:
            run()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return child
def code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def kills():
    folder, found, steps = home / "run", [], 1000
    random.seed(int.from_bytes(os.urandom(4), "big"))
    (home / "drawn").touch()
    while len(found) < 20:
        before = (home / "drawn").stat().st_size
        child = forked(lambda: drawn_and_counted(folder, steps))
        while (home / "drawn").stat().st_size == before and not os.waitpid(child, os.WNOHANG)[0]:
            time.sleep(0.002)
        time.sleep(random.random() * 0.1)
        os.kill(child, signal.SIGKILL)
        assert code(child) == -signal.SIGKILL
        counted = json.loads((folder / "count.json").read_text())["additions"]
        found.append([(home / "drawn").stat().st_size, counted])
    return found

def shared(name, rank, size, **settings):
    if size > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank,
                                world_size=size, timeout=datetime.timedelta(seconds=60))
    model = second if rank else first  # which start from different weights
    folder = home / f"folder-{name}"
    def train(rows, steps=6):
        return DPTrainer(model, TrainingRun(0.8, 30, 3, steps), loss=CausalLMLoss(), lr=1e-2,
            clip=0.5, physical_batch=1, folder=folder, bucket=8, save_every=1, unsafe_seed=0,
            distributed=size > 1, **settings).train(rows)
    report = train(rows)
    saved(model, home / f"{name}-{rank}.safetensors")
    (home / f"{name}-{rank}.json").write_text(json.dumps(
        [report.noise_additions, report.release.steps, report.sigma, report.sample_rate]))
    if size > 1:
        assert train(rows) == report  # read back: by the first, for both
        saved(model, home / f"{name}-again-{rank}.safetensors")
        for other in (rows if rank else rows[1:],), (rows, 7):
            try:
                train(*other)
            except DataMismatch:
                continue
            raise AssertionError("trained on")

result = {"kills": kills()}
alone = code(forked(lambda: shared("alone", 0, 1)))
pair = [forked(lambda rank=rank: shared("pair", rank, 2)) for rank in range(2)]
result["codes"] = [alone, *(code(child) for child in pair)]
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    home = tmp_path_factory.mktemp("processes")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-c", BODY, str(port), str(home)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return json.loads(done.stdout) | {"home": home, "errors": done.stderr}


pytestmark = pytest.mark.skipif(os.name != "posix", reason="fork and SIGKILL")


def test_killed_at_any_instant_no_noise_is_forgotten(result):
    drawn, counted = zip(*result["kills"], strict=True)
    assert len(drawn) == 20
    assert all(d <= c for d, c in result["kills"])
    assert all(c - d <= number + 1 for number, (d, c) in enumerate(result["kills"]))
    assert drawn[-1] >= 20  # each went on, and none began anew
    assert list(counted) == sorted(counted)


def test_two_processes_do_what_one_does_and_draw_noise_once(result):
    assert result["codes"] == [0, 0, 0], result["errors"]
    home = result["home"]
    alone = load_file(home / "alone-0.safetensors")
    for rank in range(2):
        shared = load_file(home / f"pair-{rank}.safetensors")
        again = load_file(home / f"pair-again-{rank}.safetensors")
        for name, value in alone.items():
            np.testing.assert_allclose(shared[name], value, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(shared[name], again[name])
        told = [json.loads((home / f"{name}.json").read_text()) for name in ("alone-0", "pair-0")]
        assert told[0] == told[1] == json.loads((home / f"pair-{rank}.json").read_text())
    assert told[0] == [6, 6, 0.8, 0.1]
