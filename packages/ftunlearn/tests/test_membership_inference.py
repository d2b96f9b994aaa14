import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftunlearn.membership_inference import auc, membership, membership_scores
from ftunlearn.token_statistics import token_statistics
from lipogram.errors import InvalidProbes, InvalidSetting, NotFinite
from lipogram.llm.text import encode
from lipogram.llm.tiny import tiny_random


def test_token_statistics_equal_a_loop():
    loaded = tiny_random("llama", seed=2)
    texts = [("ab", " cde"), ("", "one longer text"), ("x", "y"), ("", "z")]
    rows = [encode(loaded.tokenizer, prompt, answer) for prompt, answer in texts]
    found = token_statistics(loaded.model, loaded.tokenizer, rows, max_tokens=20)
    for row, statistics in zip(rows, found, strict=True):
        ids = row.prompt_ids + row.answer_ids
        first = max(1, len(row.prompt_ids))
        assert len(statistics.logprobs) == len(ids) - first
        for place, t in enumerate(range(first, len(ids))):
            with torch.no_grad():
                logits = loaded.model(torch.tensor([ids[:t]])).logits[0, -1].double()
            logprobs = logits.log_softmax(-1).numpy()
            p = np.exp(logprobs)
            mean = (p * logprobs).sum()
            deviation = np.sqrt((p * (logprobs - mean) ** 2).sum())
            assert statistics.logprobs[place] == pytest.approx(logprobs[ids[t]], abs=1e-5)
            assert statistics.greedy[place] == (logprobs.argmax() == ids[t])
            z = (logprobs[ids[t]] - mean) / deviation
            assert statistics.standardised[place] == pytest.approx(z, abs=1e-4)


def test_logits_that_are_not_finite_are_refused():
    loaded = tiny_random()
    with torch.no_grad():
        loaded.model.lm_head.weight[3] = torch.nan
    with pytest.raises(NotFinite):
        token_statistics(loaded.model, loaded.tokenizer, [encode(loaded.tokenizer, "a", "b")])


numbers = st.lists(st.integers(0, 5), min_size=1, max_size=10)


@given(numbers, numbers)
def test_auc_counts_pairs(positive, negative):
    wins = sum((a > b) + 0.5 * (a == b) for a in positive for b in negative)
    assert auc(positive, negative) == pytest.approx(wins / len(positive) / len(negative))


def test_auc_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="pip install scikit-learn")
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 40, 300), generator.integers(5, 50, 200)
    wanted = metrics.roc_auc_score([1] * 300 + [0] * 200, np.concatenate([a, b]))
    assert auc(a, b) == pytest.approx(wanted, rel=1e-12)


def test_the_lowest_share_of_tokens_is_averaged():
    loaded = tiny_random()
    (one,) = token_statistics(
        loaded.model, loaded.tokenizer, [encode(loaded.tokenizer, "", "a text of some length")]
    )
    loss, low, low_standardised = membership_scores(one, 0.3)
    n = len(one.logprobs)
    assert n == 20
    assert loss == pytest.approx(one.logprobs.mean())
    assert low == pytest.approx(sorted(one.logprobs)[:6] @ np.ones(6) / 6)
    assert low_standardised == pytest.approx(sorted(one.standardised)[:6] @ np.ones(6) / 6)
    assert membership_scores(one, 1.0)[0] == pytest.approx(membership_scores(one, 1.0)[1])


def test_a_model_that_was_trained_on_the_texts_is_told_from_one_that_was_not(pair_of):
    loaded, blank = tiny_random(seed=1), tiny_random(seed=2)
    forget = ["the cat sat on the mat", "a dog ran in the park", "the sun rose in the east"]
    held_out = ["qzx vjw kkp", "zzv qqj xwk", "jjx wvq zkp"]
    trained = loaded.model.train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-2)
    for _ in range(15):
        for text in forget:
            ids = torch.tensor([loaded.tokenizer(text)["input_ids"]])
            trained(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    trained.eval()
    found = membership(pair_of(trained, blank.model, loaded.tokenizer), forget, held_out)
    assert {test: part["value"] for test, part in found["vanilla"].items()} == {
        "loss": 1.0, "min_k": 1.0, "min_k++": 1.0,
    }  # fmt: skip
    for part in (*found["vanilla"].values(), *found["unlearned"].values()):
        assert 0 <= part["low"] <= part["value"] <= part["high"] <= 1
    same = membership(pair_of(blank.model, blank.model, loaded.tokenizer), forget, forget)
    assert same["vanilla"]["min_k"]["value"] == 0.5
    assert same["vanilla"] == same["unlearned"]


def test_what_cannot_be_tested_is_refused(pair_of):
    loaded = tiny_random("gpt2")
    pair = pair_of(loaded.model, loaded.model, loaded.tokenizer)
    with pytest.raises(InvalidSetting, match="k must be"):
        membership(pair, ["ab"], ["cd"], k=0.0)
    with pytest.raises(InvalidProbes, match="held-out"):
        membership(pair, ["ab"], [])
    with pytest.raises(InvalidProbes, match="one token"):
        membership(pair, ["a"], ["cd"])
    long = "x" * 2000  # there are positions for 512
    assert membership(pair, [long], [long])["vanilla"]["loss"]["value"] == 0.5
