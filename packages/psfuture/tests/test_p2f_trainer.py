"""The loss by hand, and what it must be equal to."""

import math

import pytest
import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from lipogram.errors import InvalidSetting, NotFinite
from lipogram.llm.trainer_checkpoints import last_checkpoint
from lipogram.llm.tuning import training_args
from psfuture.bergamot import BergamotBackend
from psfuture.bergamot_training import BergamotForTraining, BergamotPairTokenizer
from psfuture.multipath import draw_k, reading
from psfuture.p2f_batches import P2FCollator, examples_of
from psfuture.p2f_trainer import P2FTrainer

from .marian_models import write_model
from .p2f_models import marian, pairs, tokenizer

STILL = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}


def arguments(folder, **more):
    settings = {
        "output_dir": str(folder),
        "max_steps": 3,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 4,
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    return training_args(Seq2SeqTrainingArguments, **settings | more)


def trainer(folder, model=None, data=None, args=None, **more):
    return P2FTrainer(
        model or marian(),
        arguments(folder, **args or {}),
        train_dataset=data or examples_of(pairs()),
        processing_class=tokenizer(),
        **more,
    )


def by_hand(model, ids, mask, labels):
    """Mean of -log p of the labels, in float64, a token at a time."""
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, labels=labels).logits.double()
    found = []
    for row, gold in enumerate(labels.tolist()):
        for at, token in enumerate(gold):
            if token != -100:
                shifted = logits[row, at] - logits[row, at].max()
                found.append(float(shifted.exp().sum().log() - shifted[token]))
    return sum(found) / len(found)


@pytest.mark.parametrize("weight", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("kind", ["marian", "bergamot"])
def test_the_loss_is_the_one_by_hand(tmp_path, kind, weight):
    if kind == "marian":
        run = trainer(tmp_path, marian(**STILL), p2f_weight=weight)
        batch = run.data_collator(examples_of(pairs(5)))
    else:
        write_model(tmp_path, "ssru")
        backend = BergamotBackend.load(tmp_path)
        run = P2FTrainer(
            BergamotForTraining(backend),
            arguments(tmp_path / "run"),
            train_dataset=[("ba de", "fi go")],
            processing_class=BergamotPairTokenizer(backend),
            p2f_weight=weight,
        )
        batch = run.data_collator([("ba de fi go lu", "me na"), ("po ri", "su ta vo ba")])
    model, labels = run.model.eval(), batch["labels"]
    full = by_hand(model, batch["input_ids"], batch["attention_mask"], labels)
    cut = by_hand(model, batch["prefix_input_ids"], batch["prefix_attention_mask"], labels)
    loss = run.compute_loss(model, batch)
    assert float(loss.detach()) == pytest.approx(full + weight * cut, abs=1e-6)
    assert abs(full - cut) > 1e-4
    double = run.compute_loss(model, batch, num_items_in_batch=2 * labels.ne(-100).sum())
    assert float(double.detach()) == pytest.approx((full + weight * cut) / 2, abs=1e-6)


def test_prefixes_alone(tmp_path):
    run = trainer(tmp_path, marian(**STILL), full_loss=False, p2f_weight=0.5)
    batch = run.data_collator(examples_of(pairs(5)))
    names = ("prefix_input_ids", "prefix_attention_mask", "labels")
    cut = by_hand(run.model.eval(), *(batch[name] for name in names))
    assert float(run.compute_loss(run.model, batch).detach()) == pytest.approx(cut / 2, abs=1e-6)


def test_a_prefix_that_is_the_whole_source_costs_twice(tmp_path):
    run = trainer(tmp_path, marian(**STILL), prefix_dist="fraction:1", prefix_eos=False)
    batch = run.data_collator(examples_of(pairs(5)))
    whole = by_hand(
        run.model.eval(), *(batch[n] for n in ("input_ids", "attention_mask", "labels"))
    )
    assert float(run.compute_loss(run.model, batch).detach()) == pytest.approx(2 * whole, abs=1e-6)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(one, two):
    return all(torch.equal(one[name], value) for name, value in two.items())


def test_without_prefixes_it_is_plain_training_bit_for_bit(tmp_path):
    """Dropout included: no second pass draws from its generator."""
    ours = trainer(tmp_path, p2f_weight=0.0)
    ours.train()
    collator = P2FCollator(tokenizer())
    names = ("input_ids", "attention_mask", "labels")
    plain = Seq2SeqTrainer(
        marian(),
        arguments(tmp_path),
        train_dataset=examples_of(pairs()),
        data_collator=lambda examples: {name: collator(examples)[name] for name in names},
    )
    plain.train()
    assert equal(weights(ours.model), weights(plain.model))
    assert not equal(weights(ours.model), weights(marian()))


def test_any_trainer_computes_half_of_it_from_stacked_rows(tmp_path):
    examples = examples_of(pairs(5))
    model = marian(**STILL).eval()
    ours = trainer(tmp_path, model)
    batch = P2FCollator(tokenizer(), stacked=True, seed=ours.args.seed)(examples)
    double = ours.compute_loss(model, ours.data_collator(examples))
    half = model(**batch).loss
    assert float(half.detach()) == pytest.approx(float(double.detach()) / 2, abs=1e-6)


def test_batches_accumulated_are_one_batch(tmp_path):
    """Of different numbers of tokens: each token of a step weighs the same."""
    some = examples_of(pairs(8))
    once = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0}
    whole = trainer(tmp_path, marian(**STILL), [some], once)
    whole.train()
    apart = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    parts = trainer(tmp_path, marian(**STILL), some, once | apart)
    parts.train()
    expected, before = weights(whole.model), weights(marian(**STILL))
    for name, value in weights(parts.model).items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5)
    assert not equal(expected, before)
    for name in ("full_loss", "prefix_loss", "loss"):
        one, other = (run.state.log_history[0][name] for run in (whole, parts))
        assert one == pytest.approx(other, abs=1e-4)


