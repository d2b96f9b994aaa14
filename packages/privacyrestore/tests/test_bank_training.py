"""Only the vectors change; the loss falls; a killed run ends as one that was not."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lipogram.errors import CorruptState, InvalidProbes, InvalidSetting, NotFinite, RunMismatch
from lipogram.llm.text_metrics import rouge_l
from privacyrestore.bank_training import CHECKPOINT, REPORT, train_bank
from privacyrestore.errors import BankMismatch
from privacyrestore.restoration import Restoration
from privacyrestore.restored_rows import (
    learnt_answers,
    packed,
    row_losses,
    signals,
    span_shares,
)
from privacyrestore.training_objective import orpo_lm_loss
from privacyrestore.training_rows import TrainingRow

from .bank_rows import SPANS, a_bank, a_config, small, some_rows


def losses_of(model, tokenizer, rows, bank, config, vectors=None, detach=None):
    restoration = Restoration(model, bank, detach=config.detach if detach is None else detach)
    held = [
        packed(model, tokenizer, row, learnt_answers(row, config), config, i)
        for i, row in enumerate(rows)
    ]
    chosen = bank.vectors if vectors is None else vectors
    restoration.set(signals(chosen, span_shares(rows, bank).to(chosen)))
    with restoration.attach():
        return row_losses(model, held, 0, config)


@pytest.mark.parametrize("objective", ["orpo-lm", "gold"])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("rule", ["additive", "quadratic"])
def test_the_loss_falls_and_the_model_stays(objective, detach, rule):
    model, tokenizer = small()
    model.train()
    model.lm_head.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bank = a_bank(model, rule=rule, gamma=0.5 if rule == "additive" else 5.0)
    config = a_config(objective=objective, detach=detach, epochs=6)
    trained = train_bank(model, tokenizer, some_rows(), bank, config)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert not model.lm_head.weight.requires_grad
    assert model.model.norm.weight.requires_grad
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert (trained.sites, trained.rule, trained.gamma) == (bank.sites, bank.rule, bank.gamma)
    assert trained.sha256 != bank.sha256
    model.eval()
    with torch.no_grad():
        first = losses_of(model, tokenizer, some_rows(), bank, config).mean()
        last = losses_of(model, tokenizer, some_rows(), trained, config).mean()
    assert float(last) < float(first) - 0.1


def test_the_objective_is_computed_of_the_restored_model_and_nothing_else():
    model, tokenizer = small()
    bank, config, row = a_bank(model), a_config(), some_rows()[1]
    prompt = config.template.prompt(tokenizer, row.question_removed)
    means = []
    signal_ = bank.signal(row.span_ids, row.weights).float()
    restoration = Restoration(model, bank)
    restoration.set(signal_[None])
    with torch.no_grad(), restoration.attach():
        for answer in (row.preferred, row.rejected, row.answer):
            ids = tokenizer(prompt + answer)["input_ids"]
            logps = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            start = len(tokenizer(prompt)["input_ids"])
            each = [float(logps[at - 1, ids[at]]) for at in range(start, len(ids))]
            means.append(torch.tensor([sum(each) / len(each)]))
    with torch.no_grad():
        ours = losses_of(model, tokenizer, [row], bank, config)
    assert float(ours) == pytest.approx(float(orpo_lm_loss(*means)), rel=1e-5)


@pytest.mark.parametrize("rule", ["additive", "quadratic"])
def test_the_whole_gradient_is_that_of_finite_differences(rule):
    model, tokenizer = small()
    model = model.double().requires_grad_(False)
    bank = a_bank(model, rule=rule)
    config, rows = a_config(), some_rows()[:3]
    vectors = bank.vectors.double().requires_grad_()

    def loss(at, detach=False):
        return losses_of(model, tokenizer, rows, bank, config, at, detach).sum()

    # The scores are float32 by design, so steps are large and two-sided.
    whole = torch.autograd.grad(loss(vectors), vectors)[0]
    draw = torch.Generator().manual_seed(1)
    for _ in range(4):
        way = torch.randn(vectors.shape, generator=draw, dtype=torch.float64)
        with torch.no_grad():
            slope = (loss(vectors + 1e-3 * way) - loss(vectors - 1e-3 * way)) / 2e-3
        assert float(slope) == pytest.approx(float((whole * way).sum()), rel=2e-2, abs=2e-2)
    cut = torch.autograd.grad(loss(vectors, detach=True), vectors)[0]
    assert torch.equal(loss(vectors, detach=True).detach(), loss(vectors).detach())
    assert float((cut - whole).norm()) > 1e-2 * float(whole.norm())


def test_rows_without_spans_train_nothing():
    model, tokenizer = small()
    bank = a_bank(model)
    rows = [replace(row, span_ids=(), weights=None) for row in some_rows(4)]
    trained = train_bank(model, tokenizer, rows, bank, a_config(weight_decay=0.0, epochs=1))
    assert torch.equal(trained.vectors, bank.vectors)


def test_every_row_counts_once_an_epoch_and_the_cosine_ends():
    model, tokenizer = small()
    events = []
    config = a_config(objective="gold", batch_size=3, accumulation=2, epochs=2)
    rows = some_rows(10)
    bank = a_bank(model)
    train_bank(model, tokenizer, rows, bank, config, on_event=events.append)
    assert [event["step"] for event in events] == [1, 2, 3, 4]
    rates = [event["learning_rate"] for event in events]
    assert rates == [config.rate(step, 4) for step in range(4)]
    assert rates[0] == config.learning_rate
    assert config.rate(4, 4) == pytest.approx(0, abs=1e-15)
    # At a rate of nothing the losses of an epoch, weighted by rows, are the mean over all rows.
    still = a_config(objective="gold", batch_size=3, accumulation=2, epochs=1, learning_rate=1e-30)
    events.clear()
    train_bank(model, tokenizer, rows, bank, still, on_event=events.append)
    with torch.no_grad():
        wanted = float(losses_of(model, tokenizer, rows, bank, still).mean())
    assert (6 * events[0]["loss"] + 4 * events[1]["loss"]) / 10 == pytest.approx(wanted, rel=1e-5)


def test_batch_and_accumulation_are_one_thing():
    model, tokenizer = small()
    bank = a_bank(model)
    split = [(6, 1), (3, 2), (1, 6)]
    found = [
        train_bank(
            model, tokenizer, some_rows(), bank, a_config(batch_size=b, accumulation=a, epochs=1)
        ).vectors
        for b, a in split
    ]
    assert float((found[0] - found[1]).abs().max()) < 1e-4
    assert float((found[0] - found[2]).abs().max()) < 1e-4


def test_the_best_measurement_is_returned_and_patience_ends_everything():
    model, tokenizer = small()
    events = []
    rows = some_rows()
    config = a_config(learning_rate=1000.0, epochs=50, metric="loss", patience=2, eval_every=1)
    bank = a_bank(model)
    trained = train_bank(
        model, tokenizer, rows, bank, config, held_out=rows[:5], on_event=events.append
    )
    measured = [event["metric"] for event in events if "metric" in event]
    assert len(measured) < 60
    assert min(measured) == measured[-3]
    with torch.no_grad():
        again = float(losses_of(model, tokenizer, rows[:5], trained, config).mean())
    assert again == pytest.approx(min(measured), rel=1e-5)


def test_mc1_and_rouge_are_those_of_one_row_at_a_time():
    model, tokenizer = small()
    bank, rows = a_bank(model), some_rows(7)
    events = []
    for metric in ("mc1", "rouge-l"):
        config = a_config(
            metric=metric, epochs=1, learning_rate=1e-30, batch_size=3, max_new_tokens=5
        )
        train_bank(model, tokenizer, rows, bank, config, held_out=rows, on_event=events.append)
    mc1, rouge = (e["metric"] for e in events if e["step"] == 0)
    hits, overlaps = 0, []
    restoration = Restoration(model, bank)
    for row in rows:
        restoration.set(bank.signal(row.span_ids, row.weights).float()[None])
        prompt = config.template.prompt(tokenizer, row.question_removed)
        with torch.no_grad(), restoration.attach():
            start = torch.tensor([tokenizer(prompt)["input_ids"]])
            scores = []
            for option in row.options:
                ids = torch.tensor([tokenizer(prompt + option)["input_ids"]])
                logps = model(ids).logits[0].log_softmax(-1)
                span = range(start.shape[1], ids.shape[1])
                scores.append(sum(float(logps[at - 1, ids[0, at]]) for at in span))
            said = model.generate(
                start, max_new_tokens=5, do_sample=False, attention_mask=torch.ones_like(start)
            )
        best = max(range(4), key=scores.__getitem__)
        hits += row.options[best] == row.answer
        text = tokenizer.decode(said[0, start.shape[1] :], skip_special_tokens=True)
        overlaps.append(rouge_l(text, row.preferred).f1)
    assert mc1 == hits / 7
    assert rouge == pytest.approx(sum(overlaps) / 7)


def test_a_finished_run_is_read_and_another_is_refused(tmp_path):
    model, tokenizer = small()
    rows, bank, config = some_rows(), a_bank(model), a_config()
    first = train_bank(model, tokenizer, rows, bank, config, folder=tmp_path, held_out=rows[:4])
    events = []
    again = train_bank(
        model,
        tokenizer,
        rows,
        bank,
        config,
        folder=tmp_path,
        held_out=rows[:4],
        on_event=events.append,
    )
    assert again.sha256 == first.sha256
    assert events == []
    report = json.loads((tmp_path / REPORT).read_bytes())
    assert report["steps"] == 9
    assert len(report["history"]) == 9 + 4
    content = (tmp_path / CHECKPOINT).read_bytes()
    others = (
        {"config": replace(config, seed=1)},
        {"rows": rows[1:]},
        {"bank": a_bank(model, seed=1)},
    )
    for other in others:
        given = {"rows": rows, "bank": bank, "config": config} | other
        with pytest.raises(RunMismatch, match="another folder"):
            train_bank(model, tokenizer, **given, folder=tmp_path, held_out=rows[:4])
    assert (tmp_path / CHECKPOINT).read_bytes() == content
    for broken in (content[:-5], b"", b"\x80\x04K\x01."):
        (tmp_path / CHECKPOINT).write_bytes(broken)
        with pytest.raises(CorruptState, match="no checkpoint"):
            train_bank(model, tokenizer, rows, bank, config, folder=tmp_path, held_out=rows[:4])


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from privacyrestore.bank_training import train_bank
from bank_rows import a_bank, a_config, small, some_rows
model, tokenizer = small()
def die(event):
    if "loss" in event and event["step"] == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
train_bank(model, tokenizer, some_rows(), a_bank(model), a_config(), folder=sys.argv[1],
           held_out=some_rows(5), on_event=die)
"""


