"""MC1 and MC2 by hand, by softmax, and through a model."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipogram.errors import InvalidProbes, InvalidSetting, NotFinite
from lipogram.llm import answer_logprobs, rng, tiny_random
from privacyrestore.evaluation import option_scores
from privacyrestore.multiple_choice import mc_of, mc_scores
from privacyrestore.training_rows import PromptTemplate

from .banks import tiny_bank

rows_of_scores = st.lists(
    st.lists(st.floats(-400, 0), min_size=2, max_size=5), min_size=1, max_size=6
)
PROMPTS = ["Q: one?", "Question two?", "Q3"]
OPTIONS = [[" a", " bb", " c c"], [" yes", " no"], [" x", " yy", " z", " w"]]
GOLD = [2, 0, 1]


@given(rows_of_scores, st.randoms(use_true_random=False), st.floats(-1e4, 1e4))
def test_mc2_is_the_softmax_and_mc1_the_strict_winner(rows, random, shift):
    gold = [random.randrange(len(row)) for row in rows]
    found = mc_of(rows, gold)
    for row, place, mc1, mc2 in zip(rows, gold, found.mc1, found.mc2, strict=True):
        others = [s for i, s in enumerate(row) if i != place]
        assert mc1 == float(row[place] > max(others))
        odds = sum(math.exp(min(s - row[place], 700)) for s in others)
        assert float(mc2) == pytest.approx(1 / (1 + odds), rel=1e-9)
    assert found.mc1_mean.value == pytest.approx(float(found.mc1.mean()))
    assert found.mc2_mean.low <= found.mc2_mean.value + 1e-12
    moved = mc_of([[s + shift for s in row] for row in rows], gold)
    torch.testing.assert_close(moved.mc2, found.mc2, rtol=1e-6, atol=1e-9)


@given(st.lists(st.floats(-50, 0), min_size=2, max_size=6))
def test_mc2_over_all_options_is_one(row):
    assert float(mc_of([row] * len(row), range(len(row))).mc2.sum()) == pytest.approx(1)
    assert float(mc_of([row] * len(row), range(len(row))).mc1.sum()) <= 1


def test_a_tie_is_no_win():
    found = mc_of(torch.tensor([[-1.0, -1.0, -9.0], [-1.0, -1.5, -1.6]]), [0, 0])
    assert found.mc1.tolist() == [0.0, 1.0]


def test_scores_of_long_options_do_not_underflow():
    found = mc_of([[-3000.0, -3001.0]], [0])
    assert float(found.mc2) == pytest.approx(1 / (1 + math.exp(-1)))


def test_intervals_narrow_with_questions_and_repeat_with_the_seed():
    draw = rng("mc", 0)
    few = torch.randn(20, 4, generator=draw, dtype=torch.float64)
    some = mc_of(few, [0] * 20, seed=3)
    many = mc_of(few.repeat(25, 1), [0] * 500, seed=3)
    for name in ("mc1_mean", "mc2_mean"):
        wide, narrow = getattr(some, name), getattr(many, name)
        assert wide.low < wide.value < wide.high
        assert narrow.value == pytest.approx(wide.value)
        assert narrow.high - narrow.low < 0.4 * (wide.high - wide.low)
    assert mc_of(few, [0] * 20, seed=3).mc2_mean == some.mc2_mean


@pytest.mark.parametrize(
    ("scores", "gold", "error", "said"),
    [
        ([], [], InvalidProbes, "no questions"),
        ([[-1.0, -2.0]], [0, 1], InvalidSetting, "1 questions and 2"),
        ([[-1.0, -2.0], [-1.0]], [0, 0], InvalidProbes, "row 1 needs two"),
        ([[-1.0, -2.0]], [2], InvalidProbes, "row 0: the right option is 2, .* 0 to 1"),
        ([[-1.0, -2.0]], [-1], InvalidProbes, "row 0: the right option is -1"),
        ([[-1.0, -2.0], [-1.0, math.nan]], [0, 0], NotFinite, "row 1"),
        ([[-1.0, -math.inf]], [0], NotFinite, "row 0"),
        (torch.zeros(2, 2, 2), [0, 0], InvalidProbes, "row 0 .* one list"),
        (torch.zeros(4), [0] * 4, InvalidProbes, "row 0 needs two"),
    ],
)
def test_scores_that_cannot_be_ranked(scores, gold, error, said):
    with pytest.raises(error, match=said):
        mc_of(scores, gold)


def test_a_model_is_scored_by_the_sums_of_its_options():
    loaded = tiny_random(layers=2)
    found = mc_scores(loaded.model, loaded.tokenizer, PROMPTS, OPTIONS, GOLD, max_tokens=40)
    for prompt, options, gold, mc1, mc2 in zip(
        PROMPTS, OPTIONS, GOLD, found.mc1, found.mc2, strict=True
    ):
        sums = torch.tensor(
            [
                answer_logprobs(loaded.model, loaded.tokenizer, [prompt], [f"{option}."])[0]
                for option in options
            ]
        )
        assert float(mc2) == pytest.approx(float(sums.softmax(0)[gold]), rel=1e-4)
        assert float(mc1) == float(int(sums.argmax()) == gold)


def test_the_ending_counts():
    loaded = tiny_random(layers=2)
    with_stop = mc_scores(loaded.model, loaded.tokenizer, PROMPTS, OPTIONS, GOLD)
    stopped = [[f"{option}." for option in options] for options in OPTIONS]
    same = mc_scores(loaded.model, loaded.tokenizer, PROMPTS, stopped, GOLD, ending="")
    without = mc_scores(loaded.model, loaded.tokenizer, PROMPTS, OPTIONS, GOLD, ending="")
    assert torch.equal(with_stop.mc2, same.mc2)
    assert not torch.allclose(with_stop.mc2, without.mc2)


def test_restored_questions_are_scored_the_same_way():
    loaded = tiny_random(layers=2)
    bank = tiny_bank(loaded.model)
    template = PromptTemplate("{question}")
    stopped = [[f"{option}." for option in options] for options in OPTIONS]
    args = (loaded.model, loaded.tokenizer, bank, PROMPTS, stopped)
    plain = mc_of(option_scores(*args, template=template), GOLD)
    expected = mc_scores(loaded.model, loaded.tokenizer, PROMPTS, OPTIONS, GOLD)
    torch.testing.assert_close(plain.mc2, expected.mc2, rtol=1e-4, atol=1e-6)
    meta = torch.stack([bank.signal([i]) for i in range(3)])
    steered = mc_of(option_scores(*args, meta, template=template), GOLD)
    assert not torch.allclose(steered.mc2, plain.mc2, atol=1e-4)


@pytest.mark.parametrize(
    ("prompts", "options", "gold", "error"),
    [
        (["a"], OPTIONS, GOLD, InvalidSetting),
        ("abc", OPTIONS, GOLD, InvalidSetting),
        (PROMPTS, OPTIONS, [0, 0], InvalidSetting),
        (PROMPTS, OPTIONS, [0, 2, 0], InvalidProbes),
        (PROMPTS[:1], [" yes"], [0], InvalidProbes),
        (PROMPTS[:1], [[" yes"]], [0], InvalidProbes),
        ([], [], [], InvalidProbes),
    ],
)
def test_bad_questions_are_refused_before_the_model_runs(prompts, options, gold, error):
    with pytest.raises(error):
        mc_scores(None, None, prompts, options, gold)