def test_the_logs_hold_both_parts_a_token(tmp_path):
    run = trainer(tmp_path, marian(**STILL), args={"logging_steps": 3}, p2f_weight=0.5)
    run.train()
    entry = run.state.log_history[0]
    assert entry["loss"] == pytest.approx(entry["full_loss"] + 0.5 * entry["prefix_loss"], rel=0.05)
    assert 1 < entry["full_loss"] < 10
    control = trainer(tmp_path, marian(**STILL), p2f_weight=0.0)
    control.train()
    assert "prefix_loss" not in control.state.log_history[0]


def test_each_visit_cuts_anew(tmp_path):
    run = trainer(tmp_path, data=examples_of(pairs(8)), args={"max_steps": 5})
    seen = []
    inner = run.data_collator.__class__.__call__

    class Spy(P2FCollator):
        def __call__(self, examples):
            seen.append((self.epoch, [e["index"] for e in examples]))
            return inner(self, examples)

    run.data_collator.__class__ = Spy
    run.train()
    assert {epoch for epoch, _ in seen} == {0, 1, 2}
    assert sorted(i for epoch, batch in seen for i in batch if epoch == 1) == list(range(8))


def test_multipath_is_the_loss_under_the_mask(tmp_path):
    run = trainer(tmp_path, marian(**STILL), wait_k=True, unidirectional=True)
    batch = run.data_collator(examples_of(pairs(5)))
    inputs = [batch[name] for name in ("input_ids", "attention_mask", "labels")]
    k = draw_k(*inputs[:2], seed=run.args.seed, step=0)
    with reading(run.model.eval(), k, unidirectional=True):
        wanted = by_hand(run.model, *inputs)
    assert float(run.compute_loss(run.model, batch).detach()) == pytest.approx(wanted, abs=1e-6)
    assert abs(wanted - by_hand(run.model, *inputs)) > 1e-3


def test_multipath_trains_a_bergamot_model(tmp_path):
    write_model(tmp_path, "ssru")
    backend = BergamotBackend.load(tmp_path)
    before = weights(backend.network)
    data = [("ba de fi go lu", "me na"), ("po ri", "su ta vo ba")]
    run = P2FTrainer(
        BergamotForTraining(backend),
        arguments(tmp_path / "run", max_steps=2),
        train_dataset=data,
        processing_class=BergamotPairTokenizer(backend),
        wait_k=True,
    )
    run.train()
    after = weights(backend.network)
    assert torch.equal(after["source_table"], before["source_table"])  # frozen
    assert not equal(after, before)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_and_leaves_the_last_checkpoint(tmp_path, what):
    model = marian(**STILL)
    forward, calls = model.forward, []

    class Spoilt(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1.0

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.nan

    def spoilt(*args, **kwargs):
        calls.append(1)
        found = forward(*args, **kwargs)
        if len(calls) == 5:  # the third step's full pass
            found["logits"] = (
                found.logits * math.nan if what == "loss" else Spoilt.apply(found.logits)
            )
        return found

    model.forward = spoilt
    args = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    run = trainer(tmp_path, model, args=args)
    with pytest.raises(NotFinite, match=f"{what} is not finite after 2 steps"):
        run.train()
    kept = last_checkpoint(tmp_path)
    assert kept.endswith("checkpoint-2")
    saved = marian().from_pretrained(kept)
    assert equal(weights(saved), weights(model))
    assert all(torch.isfinite(value).all() for value in weights(model).values())


@pytest.mark.parametrize(
    ("settings", "args", "message"),
    [
        ({"p2f_weight": -0.1}, {}, r"p2f_weight is -0.1"),
        ({"p2f_weight": math.nan}, {}, "p2f_weight is nan"),
        ({"p2f_weight": math.inf}, {}, "p2f_weight is inf"),
        ({"p2f_weight": 0.0, "full_loss": False}, {}, "nothing to learn"),
        ({"prefix_dist": "some"}, {}, "prefix_dist is 'some'"),
        ({"unit": "byte"}, {}, "neither word nor char"),
        ({"unidirectional": True}, {}, "belongs to wait_k"),
        ({}, {"predict_with_generate": True}, "predict_with_generate"),
        (
            {},
            {"dataloader_persistent_workers": True, "dataloader_num_workers": 1},
            "dataloader_persistent_workers",
        ),
    ],
)
def test_bad_settings_are_refused(tmp_path, settings, args, message):
    with pytest.raises(InvalidSetting, match=message):
        trainer(tmp_path, args=args, **settings)
