"""Runs from the first step to a model that loads, whatever happens between."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lipogram.errors import CorruptState, InvalidSetting, RunMismatch
from lipogram.runs import Run
from psfuture import models, p2f_targets, p2f_training
from psfuture.bergamot import BergamotBackend
from psfuture.bergamot_training import BergamotForTraining, BergamotPairTokenizer
from psfuture.hf_backend import HFBackend
from psfuture.p2f_losses import held_out_losses
from psfuture.p2f_settings import P2FSettings
from psfuture.p2f_targets import kept_translations, translations
from psfuture.p2f_training import train_p2f
from psfuture.prefix_draw import draw_prefix

from . import test_hf_backend as hf
from .marian_models import SYLLABLES, write_model
from .p2f_models import backend, pairs, tokenizer
from .p2f_run import SETTINGS
from .toy_backend import ToyBackend

pieces = hf.pieces
PICKLES = (".bin", ".pt", ".pth", ".pkl")


@pytest.fixture(autouse=True)
def no_pickle(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("torch.save or torch.load was called")

    monkeypatch.setattr(torch, "save", refuse)
    monkeypatch.setattr(torch, "load", refuse)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("straight") / "run"
    train_p2f(backend(), pairs(16), out, SETTINGS)
    return out


def model_bytes(out):
    return (out / "model" / "model.safetensors").read_bytes()


def losses(out):
    names = ("step", "loss", "full_loss", "prefix_loss", "grad_norm", "learning_rate")
    return [{name: event[name] for name in names} for event in Run.open(out).events("train")]


def test_a_run_leaves_a_model_that_loads_and_says_what_it_did(straight):
    summary = json.loads((straight / "summary.json").read_text())
    assert summary["steps"] == 9
    assert summary["pairs"] == 12
    assert summary["held_out"]["pairs"] == 4
    for name in ("full", "prefix"):
        assert summary["held_out"]["after"][name] != summary["held_out"]["before"][name]
    assert [event["step"] for event in losses(straight)] == [2, 4, 6, 8]
    config = Run.open(straight).config
    assert config["steps"] == 9
    assert config["model"] == backend().name
    loaded = models.load(straight / "model")
    assert loaded.source_ids(["w4"], closed=True) == [4, 2]
    assert not torch.equal(
        loaded.model.get_input_embeddings().weight, backend().model.get_input_embeddings().weight
    )
    files = [path for path in straight.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in PICKLES]
    assert not (straight / "checkpoints").exists()


def test_killed_at_any_instant_it_goes_on_bit_for_bit(straight, tmp_path):
    out = tmp_path / "run"
    script = Path(__file__).with_name("p2f_run.py")
    process = subprocess.Popen([sys.executable, script, out], start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while not (out / "checkpoints" / "checkpoint-2" / "trainer_state.json").exists():
            assert process.poll() is None, "it ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (out / "summary.json").exists()
    torch.manual_seed(99)  # what came before must not matter
    train_p2f(backend(), pairs(16), out, SETTINGS)
    assert model_bytes(out) == model_bytes(straight)
    assert losses(out) == losses(straight)


@pytest.mark.parametrize("step", [1, 5])
def test_stopped_by_a_fault_it_goes_on_bit_for_bit(straight, tmp_path, monkeypatch, step):
    """Before the first checkpoint, and behind the second one."""
    out = tmp_path / "run"

    def fail(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(p2f_training._Events, "on_step_begin", fail, raising=False)
        with pytest.raises(OSError, match="No space"):
            train_p2f(backend(), pairs(16), out, SETTINGS)
    began, inner = [], p2f_training._Events.on_train_begin

    def note(self, args, state, control, **kwargs):
        began.append(state.global_step)
        inner(self, args, state, control, **kwargs)

    monkeypatch.setattr(p2f_training._Events, "on_train_begin", note)
    train_p2f(backend(), pairs(16), out, SETTINGS)
    assert began == [step - step % SETTINGS.save_every]
    assert model_bytes(out) == model_bytes(straight)
    assert losses(out) == losses(straight)


def test_a_finished_run_is_not_trained_again(straight, monkeypatch):
    monkeypatch.setattr(p2f_training, "P2FTrainer", None)
    summary = train_p2f(backend(), pairs(16), straight, SETTINGS)
    assert summary == json.loads((straight / "summary.json").read_text())


@pytest.mark.parametrize(
    ("settings", "data", "name"),
    [
        (replace(SETTINGS, steps=10), pairs(16), "steps"),
        (SETTINGS, pairs(17), "pairs"),
    ],
)
def test_another_run_does_not_take_over_a_folder(straight, settings, data, name):
    before = model_bytes(straight)
    with pytest.raises(RunMismatch, match=name):
        train_p2f(backend(), data, straight, settings)
    assert model_bytes(straight) == before


@pytest.mark.parametrize("kind", list(hf.CODES))
def test_a_multilingual_model_learns_what_its_decoder_is_asked(kind, pieces, tmp_path):
    """Behind the language that the backend forces come the target and its end."""
    model, tokenizer = hf.multilingual(kind, pieces, tmp_path)
    source, target = hf.CODES[kind]
    backend = HFBackend(model, tokenizer, src_lang=source, tgt_lang=target)
    _, ids = p2f_training._trainable(backend, P2FSettings())
    body = tokenizer("the cat", add_special_tokens=False)["input_ids"]
    labels = ids.target_ids("the cat")
    seen = []
    model.get_decoder().register_forward_pre_hook(
        lambda _, args, named: seen.extend(named["input_ids"].tolist()), with_kwargs=True
    )
    model(input_ids=torch.tensor([[5, 2]]), labels=torch.tensor([labels]))
    inputs = seen[-1]
    start = list(backend.direction.start)
    assert inputs[: len(start + body)] == start + body
    assert labels[len(start) - 1 :][: len(body) + 1] == [*body, backend.eos]
    for closed in (True, False):
        wanted = backend.source_ids(["the", "cat"], closed=closed)
        assert ids.source_ids(["the", "cat"], closed=closed) == wanted


@pytest.mark.parametrize("objective", ["p2f", "ce", "multipath"])
def test_a_bergamot_model_is_trained_and_loads(tmp_path, objective):
    write_model(tmp_path, "ssru")
    data = [(f"{a} {b} {a}", f"{b} {a}") for a in SYLLABLES[:6] for b in SYLLABLES[6:]]
    settings = replace(SETTINGS, objective=objective, freeze_embeddings=True, targets="reference")
    spec, out = f"bergamot:{tmp_path}", tmp_path / "run"
    summary = train_p2f(spec, data, out, settings)
    before, after = BergamotBackend.load(tmp_path), models.load(f"bergamot:{out / 'model'}")
    for name, value in before.network.weights().items():
        assert torch.equal(after.network.weights()[name], value) == (name == "Wemb")
    found = held_out_losses(BergamotForTraining(after), BergamotPairTokenizer(after), data[-4:])
    assert found == pytest.approx(summary["held_out"]["after"])
    logged = Run.open(out).events("train")[-1]
    assert ("prefix_loss" in logged) == (objective == "p2f")


def test_pairs_that_do_not_fit_are_left_out_and_counted(tmp_path):
    odd = [("", "w4"), ("w4", "  "), (" ".join(["w4"] * 30), "w5"), ("w6", " ".join(["w4"] * 30))]
    settings = replace(SETTINGS, longest=20, steps=2, targets="reference")
    summary = train_p2f(backend(), odd + pairs(16), tmp_path / "run", settings)
    assert summary["left_out"] == 4


def test_too_few_pairs_and_models_that_cannot_be_trained_are_refused(tmp_path):
    with pytest.raises(InvalidSetting, match="4 pairs that fit, of which 4 are held out"):
        train_p2f(backend(), pairs(4), tmp_path / "run", SETTINGS)
    with pytest.raises(InvalidSetting, match="ToyBackend cannot be trained"):
        train_p2f(ToyBackend(), pairs(16), tmp_path / "run", SETTINGS)
    assert not (tmp_path / "run").exists()


def test_a_model_that_says_nothing_cannot_be_its_own_teacher(tmp_path, monkeypatch):
    monkeypatch.setattr(
        p2f_targets, "translations", lambda model, sources, unit: [""] * len(sources)
    )
    with pytest.raises(InvalidSetting, match="none of 12 sources"):
        train_p2f(backend(), pairs(16), tmp_path / "run", SETTINGS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("objective", "dpo"),
        ("targets", "none"),
        ("steps", 0),
        ("steps", 2.5),
        ("weight", -1.0),
        ("weight", float("nan")),
        ("full_loss", 1),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("warmup", 1.0),
        ("tokens", 0),
        ("longest", 0),
        ("prefix_dist", "fraction:2"),
        ("prefix_eos", "yes"),
        ("unit", "byte"),
        ("unidirectional", True),
        ("held_out", -1),
        ("save_every", 0),
        ("log_every", 0),
        ("threads", 0),
        ("seed", -1),
    ],
)
def test_bad_settings_are_refused_by_name(name, value):
    with pytest.raises(InvalidSetting, match=f"{name}|neither word nor char"):
        P2FSettings(**{name: value})


def greedy(model, source):
    """One token after another, each from scratch."""
    target, ids = [], model.source_ids(source.split(), closed=True)
    for _ in range(round(2.5 * len(ids)) + 5):
        _, logits = model.begin(model.encode([ids]), [target])
        token = int(logits.argmax())
        if token == model.eos:
            break
        target.append(token)
    return model.target_text(target)


def test_own_targets_are_greedy_translations(monkeypatch):
    monkeypatch.setattr(p2f_targets, "ROWS", 3)
    model = backend()
    sources = [source for source, _ in pairs(8)]
    found = translations(model, sources)
    assert found == [greedy(model, source) for source in sources]
    assert len({len(text.split()) for text in found}) > 1


def test_own_targets_are_kept_and_taken_up_again(tmp_path, monkeypatch):
    monkeypatch.setattr(p2f_targets, "CHUNK", 3)
    model, path = backend(), tmp_path / "targets.jsonl"
    sources = [source for source, _ in pairs(8)]
    done = []
    expected = kept_translations(model, sources, path, progress=done.append)
    assert sum(done) == 8
    whole = path.read_bytes()
    torn = whole[: len(whole) // 2]
    assert not torn.endswith(b"\n")
    path.write_bytes(torn)
    assert kept_translations(model, sources, path) == expected
    assert path.read_bytes() == whole
    monkeypatch.setattr(p2f_targets, "translations", None)
    assert kept_translations(model, sources, path) == expected
    with pytest.raises(CorruptState, match="line 1 is of another source"):
        kept_translations(model, sources[1:], path)
    assert path.read_bytes() == whole


def test_held_out_losses_are_those_by_hand():
    model, tokens, data = backend().model, tokenizer(), pairs(7)
    found = held_out_losses(model.train(), tokens, data, seed=5)
    assert not model.training
    sums, count = {"full": 0.0, "prefix": 0.0}, 0
    for index, (source, target) in enumerate(data):
        words = source.split()
        j = draw_prefix("uniform", len(words), 1, f"5:0:{index}")
        labels = tokens(target, return_tensors="pt")["input_ids"]
        for name, text in (("full", source), ("prefix", " ".join(words[:j]))):
            inputs = tokens(text, return_tensors="pt")
            with torch.no_grad():
                logits = model(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    labels=labels,
                ).logits[0]
            logps = logits.double().log_softmax(-1)
            sums[name] -= sum(float(logps[at, token]) for at, token in enumerate(labels[0]))
        count += labels.shape[1]
    assert found["full"] == pytest.approx(sums["full"] / count, abs=1e-6)
    assert found["prefix"] == pytest.approx(sums["prefix"] / count, abs=1e-6)
    assert held_out_losses(model, tokens, []) == {"full": None, "prefix": None}
