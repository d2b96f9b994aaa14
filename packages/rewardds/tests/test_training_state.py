"""A training on disk: what it counts, what it goes on from, and what it refuses."""

import json
import shutil
import stat
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lipogram.errors import CorruptState, FolderInUse
from lipogram.files import locked
from lipogram.llm import tiny_random
from lipogram.llm.tuning import lora_config, prepare_lora
from rewardds import dp_trainer
from rewardds.dp_trainer import DPTrainer
from rewardds.errors import DataMismatch
from rewardds.losses import CausalLMLoss
from rewardds.rows import Row, Sequence
from rewardds.training_run import TrainingRun
from rewardds.training_state import rows_digest

RUN = TrainingRun(1.0, 20, 2, 6)


def adapted():
    model = tiny_random("llama", layers=1, width=16).model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return prepare_lora(model, lora_config(model, r=1), checkpointing=False)


def rows_of(n=20):
    return [Row(str(i), [Sequence([i, i + 1, i + 2], [True] * 3)]) for i in range(n)]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


def trained(folder, *, rows=None, run=RUN, **settings):
    model = adapted()
    settings = {"lr": 1e-2, "clip": 0.5, "save_every": 2, "unsafe_seed": 0} | settings
    made = DPTrainer(model, run, loss=CausalLMLoss(), folder=folder, **settings)
    return made.train(rows or rows_of()), model


def stopped_in(monkeypatch, folder, step):
    """A training whose noise cannot be drawn in that step."""
    drawn = []

    def failing(*args, **kwargs):
        drawn.append(1)
        if len(drawn) > (step - 1) * 14:  # two arrays for each of seven linear layers
            raise KeyboardInterrupt
        return dp_trainer_noise(*args, **kwargs)

    dp_trainer_noise = dp_trainer.add_gaussian
    monkeypatch.setattr(dp_trainer, "add_gaussian", failing)
    with pytest.raises(KeyboardInterrupt):
        trained(folder)
    monkeypatch.undo()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, trained(folder)[1]


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of a finished training."""
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


def additions(folder):
    return json.loads((folder / "count.json").read_text())["additions"]


def test_all_of_a_folder_is_for_the_user_alone(tmp_path):
    folder = tmp_path / "a" / "b"
    report, _ = trained(folder)
    assert report.noise_additions == additions(folder) == RUN.steps
    for path in folder.iterdir():
        if not path.name.endswith(".lock"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    log = [json.loads(line) for line in (folder / "private-log.jsonl").read_text().splitlines()]
    assert [each["addition"] for each in log] == [1, 2, 3, 4, 5, 6]


def test_a_finished_training_is_only_read(finished, folder):
    files = {path: path.read_bytes() for path in folder.iterdir()}
    report, again = trained(folder)
    assert report.noise_additions == RUN.steps
    assert torch.equal(weights(finished[1]), weights(again))
    assert {path: path.read_bytes() for path in folder.iterdir()} == files


def test_lost_steps_stay_counted_and_are_not_made_up_for(tmp_path, monkeypatch):
    stopped_in(monkeypatch, tmp_path, 4)
    assert additions(tmp_path) == 4  # on disk before the noise was drawn
    report, model = trained(tmp_path)
    assert report.noise_additions == additions(tmp_path) == RUN.steps
    log = [json.loads(line) for line in (tmp_path / "private-log.jsonl").read_text().splitlines()]
    assert [each["addition"] for each in log] == [1, 2, 3, 5, 6]
    assert not torch.equal(weights(model), weights(adapted()))


def test_parameters_and_moments_come_back_as_they_were(tmp_path, monkeypatch):
    stopped_in(monkeypatch, tmp_path, 5)  # saved behind 4, counted 5
    _, resumed = trained(tmp_path)
    _, whole = trained(tmp_path / "whole", run=TrainingRun(1.0, 20, 2, 4))
    model = adapted()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
    seen = []
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, *_: seen.append(
            [p.grad.clone() for p in optimizer.param_groups[0]["params"]]
        )
    )
    # The same noise as in the first four steps, and in the sixth: AdamW by hand over all five.
    other = tmp_path / "other"
    stopped_in(monkeypatch, other, 5)
    trained(other)
    handle.remove()
    assert len(seen) == 5
    for each in seen:
        for parameter, gradient in zip(parameters, each, strict=True):
            parameter.grad = gradient
        optimizer.step()
    torch.testing.assert_close(weights(model), weights(resumed), rtol=0, atol=1e-7)
    assert not torch.equal(weights(whole), weights(resumed))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"rows": rows_of(19)}, "records are not those"),
        ({"rows": rows_of()[::-1]}, "records are not those"),
        ({"rows": [*rows_of(19), Row("19", rows_of(20)[19].sequences, [])][1:] + rows_of(1)},
         "records are not those"),
        ({"clip": 1.0}, r"clip is 0\.5 in the folder, 1\.0 asked for"),
        ({"run": TrainingRun(0.5, 20, 2, 6)}, "sigma is 1.0 in the folder"),
        ({"run": TrainingRun(1.0, 20, 2, 60)}, "steps is 6 in the folder"),
        ({"unsafe_seed": None}, "seeded"),
    ],
)  # fmt: skip
def test_another_training_is_refused_and_nothing_is_touched(folder, settings, reason):
    files = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(DataMismatch, match=reason):
        trained(folder, **settings)
    assert {path: path.read_bytes() for path in folder.iterdir()} == files


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"additions": 3}', b"\xff"])
def test_a_count_that_cannot_be_read_is_not_begun_anew(folder, content):
    (folder / "count.json").write_bytes(content)
    with pytest.raises(CorruptState, match="how much noise"):
        trained(folder)
    assert (folder / "count.json").read_bytes() == content


def test_a_damaged_state_is_refused(folder):
    path = folder / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    model = adapted()
    made = DPTrainer(
        model, RUN, loss=CausalLMLoss(), lr=1e-2, clip=0.5, save_every=2, unsafe_seed=0,
        folder=folder,
    )  # fmt: skip
    with pytest.raises(CorruptState, match=r"state\.safetensors"):
        made.train(rows_of())
    assert torch.equal(weights(model), weights(adapted()))


def test_one_process_at_a_time(tmp_path):
    with locked(tmp_path / "count.json"), pytest.raises(FolderInUse, match="count"):
        trained(tmp_path)
    assert trained(tmp_path)[0].noise_additions == RUN.steps


def test_digests_are_keyed_and_see_everything():
    rows = rows_of(3)
    base = rows_digest(rows, b"k" * 32)
    row = rows[0]
    others = [
        rows_digest(rows, b"l" * 32),
        rows_digest([Row("x", row.sequences), *rows[1:]], b"k" * 32),
        rows_digest([Row("0", [Sequence([0, 1, 2], [True, True, False])]), *rows[1:]], b"k" * 32),
        rows_digest([Row("0", row.sequences * 2, [(0, 1)]), *rows[1:]], b"k" * 32),
        rows_digest([Row("0", row.sequences * 2), *rows[1:]], b"k" * 32),
    ]
    assert len({base, *others}) == 6
    assert base == rows_digest(rows_of(3), b"k" * 32)
