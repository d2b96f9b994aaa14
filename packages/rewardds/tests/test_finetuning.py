"""Tuning against losses written out, and what it must leave alone."""

import copy
import math
import random
import sys

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from lipogram.errors import InvalidSetting, MissingExtra, NotFinite
from lipogram.llm.loaded import LoadedModel
from lipogram.llm.scoring import answer_logprobs
from lipogram.llm.tiny import tiny_random
from rewardds.errors import InvalidRows
from rewardds.finetuning import Tuning, finetune, prepare_for_tuning
from rewardds.prompts import Prompts
from rewardds.synthetic import SyntheticRow

PROMPTS = Prompts("Say.", "Ask.", "Judge.")
ROWS = [
    SyntheticRow("q0", "Which way?", ("left", "no idea at all"), chosen=0, rejected=1),
    SyntheticRow("q1", "How many?", ("never", "forty-two"), chosen=1, rejected=0),
    SyntheticRow("q2", "Who?", ("me", "you"), chosen=0, rejected=1),
]
STILL = {"epochs": 1, "batch": 3, "micro_batch": 3, "lr": 1e-12}


def loaded(rank: int | None = 4, model_type: str = "llama") -> LoadedModel:
    return prepare_for_tuning(tiny_random(model_type, layers=1), rank=rank)


def prompt(question: str) -> str:
    return f"<s>system\nSay.</s>\n<s>user\n{question}</s>\n<s>assistant\n"


def logps(model: LoadedModel, texts: list[str]) -> list[list[float]]:
    """Log p of every token of the answers and their end tokens."""
    return answer_logprobs(
        model.model,
        model.tokenizer,
        [prompt(row.question) for row in ROWS],
        [f"{text}</s>" for text in texts],
        reduction="tokens",
        add_special_tokens=False,
    )


CHOSEN = [row.answer for row in ROWS]
REJECTED = [str(row.worst) for row in ROWS]


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_the_loss_is_the_mean_over_the_tokens_of_the_best_answers(micro_batch: int) -> None:
    model = loaded()
    tokens = [value for row in logps(model, CHOSEN) for value in row]
    tuning = Tuning(**{**STILL, "micro_batch": micro_batch})
    report = finetune(model, ROWS, tuning, PROMPTS)
    assert report.losses == (pytest.approx(-sum(tokens) / len(tokens), rel=1e-4),)
    assert (report.rows, report.steps, report.too_long, report.unpaired) == (3, 1, 0, 0)


def test_dpo_moves_away_from_the_model_as_it_came() -> None:
    model = loaded()
    finetune(model, ROWS, Tuning(epochs=1, batch=3, micro_batch=3, lr=1e-2), PROMPTS)
    before = [torch.tensor([sum(row) for row in logps(model, t)]) for t in (CHOSEN, REJECTED)]
    once, twice = (
        Tuning("dpo", epochs=epochs, batch=3, micro_batch=3, lr=3e-3, beta=0.3) for epochs in (1, 2)
    )
    other = LoadedModel(copy.deepcopy(model.model), model.tokenizer, model.info)
    finetune(other, ROWS, once, PROMPTS)
    after = [torch.tensor([sum(row) for row in logps(other, t)]) for t in (CHOSEN, REJECTED)]
    margins = after[0] - before[0] - (after[1] - before[1])
    expected = float(-logsigmoid(0.3 * margins).mean())  # equation 7, after the first update
    assert expected < 0.6
    report = finetune(model, ROWS, twice, PROMPTS)
    assert report.losses == (pytest.approx(math.log(2)), pytest.approx(expected, rel=1e-3))
    assert (report.method, report.steps) == ("dpo", 2)


def test_the_loss_of_orpo_is_the_papers() -> None:
    model = loaded()
    chosen, rejected = (
        torch.tensor([sum(row) / len(row) for row in logps(model, texts)])
        for texts in (CHOSEN, REJECTED)
    )
    whole = answer_logprobs(  # TRL's likelihood term is over prompt and answer
        model.model,
        model.tokenizer,
        [text[:3] for text in map(prompt, [row.question for row in ROWS])],
        [f"{prompt(row.question)[3:]}{row.answer}</s>" for row in ROWS],
        reduction="tokens",
        add_special_tokens=False,
    )
    tokens = [value for row in whole for value in row]
    odds = chosen - rejected - (torch.log1p(-chosen.exp()) - torch.log1p(-rejected.exp()))
    expected = -sum(tokens) / len(tokens) - 0.3 * float(logsigmoid(odds).mean())
    report = finetune(model, ROWS, Tuning("orpo", **STILL, beta=0.3), PROMPTS)
    assert report.losses == (pytest.approx(expected, rel=1e-4),)


