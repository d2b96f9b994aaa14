"""From a bundle to a tuned model, with proxies that have learnt to end what they say."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lipogram.errors import InvalidSetting
from lipogram.llm.loaded import LoadedModel
from lipogram.llm.tiny import tiny_random
from lipogram.llm.tuning import lora_config, prepare_lora
from rewardds.bundle import Bundle, write_bundle
from rewardds.errors import InvalidRows, PrivateObject, PrivateText, TamperedBundle
from rewardds.finetuning import Tuning
from rewardds.losses import CausalLMLoss
from rewardds.pool import Pool, first_pool
from rewardds.privacy_loss import Release
from rewardds.privacy_statement import PrivacyStatement
from rewardds.private_ngrams import PrivateNgrams
from rewardds.prompts import Prompts, sequence
from rewardds.records import PrivateRecords, Record
from rewardds.refinement import RefinementSettings
from rewardds.reward_model import RewardModel
from rewardds.rows import Row, collate
from rewardds.sampling import SamplingSettings
from rewardds.server import RewardDSServer
from rewardds.synthetic import SyntheticRow
from rewardds.taint import ReleaseGate

PROMPTS = Prompts("Say.", "Ask.", "Judge.")
CASES = {
    "What is red?": ("a rose", "blood"),
    "Where is north?": ("up", "not here"),
    "Who flies?": ("a bird", "you and me"),
    "When is it dark?": ("at night", "no idea"),
    "How deep is it?": ("very", "a mile"),
}
SECRET = "seven lazy otters sleep behind the old mill pond tonight"
PRIVATE = PrivateRecords([Record("r1", SECRET, "yes"), Record("r2", "Why?", "so")], b"k" * 16)
HOW = SamplingSettings(
    question_tokens=20, answer_tokens=12, similarity=1.0, attempts=40, top_p=0.95
)
REFINE = RefinementSettings(instructed=False, candidates=2, answer_tokens=12)
QUICK = Tuning(epochs=1, batch=4, micro_batch=4, lr=1e-3)


def taught() -> LoadedModel:
    """A model of two layers that asks and answers, each with an end."""
    loaded = tiny_random("llama", layers=2, width=32)
    model = loaded.model
    turns = [PROMPTS.question_turns(question) for question in CASES]
    turns += [PROMPTS.answer_turns(q, answer) for q, both in CASES.items() for answer in both]
    rows = [Row(str(i), [sequence(loaded.tokenizer, each, 512)[0]]) for i, each in enumerate(turns)]
    batch, loss = collate(rows, pad_id=256), CausalLMLoss()
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss(model, batch).mean().backward()
        optimizer.step()
    model.requires_grad_(False)
    return loaded


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return taught()


@pytest.fixture(scope="module")
def bundle(base: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    proxies = []
    for seed in (1, 2):
        model = copy.deepcopy(base.model)
        torch.manual_seed(seed)
        proxies.append(prepare_lora(model, lora_config(model, r=2), checkpointing=False).eval())
    statement = PrivacyStatement(
        {"generator": Release(2.0, 0.01, 10), "reward": Release(2.0, 0.01, 10)}, 1e-5, 1000
    )
    return write_bundle(
        tmp_path_factory.mktemp("client") / "bundle",
        generator=proxies[0],
        reward=RewardModel(proxies[1], seed=3),
        privacy=statement.as_json(),
        config={"base": "taught", "prompts": PROMPTS.to_json(), "max_length": 128},
    )


def server(base: LoadedModel, bundle: Bundle | Path, **options: Any) -> RewardDSServer:
    return RewardDSServer(base, bundle, base=base, rank=2, **options)


@pytest.fixture(scope="module")
def sampled(base: LoadedModel, bundle: Bundle) -> list[SyntheticRow]:
    rows, counts = server(base, bundle).sample(4, 3, settings=HOW)
    assert counts.rows == len(rows) >= 3
    assert counts.answers == 12
    return rows


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(before: dict[str, torch.Tensor], model: torch.nn.Module) -> bool:
    after = model.state_dict()
    return set(before) == set(after) and all(torch.equal(before[n], after[n]) for n in before)


def test_the_whole_way_from_a_bundle_to_a_tuned_model(
    base: LoadedModel, bundle: Bundle, sampled: list[SyntheticRow]
) -> None:
    held = weights(base.model)
    own = server(base, bundle.folder)
    assert 0 < own.privacy.epsilon == pytest.approx(bundle.privacy["epsilon"], rel=1e-6)
    proxies = weights(own.scorer.generator.model), weights(own.scorer.reward.model)
    rows, _ = own.sample(4, 3, settings=HOW)
    assert rows == sampled  # no seed of the process has a part in it
    pool = own.filter(rows, keep=0.5)
    assert len(pool.kept) == len(pool.rows) // 2
    assert pool.floor >= sorted(row.reward for row in pool.rows)[-len(pool.kept)]
    for row in pool.rows:
        assert len(row.rewards) == len(row.perplexities) == len(row.candidates)
    before = weights(own.llm.model)
    refined = own.refine(pool, 2, settings=REFINE, tuning=QUICK)
    assert not same(before, own.llm.model)
    first, second = own.stages
    assert (first.stage, second.stage) == (1, 2)
    assert first.tuning.rows == len(pool.kept)
    assert second.tuning.rows == first.pool
    assert first.drawn == 2 * len(pool.rows)
    assert second.pool == len(refined.kept)
    assert second.floor == refined.floor
    assert second.reward == pytest.approx(
        sum(row.reward for row in refined.kept) / len(refined.kept)
    )
    later = [row for row in refined.rows if row.stage]
    assert later
    assert all(row.parent and row.rewards for row in later)
    before_it = {row.id: row.candidates for row in pool.rows}
    assert all(set(before_it[row.id.partition("@")[0]]) <= set(row.candidates) for row in later)
    report = own.finetune(refined, "dpo", tuning=QUICK)
    assert report.method == "dpo"
    assert same(proxies[0], own.scorer.generator.model)
    assert same(proxies[1], own.scorer.reward.model)
    assert same(held, base.model)


def test_the_papers_epochs_are_eight_and_then_three(
    base: LoadedModel, bundle: Bundle, sampled: list[SyntheticRow]
) -> None:
    own = server(base, bundle)
    ranked = [SyntheticRow(row.id, row.question, row.candidates, chosen=0) for row in sampled]
    assert own.finetune(ranked).steps == 8
    assert own.finetune(ranked, "sft").steps == 3
    assert own.finetune(ranked, tuning=QUICK).steps == 1


def test_no_stages_change_nothing(base: LoadedModel, bundle: Bundle) -> None:
    own = server(base, bundle)
    before = weights(own.llm.model)
    pool = first_pool([SyntheticRow("a", "?", ("b",), (1.0,), (1.0,), 0)], keep=1)
    assert own.refine(pool, 0) is pool
    for options in ({"stages": -1}, {"alpha": 2.0}):
        with pytest.raises(InvalidSetting):
            own.refine(pool, **options)  # type: ignore[arg-type]
    assert same(before, own.llm.model)
    assert own.stages == []


def test_nothing_private_comes_in(base: LoadedModel, bundle: Bundle) -> None:
    ngrams = PrivateNgrams.of(PRIVATE, b"k" * 16)
    own = server(base, bundle, gate=ReleaseGate(ngrams))
    before = weights(own.llm.model)
    row = SyntheticRow("a", "?", ("b",), (1.0,), (1.0,), 0)
    pool = first_pool([row], keep=1)
    private: Any = PRIVATE
    with pytest.raises(PrivateObject, match="sample"):
        own.sample(1, settings=private)
    with pytest.raises(PrivateObject, match="seeds"):
        own.sample(1, seeds=private)
    with pytest.raises(PrivateText, match="seed 1"):
        own.sample(1, seeds=["Who swims?", f"Is it true that {SECRET}?"])
    for given in (private, list(PRIVATE), [row, PRIVATE[0]]):
        for method in (own.filter, own.finetune, own.refine):
            with pytest.raises(PrivateObject, match=f"{method.__name__} was given"):
                method(given)
    for part in (Pool((row,), (PRIVATE[0],), 1.0), Pool((PRIVATE[0],), (row,), 1.0)):  # type: ignore[arg-type]
        with pytest.raises(PrivateObject, match="refine"):
            own.refine(part)
    for options in ({"settings": private}, {"tuning": private}):
        with pytest.raises(PrivateObject, match="refine"):
            own.refine(pool, **options)
    with pytest.raises(PrivateObject, match="finetune"):
        own.finetune(pool, tuning=private)
    with pytest.raises(PrivateObject, match="the server"):
        RewardDSServer(base, bundle, base=base, improver=lambda _: private)
    assert same(before, own.llm.model)


def test_what_is_no_synthetic_row_is_refused(base: LoadedModel, bundle: Bundle) -> None:
    own = server(base, bundle)
    given: Any
    for given, message in (
        (["text"], "number 0 is a str"),
        ("text", "not a str"),
        (None, "not a NoneType"),
        ([], "no rows"),
    ):
        with pytest.raises(InvalidRows, match=message):
            own.filter(given)
    row = SyntheticRow("a", "Who?", ("b",))
    with pytest.raises(InvalidRows, match="'a' is there twice"):
        own.filter([row, row])
    with pytest.raises(InvalidRows, match="'a'"):
        own.finetune([row])


def test_a_bundle_that_was_changed_is_refused(
    base: LoadedModel, bundle: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.folder, folder)
    path = folder / "privacy.json"
    path.write_text(path.read_text().replace('"n": 1000', '"n": 9000'))
    with pytest.raises(TamperedBundle):
        server(base, folder)


def test_engines_that_there_are_not_are_named(base: LoadedModel, bundle: Bundle) -> None:
    with pytest.raises(InvalidSetting, match="'magic'"):
        server(base, bundle, backend="magic")


def test_scores_are_of_the_bundles_own_proxies(base: LoadedModel, bundle: Bundle) -> None:
    texts = ("a rose", "blood", "qq", "up", "no idea")
    rows = [SyntheticRow(f"q{i}", question, texts) for i, question in enumerate(CASES)]
    own = server(base, bundle)
    by_reward, by_perplexity = (own.filter(rows, keep=1, alpha=alpha).rows for alpha in (1, 0))
    loaded = bundle.load_reward(LoadedModel(copy.deepcopy(base.model), base.tokenizer, base.info))
    for row in by_reward:
        for candidate, reward in zip(row.candidates, row.rewards, strict=True):
            turns = PROMPTS.judged_turns(row.question, candidate)
            ids = torch.tensor([sequence(base.tokenizer, turns, 512)[0].ids])
            with torch.no_grad():
                assert reward == pytest.approx(float(loaded.model(input_ids=ids)[0, -1]), abs=1e-4)
        assert row.reward == max(row.rewards)
    assert all(row.perplexity == min(row.perplexities) for row in by_perplexity)
    assert [row.chosen for row in by_reward] != [row.chosen for row in by_perplexity]
    by_margin = own.filter(rows, 0.4, 1.0, "margin")
    assert by_margin.select == "margin"
    assert by_margin == first_pool(by_reward, keep=0.4, select="margin")
