"""The client counts before it trains, goes on where it stopped, and lets nothing else leave."""

import itertools
import json
import os

import pytest
import torch

from lipogram.errors import FolderInUse, InvalidSetting, RunMismatch
from lipogram.files import locked
from lipogram.llm import tiny_random
from lipogram.llm.tuning import lora_config
from rewardds import client as client_module
from rewardds import proxy_training, weak_answers
from rewardds.client import RewardDSClient
from rewardds.dp_trainer import DPTrainer
from rewardds.errors import (
    BudgetSpent,
    DataMismatch,
    InvalidRecords,
    PrivateObject,
    PrivateText,
    UnsafeSetting,
)
from rewardds.ledger import PrivacyLedger
from rewardds.plan import PrivacyPlan, RunPlan
from rewardds.proxy_models import trainable
from rewardds.records import PrivateRecords, PublicRecords, Record
from rewardds.reward_model import RewardModel
from rewardds.verification import verify

KEY = b"0123456789abcdef"
N = 40
WORDS = "amber birch cedar dunes ember fjord grove heath inlet jetty".split()


def private(n=N, start=0):
    """Records whose texts have 8 words and more, each with its number in them."""
    told = [
        Record(
            f"r{i}", f"What of {i}? " + " ".join(WORDS), f"It is {7 * i}. " + " ".join(WORDS[::-1])
        )
        for i in range(start, start + n)
    ]
    return PrivateRecords(told, KEY)


PUBLIC = PublicRecords([Record(f"p{i}", f"Public question {i}?", f"Answer {i}.") for i in range(4)])


@pytest.fixture(scope="module")
def plan():
    return PrivacyPlan(8, 1e-3, n=N, generator=RunPlan(4, 0.5), reward=RunPlan(4, 0.5))


def client(plan, folder, **settings):
    chosen = {"max_new_tokens": 4, "max_length": 96, "physical_batch": 4} | settings
    ledger = chosen.pop("ledger", None) or PrivacyLedger(folder / "ledger.jsonl")
    base = chosen.pop("base", None) or tiny_random("llama", layers=1, width=16)
    return RewardDSClient(base, plan, folder=folder / "run", ledger=ledger, **chosen)


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_what_leaves_is_on_the_list_and_its_epsilon_holds(tune, plan, tmp_path):
    base = tiny_random("llama", layers=1, width=16)
    before = {name: p.clone() for name, p in base.model.named_parameters()}
    made = client(plan, tmp_path, base=base, tune=tune)
    records = private()
    bundle = made.fit(records, PUBLIC)
    weights = {
        "lora": {"adapter_config.json", "adapter_model.safetensors"},
        "full": {"config.json", "generation_config.json", "model.safetensors"},
    }[tune]
    expected = {f"{proxy}/{name}" for proxy in ("generator", "reward") for name in weights}
    expected |= {"reward/head.safetensors", "privacy.json", "config.json", "hashes.json"}
    assert files(bundle.folder) == expected
    verified = verify(bundle.folder)
    assert verified.epsilon == pytest.approx(plan.total, rel=1e-6)
    assert verified.epsilon <= 8
    assert bundle.privacy["clips"] == {"generator": 0.5, "reward": 0.5}
    for name, release in (("generator", plan.generator_release), ("reward", plan.reward_release)):
        assert verified.statement.releases[name] == release
    rows = made.ledger.rows(records.fingerprint)
    assert [row.release for row in rows] == [*plan.releases]
    assert all(row.settled for row in rows)
    for name, p in base.model.named_parameters():  # the caller's model is as it was
        assert torch.equal(p, before[name])
    held = b"".join((bundle.folder / name).read_bytes() for name in files(bundle.folder))
    for word in (*WORDS, "What of", records.fingerprint, str(tmp_path)):
        assert word.encode() not in held
    if os.name == "posix":
        assert (tmp_path / "run" / "private").stat().st_mode & 0o777 == 0o700
        for name in ("run.json", "notes.json", "ngrams.safetensors"):
            assert (tmp_path / "run" / "private" / name).stat().st_mode & 0o777 == 0o600
    # What was trained is what is loaded again.
    generator = bundle.load_generator(tiny_random("llama", layers=1, width=16))
    reward = bundle.load_reward(tiny_random("llama", layers=1, width=16))
    ids = torch.arange(20)[None]
    plain = tiny_random("llama", layers=1, width=16).model(input_ids=ids).logits
    assert not torch.allclose(generator.model(input_ids=ids).logits, plain, atol=1e-3)
    assert reward.model(input_ids=ids).shape == (1, 20)
    assert not any(p.requires_grad for p in reward.model.parameters())
    # A finished run is read, not run again.
    assert made.fit(records, PUBLIC) == bundle
    assert len(made.ledger.rows()) == 2