@pytest.mark.parametrize(
    ("method", "rank"), [("sft", 4), ("orpo", 4), ("dpo", 4), ("dpo", None), ("sft", None)]
)
def test_nothing_else_is_changed(method: str, rank: int | None) -> None:
    model = loaded(rank, "gpt2")
    inner = model.model.get_base_model() if rank else model.model
    dropouts = {name: m.p for name, m in model.model.named_modules() if hasattr(m, "p")}
    assert max(dropouts.values()) > 0
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    trained = {name for name, p in model.model.named_parameters() if p.requires_grad}
    random.random(), np.random.rand(), torch.rand(1)  # away from where a seed would put them  # noqa: NPY002
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # noqa: NPY002
    cached = model.model.config.use_cache
    finetune(model, ROWS, Tuning(method, 1, 3, 3, lr=1e-2), PROMPTS)
    after = model.model.state_dict()
    assert set(after) == set(before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed <= trained
    assert changed
    assert not any("wte" in name or "wpe" in name or "lm_head" in name for name in changed)
    assert {name: m.p for name, m in model.model.named_modules() if hasattr(m, "p")} == dropouts
    assert "forward" not in inner.__dict__
    assert list(getattr(model.model, "peft_config", {})) == (["default"] if rank else [])
    assert {name for name, p in model.model.named_parameters() if p.requires_grad} == trained
    assert not model.model.training
    assert model.model.config.use_cache == cached
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_the_same_seed_gives_the_same_weights() -> None:
    found = []
    for seed in (0, 0, 1):
        model = loaded()
        finetune(model, ROWS, Tuning("sft", 1, 1, 1, lr=1e-2, seed=seed), PROMPTS)
        found.append(torch.cat([p.flatten() for p in model.model.parameters() if p.requires_grad]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_an_adapter_is_trained_on() -> None:
    model = loaded()
    finetune(model, ROWS, Tuning("sft", 1, 3, 3, lr=1e-2), PROMPTS)
    model.model.requires_grad_(False)
    again = prepare_for_tuning(model)
    assert again.model is model.model
    trained = [name for name, p in again.model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    with pytest.raises(InvalidSetting, match="adapter"):
        prepare_for_tuning(model, rank=None)


def test_checkpointing_trains_the_same() -> None:
    found = []
    for on in (False, True):
        model = prepare_for_tuning(tiny_random("llama", layers=1), rank=4, checkpointing=on)
        tuning = Tuning("sft", 2, 3, 3, lr=1e-2, checkpointing=on)
        found.append(finetune(model, ROWS, tuning, PROMPTS).losses)
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_rows_that_cannot_be_learnt_from_are_counted() -> None:
    model = loaded()
    rows = [
        *ROWS,
        SyntheticRow("long", "q" * 600, ("a", "b"), chosen=0, rejected=1),
        SyntheticRow("single", "Where?", ("here",), chosen=0),
    ]
    report = finetune(model, rows, Tuning("sft", **STILL), PROMPTS)
    assert (report.rows, report.too_long, report.unpaired) == (4, 1, 0)
    with pytest.raises(InvalidRows, match=r"none of 2 rows.*dpo: 1 exceed.*1 have no second"):
        finetune(model, rows[3:], Tuning("dpo", **STILL), PROMPTS)
    with pytest.raises(InvalidRows, match="none of 0 rows"):
        finetune(model, [], Tuning(), PROMPTS)


def test_rows_that_are_not_ranked_are_refused() -> None:
    model = loaded()
    before = copy.deepcopy(model.model.state_dict())
    with pytest.raises(InvalidRows, match="q9"):
        finetune(model, [*ROWS, SyntheticRow("q9", "Why?", ("so",))], Tuning(), PROMPTS)
    assert all(torch.equal(before[name], value) for name, value in model.model.state_dict().items())


def test_a_frozen_model_is_refused() -> None:
    model = tiny_random("llama", layers=1)
    model.model.requires_grad_(False)
    with pytest.raises(InvalidSetting, match="prepare_for_tuning"):
        finetune(model, ROWS, Tuning(), PROMPTS)


def test_a_model_that_diverges_is_told() -> None:
    with pytest.raises(NotFinite, match="lr = 1e\\+30"):
        finetune(loaded(), ROWS, Tuning("sft", 3, 3, 3, lr=1e30), PROMPTS)


def test_pairs_without_trl_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(MissingExtra, match=r"rewardds\[tune\]"):
        finetune(loaded(), ROWS, Tuning("orpo", **STILL), PROMPTS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "ppo"}, "'ppo'.*sft, orpo, dpo"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"micro_batch": 0}, "micro_batch is 0"),
        ({"batch": 10, "micro_batch": 4}, "4.*10"),
        ({"lr": 0.0}, "lr is 0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"beta": math.inf}, "beta is inf"),
    ],
)
def test_settings_outside_their_ranges_are_refused(
    settings: dict[str, float], message: str
) -> None:
    with pytest.raises(InvalidSetting, match=message):
        Tuning(**settings)
