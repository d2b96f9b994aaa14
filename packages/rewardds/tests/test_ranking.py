"""Ranks of candidates against scipy's and against the rule written out."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from lipogram.errors import InvalidSetting, NotFinite
from rewardds.ranking import keep_best, rank_candidates, ranked, ranks
from rewardds.synthetic import SyntheticRow

few = st.integers(-3, 3).map(float)
candidates = st.lists(st.tuples(few, st.integers(1, 5).map(float)), min_size=1, max_size=6)


@given(st.lists(few, min_size=1, max_size=8))
def test_ranks_are_those_of_scipy(values: list[float]) -> None:
    assert ranks(values).tolist() == rankdata(values, method="average").tolist()


@given(candidates, st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_the_score_is_the_weighted_sum_of_both_ranks(
    pairs: list[tuple[float, float]], alpha: float
) -> None:
    rewards, perplexities = zip(*pairs, strict=True)
    found = rank_candidates(rewards, perplexities, alpha=alpha)
    by_reward = rankdata(rewards)
    by_perplexity = len(pairs) + 1 - rankdata(perplexities)
    expected = alpha * by_reward + (1 - alpha) * by_perplexity
    assert found.scores == pytest.approx(expected.tolist(), abs=1e-12)
    assert found.scores[found.chosen] == pytest.approx(max(expected))
    if len(pairs) == 1:
        assert found.rejected is None
    else:
        assert found.rejected is not None
        assert found.rejected != found.chosen
        assert found.scores[found.rejected] == pytest.approx(min(expected))


@settings(max_examples=50)
@given(st.permutations(list(range(5))))
def test_another_order_of_the_candidates_chooses_the_same(order: list[int]) -> None:
    rewards, perplexities = [0.3, 1.0, 1.0, -2.0, 0.1], [3.0, 2.0, 9.0, 1.5, 4.0]
    chosen = rank_candidates(rewards, perplexities)
    mixed = rank_candidates([rewards[i] for i in order], [perplexities[i] for i in order])
    assert order[mixed.chosen] == chosen.chosen
    assert mixed.rejected is not None
    assert order[mixed.rejected] == chosen.rejected


def test_a_tie_goes_to_the_higher_reward() -> None:
    found = rank_candidates([0.0, 1.0], [1.0, 2.0])  # ranks 1 + 2 and 2 + 1
    assert found.scores == (1.5, 1.5)
    assert (found.chosen, found.rejected) == (1, 0)


def test_a_tie_in_both_ranks_goes_to_the_first() -> None:
    assert rank_candidates([1.0, 1.0], [2.0, 2.0]).chosen == 0


def test_alpha_one_is_the_reward_alone_and_zero_the_perplexity() -> None:
    rewards, perplexities = [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]
    assert rank_candidates(rewards, perplexities, alpha=1).chosen == 2
    assert rank_candidates(rewards, perplexities, alpha=0).chosen == 0


def test_nothing_is_rejected_that_says_the_same() -> None:
    row = SyntheticRow("q", "?", ("a", "b", "a"), (1.0, 0.0, 1.0), (2.0, 3.0, 2.0))
    found = ranked(row)
    assert (found.chosen, found.rejected, found.worst) == (0, 1, "b")
    same = SyntheticRow("q", "?", ("a",) * 3, (1.0,) * 3, (2.0,) * 3)
    assert (ranked(same).chosen, ranked(same).rejected) == (0, None)
    dealt = SyntheticRow("q", "?", ("a", "b", "a"), (1.0, 2.0, 3.0), (2.0,) * 3)
    found = ranked(dealt, alpha=1.0)  # one text with two rewards: a control's
    assert (found.answer, found.rejected) == ("a", None)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(InvalidSetting, match=rf"{alpha}.*\[0, 1\]"):
        rank_candidates([1.0], [1.0], alpha=alpha)


@pytest.mark.parametrize(
    ("reward", "perplexity"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.inf), (1.0, 0.0)]
)
def test_a_candidate_without_a_number_is_refused(reward: float, perplexity: float) -> None:
    with pytest.raises(NotFinite, match="candidate 1"):
        rank_candidates([0.0, reward], [1.0, perplexity])


@pytest.mark.parametrize(("rewards", "perplexities"), [([], []), ([1.0], [1.0, 2.0])])
def test_lists_that_do_not_match_are_refused(
    rewards: list[float], perplexities: list[float]
) -> None:
    with pytest.raises(InvalidSetting, match=f"{len(rewards)} rewards and {len(perplexities)}"):
        rank_candidates(rewards, perplexities)


@given(st.lists(few, min_size=1, max_size=40), st.integers(1, 8))
def test_the_best_share_is_kept(rewards: list[float], k: int) -> None:
    kept = keep_best(rewards, 1 / k)
    assert len(kept) == len(set(kept)) == max(1, len(rewards) // k)
    others = [rewards[i] for i in range(len(rewards)) if i not in kept]
    assert min(rewards[i] for i in kept) >= max(others, default=-math.inf)
    assert [rewards[i] for i in kept] == sorted((rewards[i] for i in kept), reverse=True)


def test_the_papers_share_of_its_2994_questions() -> None:
    assert len(keep_best([0.0] * 2994, 1 / 8)) == 374


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.5, math.nan])
def test_a_share_outside_its_range_is_refused(keep: float) -> None:
    with pytest.raises(InvalidSetting, match=str(keep)):
        keep_best([1.0], keep)


def test_nothing_to_keep_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="no questions"):
        keep_best([], 0.5)
