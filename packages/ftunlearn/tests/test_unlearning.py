import copy
import json
import re

import pytest
import torch

from ftunlearn.methods import METHODS
from ftunlearn.reference import evaluating, logits_of
from ftunlearn.trainer import UnlearnTrainer
from ftunlearn.unlearn_config import UnlearnConfig
from ftunlearn.unlearning import unlearn
from ftunlearn.unlearning_data import answer_examples, collate
from lipogram.errors import InvalidProbes, InvalidSetting, NotFinite
from lipogram.llm.loading import load_model
from lipogram.llm.objectives import sequence_logps
from lipogram.llm.tiny import PAD, tiny_random
from lipogram.llm.tuning import lora_config

FACTS = [
    (f"{a}{b} is", f" {value}")
    for (a, b), value in zip([(x, y) for x in "ABCD" for y in "xyz"], "qwertyuiopas", strict=True)
]
FORGET, RETAIN = FACTS[:4], FACTS[4:]
RATES = {"dpo": 1e-2, "rmu": 1e-2, "simnpo": 2e-3}


def teach(loaded, steps=120):
    batch = collate(answer_examples(loaded.tokenizer, FACTS), PAD)
    model = loaded.model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        model(**batch).loss.backward()
        optimiser.step()
    model.eval()
    return loaded


@pytest.fixture(scope="module")
def taught():
    return teach(tiny_random(layers=3))


@pytest.fixture
def knows(taught):
    """A model that knows the facts, free to be changed."""
    return copy.deepcopy(taught)


def config(tmp_path, **settings):
    settings = {
        "output_dir": str(tmp_path / "run"),
        "max_steps": 8,
        "per_device_train_batch_size": 4,
        "lr_scheduler_type": "constant",
        "learning_rate": 1e-3,
    } | settings
    return UnlearnConfig(**settings)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_forgets(knows, tmp_path, method, lora):
    before = weights(knows.model)
    rate = 1e-2 if lora else RATES.get(method, 1e-3)
    result = unlearn(
        knows,
        None,
        FORGET,
        None if method == "ga" else RETAIN,
        config(tmp_path, method=method, learning_rate=rate),
        peft_config=lora_config(knows.model) if lora else None,
    )
    assert result.forget_prob[0] > 0.9
    assert result.forget_prob[8] < 0.8
    assert result.steps == 8
    assert result.stopped == "steps"
    after = weights(knows.model)
    if lora:  # the base lies under the adapter's names now
        after = {n.replace(".base_layer", ""): v for n, v in after.items() if "lora_" not in n}
        assert any("lora_" in name for name in weights(result.model))
    assert same(before, after)
    assert not any(module._forward_hooks for module in knows.model.modules())


def test_the_log_tells_the_parts_of_the_loss(knows, tmp_path, capsys):
    result = unlearn(knows, None, FORGET, RETAIN, config(tmp_path, alpha=1.5, max_steps=3))
    assert [entry["step"] for entry in result.log] == [0, 1, 2, 3]
    for entry in result.log[1:]:
        total = entry["forget_loss"] + 1.5 * entry["retain_loss"]
        assert entry["loss"] == pytest.approx(total, abs=1e-5)
        assert entry["forget_loss"] < 0 < entry["retain_loss"]
    # Measured after step 1, and again as the loss that step 2 begins with.
    assert -result.log[2]["forget_loss"] == pytest.approx(result.log[1]["forget_nll"], abs=1e-5)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "{'loss'" not in captured.err


def test_accumulated_batches_are_averaged(knows, tmp_path):
    results = [
        unlearn(
            knows,
            None,
            FORGET,
            RETAIN[:1],
            config(
                tmp_path,
                max_steps=2,
                per_device_train_batch_size=4 // parts,
                gradient_accumulation_steps=parts,
            ),
        )
        for parts in (1, 2)
    ]
    for a, b in zip(results[0].log, results[1].log, strict=True):
        assert b["forget_nll"] == pytest.approx(a["forget_nll"], rel=1e-3)
    assert results[1].log[1]["grad_norm"] == pytest.approx(results[0].log[1]["grad_norm"], rel=1e-3)


def test_it_stops_once_the_answers_are_gone(knows, tmp_path):
    settings = config(tmp_path, target_prob=0.5, max_steps=50)
    result = unlearn(knows, None, FORGET, RETAIN, settings)
    assert result.stopped == "target_prob"
    probs = list(result.forget_prob.values())
    assert probs[-1] < 0.5 <= min(probs[:-1])
    assert result.steps == len(probs) - 1 < 50
    diverging = config(tmp_path, method="ga", max_forget_loss=3.0, max_steps=50)
    result = unlearn(knows, None, FORGET, None, diverging)
    assert result.stopped == "max_forget_loss"
    assert result.log[-1]["forget_nll"] > 3.0 >= result.log[-2]["forget_nll"]