def cut_off(way, folder):
    """Train in `folder` and stop in step 5, by an exception or by SIGKILL in a process."""
    if way == "kill":
        command = [sys.executable, "-c", CHILD, str(folder), "5", str(Path(__file__).parent)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, check=False, capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
        return
    model, tokenizer = small()

    def stop(event):
        if event["step"] == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_bank(
            model,
            tokenizer,
            some_rows(),
            a_bank(model),
            a_config(),
            folder=folder,
            held_out=some_rows(5),
            on_event=stop,
        )


@pytest.mark.parametrize("way", ["raise", pytest.param("kill", marks=pytest.mark.slow)])
def test_runs_that_were_cut_off_end_the_same_to_the_bit(tmp_path, way):
    model, tokenizer = small()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = train_bank(
            model,
            tokenizer,
            some_rows(),
            a_bank(model),
            a_config(),
            folder=tmp_path / "whole",
            held_out=some_rows(5),
        )
        cut = tmp_path / "cut"
        cut_off(way, cut)
        assert (cut / CHECKPOINT).exists()
        events = []
        resumed = train_bank(
            model,
            tokenizer,
            some_rows(),
            a_bank(model),
            a_config(),
            folder=cut,
            held_out=some_rows(5),
            on_event=events.append,
        )
    finally:
        torch.set_num_threads(threads)
    assert events[0]["step"] == 5  # the checkpoint is of step 4
    assert torch.equal(resumed.vectors, whole.vectors)
    # The best vectors may be early ones: the checkpoints hold the last, the moments and the rest.
    ours, theirs = load_file(cut / CHECKPOINT), load_file(tmp_path / "whole" / CHECKPOINT)
    assert set(ours) == {"vectors", "best", "step", "exp_avg", "exp_avg_sq"}
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert (cut / REPORT).read_bytes() == (tmp_path / "whole" / REPORT).read_bytes()
    history = json.loads((cut / REPORT).read_bytes())["history"]
    assert [entry["step"] for entry in history if "loss" in entry] == list(range(1, 10))


WORKER = """
import sys
sys.path.insert(0, sys.argv[2])
from safetensors.torch import save_file
from privacyrestore.bank_training import train_bank
from bank_rows import a_bank, a_config, small, some_rows
import torch.distributed as dist
model, tokenizer = small()
events = []
config = a_config(batch_size=2, accumulation=2, epochs=2)
trained = train_bank(model, tokenizer, some_rows(11), a_bank(model), config,
                     held_out=some_rows(5), on_event=events.append)
measured = [event["metric"] for event in events if "metric" in event]
import torch
save_file({"vectors": trained.vectors, "measured": torch.tensor(measured)},
          f"{sys.argv[1]}/{dist.get_rank()}.safetensors")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    root = Path(__file__).parent
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), str(root)],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        said = [worker.communicate(timeout=120)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], said
    model, tokenizer = small()
    events = []
    config = a_config(batch_size=2, accumulation=2, epochs=2)
    alone = train_bank(
        model,
        tokenizer,
        some_rows(11),
        a_bank(model),
        config,
        held_out=some_rows(5),
        on_event=events.append,
    )
    parts = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(2)]
    assert torch.equal(parts[0]["vectors"], parts[1]["vectors"])
    assert float((parts[0]["vectors"] - alone.vectors).abs().max()) < 1e-4
    measured = [event["metric"] for event in events if "metric" in event]
    assert parts[0]["measured"].tolist() == pytest.approx(measured, abs=1e-6)


def test_rows_that_do_not_fit_are_refused(tmp_path):
    model, tokenizer = small()
    bank, good = a_bank(model), some_rows(4)

    def refused(error, match, row=None, held=(), rows=None, **settings):
        given = [*good, row] if row else good
        with pytest.raises(error, match=match):
            train_bank(
                model,
                tokenizer,
                given if rows is None else rows,
                bank,
                a_config(**settings),
                held_out=held,
                folder=tmp_path / "run",
            )
        assert not (tmp_path / "run").exists()
        assert all(parameter.requires_grad for parameter in model.parameters())

    refused(InvalidSetting, "no rows", rows=[])
    refused(InvalidSetting, "row 4 names a span", replace(good[0], span_ids=(4,)))
    refused(InvalidSetting, "row 4 needs one positive", replace(good[0], weights=(0.0, 1.0)))
    refused(InvalidSetting, "row 4 needs one positive", replace(good[0], weights=(1.0,)))
    refused(InvalidSetting, "row 4 lacks the model's own", replace(good[0], rejected=None))
    refused(InvalidProbes, "row 4: an answer has no", replace(good[0], answer=""))
    refused(InvalidProbes, "row 4 has 5", replace(good[0], preferred="x" * 520))
    refused(InvalidSetting, "held-out row 0", held=[replace(good[0], options=())])
    bare = [TrainingRow("case", (0,), " flu")]
    refused(InvalidSetting, "held-out row 0", held=bare, metric="rouge-l")
    refused(InvalidSetting, "row 0 lacks", held=bare, metric="loss")
    other, _ = small(width=64)
    with pytest.raises(BankMismatch, match="head_dim"):
        train_bank(other, tokenizer, good, bank, a_config())


def test_settings_out_of_range_are_refused():
    for bad in (
        {"objective": "dpo"},
        {"metric": "bleu"},
        {"epochs": 0},
        {"batch_size": True},
        {"patience": 0},
        {"learning_rate": 0.0},
        {"alpha": math.nan},
    ):
        with pytest.raises(InvalidSetting, match=next(iter(bad))):
            a_config(**bad)


def test_a_loss_that_is_not_finite_ends_training_and_leaves_the_checkpoint(tmp_path):
    model, tokenizer = small()
    config = a_config(save_every=1)

    def poison(event):
        if event["step"] == 2:
            with torch.no_grad():
                model.lm_head.weight[0, 0] = math.inf

    with pytest.raises(NotFinite, match="step 3"):
        train_bank(
            model,
            tokenizer,
            some_rows(),
            a_bank(model),
            config,
            folder=tmp_path,
            on_event=poison,
        )
    assert (tmp_path / CHECKPOINT).exists()
    assert len(SPANS) == 4