def test_a_head_alone_is_a_reward(plan, tmp_path, monkeypatch):
    trained = []

    class Watched(DPTrainer):
        def __init__(self, model, run, **how):
            trained.append((model, how))
            super().__init__(model, run, **how)

    monkeypatch.setattr(proxy_training, "DPTrainer", Watched)
    asked = {"reward": "head", "reward_clip": 2.0, "reward_lr": 0.5, "weak_sources": ("corrupt",)}
    bundle = client(plan, tmp_path, **asked).fit(private())
    assert {path.name for path in (bundle.folder / "reward").iterdir()} == {"head.safetensors"}
    assert bundle.config["reward"] == "head"
    assert bundle.privacy["clips"] == {"generator": 0.5, "reward": 2.0}
    assert verify(bundle.folder).epsilon == pytest.approx(plan.total, rel=1e-6)
    (_, generator), (head, reward) = trained
    assert (generator["clip"], generator["lr"]) == (0.5, 1e-3)
    assert (reward["clip"], reward["lr"]) == (2.0, 0.5)
    assert [p.numel() for p in head.parameters() if p.requires_grad] == [16]
    loaded = bundle.load_reward(tiny_random("llama", layers=1, width=16))
    assert torch.equal(loaded.model.head.weight, head.head.weight)
    plain = RewardModel(tiny_random("llama", layers=1, width=16).model).head.weight
    assert not torch.allclose(head.head.weight, plain, atol=1e-3)


def test_an_adapter_of_ones_own_stays_as_it_was_and_its_run_is_found(plan, tmp_path):
    base = tiny_random("llama", layers=1, width=16)
    lora = lora_config(base.model, r=2)
    before = str(lora.to_dict())
    records = private()
    made = client(plan, tmp_path, base=base, lora=lora, weak_sources=("corrupt",))
    bundle = made.fit(records)
    assert str(lora.to_dict()) == before
    again = client(plan, tmp_path, base=base, lora=lora, weak_sources=("corrupt",))
    assert again.fit(records) == bundle


def test_responses_that_are_public_may_be_named(plan, tmp_path):
    records = PrivateRecords(
        [Record(f"r{i}", f"Letter {i} of many, the {i}th one.", "not at all") for i in range(N)],
        KEY,
    )
    labels = PublicRecords([Record("a", "", "not at all"), Record("b", "", "very much so")])
    with pytest.raises(PrivateText):
        client(plan, tmp_path, weak_sources=("offtopic",)).fit(records, labels)
    told = client(plan, tmp_path, weak_sources=("offtopic",), public_responses=True)
    assert told.fit(records, labels).config["weak_sources"] == ["offtopic"]
    seeds = PublicRecords([*labels, Record("c", "Letter 7 of many, the 7th one.", "")])
    with pytest.raises(PrivateText):
        client(plan, tmp_path / "x", public_responses=True).fit(records, seeds)


@pytest.mark.parametrize(
    "asked", [{"reward": "heads"}, {"reward_clip": 0.0}, {"reward_lr": -1.0}, {"clip": None}]
)
def test_settings_of_the_reward_that_are_none_are_refused(asked, plan, tmp_path):
    with pytest.raises(InvalidSetting, match=next(iter(asked))):
        client(plan, tmp_path, **asked)


def test_both_runs_are_counted_before_any_noise(plan, tmp_path, monkeypatch):
    seen = []

    def no_training(self, rows):
        seen.extend(PrivacyLedger(tmp_path / "ledger.jsonl").rows())
        raise KeyboardInterrupt

    monkeypatch.setattr(DPTrainer, "train", no_training)
    with pytest.raises(KeyboardInterrupt):
        client(plan, tmp_path).fit(private())
    assert [row.release for row in seen] == [*plan.releases]
    assert not any(row.settled for row in seen)  # and so it stays: all steps count


class Killed(BaseException):
    """Stands for a process that is gone."""


def test_a_run_killed_anywhere_goes_on_and_counts_once(plan, tmp_path, monkeypatch):
    """Each attempt gets one write farther; every one of them is a place to be killed at."""
    budget = {"writes": 0}

    def limited(write):
        def one(*args, **kwargs):
            if budget["writes"] == 0:
                raise Killed
            budget["writes"] -= 1
            return write(*args, **kwargs)

        return one

    for module, name in (
        (proxy_training, "save_proxy"),
        (weak_answers, "write_atomically"),
        (proxy_training, "write_atomically"),
        (client_module, "write_bundle"),
    ):
        monkeypatch.setattr(module, name, limited(getattr(module, name)))
    monkeypatch.setattr(DPTrainer, "train", limited(DPTrainer.train))
    monkeypatch.setattr(PrivacyLedger, "settle", limited(PrivacyLedger.settle))
    base = tiny_random("llama", layers=1, width=16)
    runs = set()
    for attempt in itertools.count():
        budget["writes"] = attempt
        assert attempt < 12
        try:
            bundle = client(plan, tmp_path, base=base).fit(private())
        except Killed:
            runs.add(json.loads((tmp_path / "run" / "private" / "run.json").read_text())["run"])
            continue
        break
    assert attempt == 7
    assert len(runs) == 1
    rows = PrivacyLedger(tmp_path / "ledger.jsonl").rows()
    assert [row.run for row in rows] == [f"{min(runs)}/generator", f"{min(runs)}/reward"]
    assert verify(bundle.folder).epsilon == pytest.approx(plan.total, rel=1e-6)