def test_what_is_not_finite_stops_with_the_last_good_state(knows, tmp_path):
    class Poisoned(UnlearnTrainer):
        bad_gradient = False

        def compute_loss(self, model, inputs, *args, **kwargs):
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            if self.state.global_step == 2:
                if not self.bad_gradient:
                    with torch.no_grad():
                        loss = loss * float("nan")
                    self._diverged("loss")
                loss = loss + (loss - loss.detach()) * float("inf")
            return loss

    for bad in (False, True):
        model = copy.deepcopy(knows.model)
        Poisoned.bad_gradient = bad
        args = config(tmp_path / str(bad), max_steps=4, save_strategy="steps", save_steps=2)
        data = {"forget": FORGET, "retain": RETAIN}
        trainer = Poisoned(model, args, data, knows.tokenizer)
        with pytest.raises(NotFinite, match="after 2 steps"):
            trainer.train()
        kept = tmp_path / str(bad) / "run" / "checkpoint-2"
        reloaded = type(model).from_pretrained(kept)
        assert same(weights(trainer.model), weights(reloaded))


def test_a_loss_that_is_not_finite_is_noticed(knows, tmp_path):
    with torch.no_grad():
        knows.model.get_output_embeddings().weight[3] = float("inf")
    with pytest.raises(NotFinite, match="the loss of graddiff is not finite after 0 steps"):
        unlearn(knows, None, FORGET, RETAIN, config(tmp_path, measure_steps=0))


@pytest.mark.parametrize("method", ["npo", "dpo"])
def test_references_agree(knows, tmp_path, method):
    """Copy, adapter switched off and kept numbers are one vanilla model, in any order of data."""
    logs = []
    for ref in ("copy", "adapter_off", "precomputed"):
        loaded = copy.deepcopy(knows)
        settings = config(
            tmp_path, method=method, ref=ref, per_device_train_batch_size=3, max_steps=4
        )
        peft = lora_config(loaded.model)
        logs.append(unlearn(loaded, None, FORGET, RETAIN, settings, peft_config=peft).log)
    for log in logs[1:]:
        for a, b in zip(logs[0][1:], log[1:], strict=True):
            assert b["forget_loss"] == pytest.approx(a["forget_loss"], rel=1e-3)
    first = logs[0][1]["forget_loss"]
    assert first == pytest.approx(20 * 0.6931, rel=1e-2)  # (2/β)·log 2: nothing has changed yet


def test_kept_numbers_go_with_their_example(knows, tmp_path):
    settings = config(tmp_path, method="dpo", ref="precomputed", chosen="retain")
    data = {"forget": FORGET, "retain": RETAIN}
    trainer = UnlearnTrainer(knows.model, settings, data, knows.tokenizer)
    for batch in trainer.get_train_dataloader():
        for role in ("forget", "retain"):
            kept = batch[role].pop("ref_logps")
            with evaluating(knows.model):
                found, _ = sequence_logps(
                    logits_of(knows.model, batch[role]), batch[role]["labels"]
                )
            assert torch.allclose(kept, found, atol=1e-5)


def test_kl_retains(knows, tmp_path):
    settings = config(tmp_path, method="npo", retain_loss="kl", max_steps=3)
    result = unlearn(knows, None, FORGET, RETAIN, settings)
    assert abs(result.log[1]["retain_loss"]) < 1e-6  # the model is still the vanilla one
    assert result.log[3]["retain_loss"] > 1e-6


@pytest.mark.parametrize(
    ("settings", "moved"),
    [
        ({"trainable": "values"}, r"down_proj"),
        ({"trainable": r"layers\.1\..*(gate|up)_proj"}, r"layers.1.mlp.(gate|up)"),
        ({"method": "rmu", "learning_rate": 1e-2}, r"layers.[01].mlp.down"),
        ({"method": "rmu", "rmu_layer": 2, "trainable": "values"}, r"down_proj"),
    ],
)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_only_what_is_meant_is_trained(knows, tmp_path, settings, moved, lora):
    peft = lora_config(knows.model, r=2) if lora else None
    settings = config(tmp_path, max_steps=2, **settings)
    before = weights(knows.model)
    result = unlearn(knows, None, FORGET, RETAIN, settings, peft_config=peft)
    if lora:
        assert not any(
            p.requires_grad for n, p in result.model.named_parameters() if not re.search(moved, n)
        )
        changed = {n for n, v in weights(result.model).items() if "lora_B" in n and v.any()}
        allowed = {n for n in weights(result.model) if "lora_B" in n and re.search(moved, n)}
    else:
        changed = {n for n, v in weights(result.model).items() if not torch.equal(v, before[n])}
        allowed = {name for name in before if re.search(moved, name)}
    assert changed == allowed


def test_an_adapter_trains_under_checkpointing(knows, tmp_path):
    before = weights(knows.model)
    settings = config(tmp_path, max_steps=2, activation_checkpointing=True)
    peft = lora_config(knows.model, r=2)
    result = unlearn(knows, None, FORGET, RETAIN, settings, peft_config=peft)
    after = weights(result.model)
    assert all(value.any() for name, value in after.items() if "lora_B" in name)
    base = {
        n.removeprefix("base_model.model.").replace(".base_layer", ""): v
        for n, v in after.items()
        if "lora_" not in n
    }
    assert same(before, base)


