import shutil

import pytest
import torch

from ftunlearn.trainer import UnlearnTrainer
from ftunlearn.unlearn_config import UnlearnConfig
from ftunlearn.unlearning import unlearn
from lipogram.errors import CorruptState
from lipogram.llm.tiny import tiny_random
from lipogram.llm.trainer_checkpoints import last_checkpoint
from lipogram.llm.tuning import lora_config

FORGET = [(f"A{i} is", f" {i * 37}") for i in range(5)]
RETAIN = [(f"B{i} is", f" {i * 53}") for i in range(3)]
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


@pytest.fixture(autouse=True)
def no_pickle(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("torch.save or torch.load was called")

    monkeypatch.setattr(torch, "save", refuse)
    monkeypatch.setattr(torch, "load", refuse)


def trainer(folder, lora=False, model_type="llama", method="npo", **settings):
    settings = {
        "output_dir": str(folder),
        "method": method,
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 3,
        "per_device_train_batch_size": 2,  # 3 batches an epoch, so step 4 begins the second
        "learning_rate": 1e-3,
    } | settings
    loaded = tiny_random(model_type, layers=2, width=16)
    return UnlearnTrainer(
        loaded.model,
        UnlearnConfig(**settings),
        {"forget": FORGET, "retain": RETAIN},
        loaded.tokenizer,
        peft_config=lora_config(loaded.model, r=2, dropout=0.2) if lora else None,
    )


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def history(trainer):
    times = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss")
    return [
        {k: v for k, v in entry.items() if k not in times} for entry in trainer.state.log_history
    ]


@pytest.mark.parametrize(
    ("lora", "model_type", "method", "save_steps"),
    [
        (False, "llama", "npo", 3),
        (True, "llama", "graddiff", 3),
        (True, "llama", "graddiff", 2),
        (False, "gpt2", "dpo", 2),
    ],
    ids=["full", "lora, dropout", "lora, dropout, within an epoch", "gpt2, dropout"],
)
def test_resumed_is_straight_bit_for_bit(tmp_path, lora, model_type, method, save_steps):
    kind = {"lora": lora, "model_type": model_type, "method": method, "save_steps": save_steps}
    straight = trainer(tmp_path / "a", **kind)
    straight.train()
    torch.manual_seed(99)  # what came before must not matter
    resumed = trainer(tmp_path / "b", **kind)
    resumed.train(str(tmp_path / "a" / f"checkpoint-{save_steps}"))
    assert resumed.state.global_step == 6
    expected, found = weights(straight), weights(resumed)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert history(resumed)[: len(history(straight))] == history(straight)


def test_nothing_on_disk_is_a_pickle(tmp_path):
    for lora in (False, True):
        trainer(tmp_path / str(lora), lora).train()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in PICKLES]
    # Pickles and torch's archives begin with these.
    assert not [p for p in files if p.read_bytes()[:2] in (b"\x80\x02", b"\x80\x04", b"PK")]
    assert {p.name for p in (tmp_path / "False" / "checkpoint-6").iterdir()} >= {
        "model.safetensors",
        "optimizer.json",
        "optimizer.safetensors",
        "random.json",
        "random.safetensors",
        "scheduler.json",
        "tokenizer.json",
        "trainer_state.json",
        "training_args.json",
    }


def test_a_checkpoint_cut_off_in_writing_is_passed_over(tmp_path, monkeypatch):
    straight = trainer(tmp_path / "a", save_steps=2)
    straight.train()
    folder = tmp_path / "b"
    for step in (2, 4):
        shutil.copytree(tmp_path / "a" / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    state = folder / "checkpoint-4" / "trainer_state.json"
    state.write_text(state.read_text()[:40])
    assert last_checkpoint(folder) == str(folder / "checkpoint-2")
    resumed = trainer(folder, save_steps=2)
    resumed.train(True)
    expected, found = weights(straight), weights(resumed)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_checkpoint_written_over_is_not_whole_meanwhile(tmp_path, monkeypatch):
    first = trainer(tmp_path, max_steps=3)
    first.train()
    again = trainer(tmp_path, max_steps=3)

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(again, "_save_optimizer_and_scheduler", full)
    with pytest.raises(OSError, match="No space"):
        again.train()
    with pytest.raises(CorruptState, match="no whole checkpoint"):
        last_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("trainer_state.json", b"{", "is not JSON"),
        ("trainer_state.json", None, "is missing"),
        ("model.safetensors", None, "weights in safetensors"),
        ("optimizer.safetensors", None, "lacks optimizer.safetensors"),
        ("optimizer.safetensors", b"\x80\x04junk", "cannot be read"),
        ("optimizer.json", b"[]", "must hold an object"),
        ("random.safetensors", None, "cannot be read"),
    ],
)
def test_a_spoiled_checkpoint_is_refused(tmp_path, name, content, message):
    trainer(tmp_path / "a", max_steps=3).train()
    folder = tmp_path / "a" / "checkpoint-3"
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(CorruptState, match=message):
        trainer(tmp_path / "b").train(str(folder))


def test_an_interrupted_call_goes_on(tmp_path):
    def run(folder, **more):
        loaded = tiny_random(layers=2, width=16)
        settings = UnlearnConfig(
            output_dir=str(folder), max_steps=6, save_strategy="steps", save_steps=3,
            per_device_train_batch_size=2, learning_rate=1e-3,
        )  # fmt: skip
        return unlearn(loaded, None, FORGET, RETAIN, settings, **more)

    straight = run(tmp_path / "a")
    shutil.copytree(tmp_path / "a" / "checkpoint-3", tmp_path / "b" / "checkpoint-3")
    resumed = run(tmp_path / "b", resume=True)
    a, b = straight.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert resumed.forget_prob == straight.forget_prob
    assert resumed.log == straight.log