def test_a_folder_with_another_run_is_refused(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(DPTrainer, "train", lambda self, rows: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        client(plan, tmp_path).fit(private())
    held = (tmp_path / "run" / "private" / "run.json").read_bytes()
    with pytest.raises(DataMismatch, match="other records"):
        client(plan, tmp_path).fit(private(start=1))
    with pytest.raises(RunMismatch, match=r"settings\.clip is 0\.5 in the folder, 0\.25"):
        client(plan, tmp_path, clip=0.25).fit(private())
    with pytest.raises(RunMismatch, match="seeds"):
        client(plan, tmp_path).fit(private(), ["A public question?"])
    other = PrivacyPlan(4, 1e-3, n=N, generator=RunPlan(4, 0.5), reward=RunPlan(4, 0.5))
    with pytest.raises(RunMismatch, match="releases"):
        client(other, tmp_path).fit(private())
    with locked(tmp_path / "run" / "private" / "run.json"), pytest.raises(FolderInUse):
        client(plan, tmp_path).fit(private())
    assert (tmp_path / "run" / "private" / "run.json").read_bytes() == held
    assert len(PrivacyLedger(tmp_path / "ledger.jsonl").rows()) == 2


def test_a_spent_budget_counts_nothing(plan, tmp_path):
    ledger = PrivacyLedger(tmp_path / "ledger.jsonl", budget=(7.0, 1e-3))  # one run, not both
    records = private()
    with pytest.raises(BudgetSpent, match="7"):
        client(plan, tmp_path, ledger=ledger).fit(records)
    assert ledger.epsilon(records.fingerprint, 1e-3) == 0
    assert not (tmp_path / "run" / "private" / "run.json").exists()


def test_the_papers_source_makes_epsilon_infinite(plan, tmp_path):
    sources = ("init", "sft", "dp")
    with pytest.raises(UnsafeSetting, match="allow_nonprivate_weak_source"):
        client(plan, tmp_path, weak_sources=sources).fit(private())
    made = client(plan, tmp_path, weak_sources=sources, allow_nonprivate_weak_source=True)
    bundle = made.fit(private())
    assert bundle.privacy["epsilon"] == "infinite"
    assert verify(bundle.folder).epsilon == float("inf")
    assert "infinite" in bundle.privacy["statement"]
    assert made.ledger.epsilon(private().fingerprint, 1e-3) == float("inf")


def test_persons_are_units(tmp_path):
    told = [
        Record(str(i), f"{i}? " + " ".join(WORDS), f"{i}. " + " ".join(WORDS), f"person {i // 2}")
        for i in range(N)
    ]
    plan = PrivacyPlan(8, 1e-3, n=N // 2, generator=RunPlan(2, 0.5), reward=RunPlan(2, 0.5))
    made = client(plan, tmp_path, unit="group", weak_sources=("corrupt",))
    bundle = made.fit(PrivateRecords(told, KEY))
    assert bundle.privacy["unit"] == "group"
    assert bundle.privacy["n"] == N // 2


def test_what_is_not_as_planned_is_refused_and_nothing_is_written(plan, tmp_path):
    with pytest.raises(InvalidRecords, match="PublicRecords is no private set"):
        client(plan, tmp_path).fit(PUBLIC)
    with pytest.raises(InvalidSetting, match="n = 40, and there are 39 units"):
        client(plan, tmp_path).fit(private(39))
    with pytest.raises(InvalidSetting, match="n = 40 is a bound, and there are 41"):
        client(plan, tmp_path, n_policy="public bound").fit(private(41))
    with pytest.raises(PrivateText, match="seed 0 shares 8 words"):
        client(plan, tmp_path).fit(private(), [private()[3].instruction])
    with pytest.raises(PrivateObject, match="PrivateRecord"):
        client(plan, tmp_path).fit(private(), private())
    with pytest.raises(InvalidSetting, match="'offtopic' needs public records"):
        client(plan, tmp_path, weak_sources=("offtopic",)).fit(private(), ["A question?"])
    with pytest.raises(InvalidSetting, match="no setting 'epochs'"):
        client(plan, tmp_path, epochs=3)
    with pytest.raises(InvalidSetting, match="clip is 0"):
        client(plan, tmp_path, clip=0)
    with pytest.raises(InvalidSetting, match="half strength"):
        client(plan, tmp_path, tune="full", weak_sources=("dp_early",))
    alone = PrivacyPlan(8, 1e-3, n=N, generator=RunPlan(4, 0.5))
    with pytest.raises(InvalidSetting, match="no run for the reward"):
        client(alone, tmp_path)
    assert files(tmp_path) == set()


def test_adapters_start_from_the_public_seed_alone():
    def adapter(seed):
        model = trainable(tiny_random("llama", layers=1, width=16).model, "lora", None, seed)
        return torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])

    state = torch.get_rng_state()
    first = adapter(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert torch.equal(adapter(3), first)
    assert not torch.equal(adapter(4), first)