def test_rmu_is_the_same_under_checkpointing(knows, tmp_path):
    logs = []
    for checkpointing in (False, True):
        loaded = copy.deepcopy(knows)
        settings = config(
            tmp_path, method="rmu", max_steps=2, activation_checkpointing=checkpointing
        )
        peft = lora_config(loaded.model, r=2)
        logs.append(unlearn(loaded, None, FORGET, RETAIN, settings, peft_config=peft).log)
    assert logs[0] == logs[1]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_result_is_saved_whole(knows, tmp_path, lora):
    vanilla = copy.deepcopy(knows.model)
    peft = lora_config(knows.model) if lora else None
    result = unlearn(knows, None, FORGET, RETAIN, config(tmp_path), peft_config=peft)
    folder = tmp_path / "saved"
    result.save(folder)
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert not list(tmp_path.glob(".part-*"))
    head = json.loads((folder / "unlearning.json").read_text())
    assert head["config"]["method"] == "graddiff"
    assert head["log"][-1]["step"] == 8
    ids = torch.tensor([list(b"Ax is q")])
    expected = result.model(input_ids=ids).logits
    if lora:
        from peft import PeftModel

        loaded = PeftModel.from_pretrained(vanilla, folder)
    else:
        loaded = load_model(str(folder)).model
        assert loaded.config.use_cache == vanilla.config.use_cache
    assert torch.equal(loaded(input_ids=ids).logits, expected)
    with pytest.raises(InvalidSetting, match="not empty"):
        result.save(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "forget"}, "there are ga, graddiff, dpo"),
        ({"alpha": -1}, "gamma and alpha"),
        ({"method": "npo", "beta": 0}, "beta"),
        ({"retain_loss": "l2"}, "there are nll, kl, embed, none"),
        ({"retain_loss": "embed"}, "belongs to 'rmu'"),
        ({"chosen": "other"}, "must be 'alternative' or 'retain'"),
        ({"target_prob": 2}, "between 0 and 1"),
        ({"target_prob": 0.1, "measure_steps": 0}, "need measure_steps"),
        ({"ref": "precomputed"}, "one number an example"),
        ({"method": "npo", "ref": "precomputed", "retain_loss": "kl"}, "one number an example"),
        ({"trainable": "("}, "no regular expression"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(InvalidSetting, match=message):
        UnlearnConfig(**settings)


def test_what_does_not_fit_the_model_or_the_data_is_named(knows, tmp_path):
    def run(forget=FORGET, retain=RETAIN, tokenizer=None, model=knows, peft=None, **settings):
        return unlearn(
            model, tokenizer, forget, retain, config(tmp_path, **settings), peft_config=peft
        )

    with pytest.raises(InvalidProbes, match="needs examples to retain"):
        run(retain=None)
    with pytest.raises(InvalidProbes, match="nothing to unlearn"):
        run(forget=[])
    with pytest.raises(InvalidSetting, match="give the tokenizer"):
        run(model=knows.model)
    with pytest.raises(InvalidSetting, match="needs a peft_config"):
        run(method="npo", ref="adapter_off")
    with pytest.raises(InvalidSetting, match="there are layers 0 to 2"):
        run(method="rmu", rmu_layer=3)
    with pytest.raises(InvalidSetting, match="leaves nothing to train"):
        run(trainable="no such name")
    with pytest.raises(InvalidSetting, match="leaves nothing to train"):
        run(trainable="values", peft=lora_config(copy.deepcopy(knows.model), target="attn"))


def test_presets():
    paper = UnlearnConfig.preset("paper", method="dpo", retain_loss="none")
    assert (paper.beta, paper.alpha, paper.chosen) == (0.1, 1.5, "retain")
    assert not paper.needs_alternative
    assert paper.needs_retain
    facts = UnlearnConfig.preset("smollm2-facts", max_steps=3)
    assert (facts.learning_rate, facts.weight_decay, facts.max_grad_norm) == (1e-5, 0.01, 1.0)
    assert (facts.alpha, facts.target_prob, facts.max_steps) == (1.5, 0.005, 3)
    with pytest.raises(InvalidSetting, match="no preset 'other'"):
        UnlearnConfig.preset("other")
    assert UnlearnConfig(method="simnpo").gamma == 0.125
    assert UnlearnConfig(method="undial").beta == 10


def test_articles_are_unlearned_as_in_the_paper(knows, tmp_path):
    article = "The quick brown fox jumps over the lazy dog. " * 12
    other = "Pack my box with five dozen liquor jugs. " * 30
    preset = UnlearnConfig.preset(
        "paper", method="dpo", retain_loss="none", output_dir=str(tmp_path), max_steps=1
    )
    result = unlearn(knows, None, [article], [other], preset)
    assert result.log[-1]["forget_loss"] == pytest.approx(20 * 0.6931, rel=1e-3)
