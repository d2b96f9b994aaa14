"""Other ways to choose rows, against the rules written out."""

import math

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from lipogram.errors import InvalidSetting
from lipogram.llm.scoring import answer_logprobs
from lipogram.llm.tiny import tiny_random
from rewardds.baselines import (
    nonprivate_bound,
    perplexity_filter,
    random_subset,
    raw_synthetic,
    rouge_filter,
    shuffled_rewards,
)
from rewardds.errors import InvalidRecords, InvalidRows, UnsafeSetting
from rewardds.finetuning import Tuning, prepare_for_tuning
from rewardds.prompts import Prompts
from rewardds.ranking import rank_candidates
from rewardds.records import PrivateRecords, PublicRecords, Record
from rewardds.synthetic import SyntheticRow

ROWS = [
    SyntheticRow(
        f"q{i}",
        f"Question {i}?",
        (f"the cat sat {i}", f"on the mat {i}", f"dogs bark {i}"),
        (float(i), i + 0.5, -float(i)),
        (3.0 + i, 2.0 + (i * 7) % 5, 9.0),
        chosen=1,
        rejected=2,
    )
    for i in range(12)
]
EMPTY = SyntheticRow("none", "Nothing?", ())
PUBLIC = PublicRecords(
    [Record("p0", "?", "a dog that barks at 3"), Record("p1", "?", "on the mat 7")]
)
PRIVATE = PrivateRecords(
    [Record("r0", "Which way?", "left"), Record("r1", "Who?", "me")], b"k" * 16
)


def test_raw_rows_have_a_candidate_by_chance() -> None:
    found = raw_synthetic([*ROWS, EMPTY], seed=3)
    assert [row.id for row in found] == [row.id for row in ROWS]
    assert {row.chosen for row in found} == {0, 1, 2}
    assert all(row.rejected is None for row in found)
    assert raw_synthetic(ROWS[5:6], seed=3)[0] == found[5]  # whatever it is drawn beside
    assert [row.chosen for row in raw_synthetic(ROWS, seed=4)] != [row.chosen for row in found]
    counts = torch.zeros(3)
    for seed in range(50):
        for row in raw_synthetic(ROWS, seed=seed):
            counts[row.chosen or 0] += 1
    assert float((counts / counts.sum() - 1 / 3).abs().max()) < 0.06  # 3 standard errors


def test_a_random_subset_is_one() -> None:
    raw = {row.id: row for row in raw_synthetic(ROWS, seed=1)}
    found = random_subset([*ROWS, EMPTY], 4, seed=1)
    assert len({row.id for row in found}) == 4
    assert all(raw[row.id] == row for row in found)
    assert [row.id for row in random_subset(ROWS, 4, seed=2)] != [row.id for row in found]
    assert [row.id for row in random_subset(ROWS, 12)] == [row.id for row in ROWS]
    for n in (0, 13):
        with pytest.raises(InvalidSetting, match=f"{n} rows.* 12"):
            random_subset([*ROWS, EMPTY], n)


def test_the_rouge_filter_is_nearest_to_public_references() -> None:
    scorer = RougeScorer(["rougeL"])
    best = {}
    for row in ROWS:
        scores = [
            max(scorer.score(one.response, text)["rougeL"].fmeasure for one in PUBLIC)
            for text in row.candidates
        ]
        best[row.id] = max(scores), scores.index(max(scores))
    found = rouge_filter([EMPTY, *ROWS], PUBLIC, 5)
    expected = sorted(best, key=lambda name: (-best[name][0], int(name[1:])))[:5]
    assert [row.id for row in found] == expected
    assert [row.chosen for row in found] == [best[name][1] for name in expected]
    assert found[0].answer == "on the mat 7"


def test_the_rouge_filter_takes_no_private_references() -> None:
    with pytest.raises(InvalidRecords, match="PrivateRecords"):
        rouge_filter(ROWS, PRIVATE, 2)  # type: ignore[arg-type]


def test_the_perplexity_filter_keeps_the_lowest() -> None:
    found = perplexity_filter(ROWS, 3)
    lowest = sorted((min(row.perplexities), i) for i, row in enumerate(ROWS))[:3]
    assert [(row.perplexity, int(row.id[1:])) for row in found] == lowest
    with pytest.raises(InvalidRows, match="'q9'"):
        perplexity_filter([SyntheticRow("q9", "?", ("a",))], 1)


def test_shuffled_rewards_are_the_same_rewards_elsewhere() -> None:
    found = shuffled_rewards(ROWS, alpha=1.0, seed=5)
    before = [value for row in ROWS for value in row.rewards]
    after = [value for row in found for value in row.rewards]
    assert sorted(after) == sorted(before)
    assert abs(float(torch.corrcoef(torch.tensor([before, after]))[0, 1])) < 0.4
    for row in found:
        ranking = rank_candidates(row.rewards, row.perplexities, alpha=1.0)
        assert (row.chosen, row.rejected) == (ranking.chosen, ranking.rejected)
    assert shuffled_rewards(ROWS, alpha=1.0, seed=5) == found
    with pytest.raises(InvalidRows, match="'none'"):
        shuffled_rewards([EMPTY])


def test_the_bound_without_privacy_must_be_asked_for() -> None:
    model = prepare_for_tuning(tiny_random("llama", layers=1), rank=4)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    tuning, prompts = Tuning("sft", 4, 2, 2, lr=1e-2), Prompts()

    def score() -> float:
        asked = [
            f"<s>system\nAnswer the question.</s>\n<s>user\n{one.instruction}</s>\n<s>assistant\n"
            for one in PRIVATE
        ]
        answers = [f"{one.response}</s>" for one in PRIVATE]
        return sum(
            answer_logprobs(model.model, model.tokenizer, asked, answers, add_special_tokens=False)
        )

    with pytest.raises(UnsafeSetting, match="allow_nonprivate=True"):
        nonprivate_bound(model, PRIVATE, tuning, prompts)
    with pytest.raises(InvalidSetting, match="'dpo'"):
        nonprivate_bound(model, PRIVATE, Tuning("dpo"), prompts, allow_nonprivate=True)
    assert all(torch.equal(before[name], value) for name, value in model.model.state_dict().items())
    start = score()
    found = nonprivate_bound(model, PRIVATE, tuning, prompts, allow_nonprivate=True)
    assert found.epsilon == math.inf
    assert (found.tuning.rows, found.tuning.steps) == (2, 4)
    assert score() > start + 1
