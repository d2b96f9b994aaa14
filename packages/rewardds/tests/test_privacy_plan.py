import math
import warnings

import pytest

from lipogram.errors import InvalidSetting
from rewardds.accounting import BoundedRelease, Release, epsilon
from rewardds.errors import UnreachablePrivacy, WeakAmplification
from rewardds.group_privacy import group_epsilons, largest_group
from rewardds.plan import PrivacyPlan, RunPlan, default_delta

RUN = RunPlan(64, 3)


def test_both_proxies_together_keep_the_budget():
    plan = PrivacyPlan(8, 1e-5, n=3364, generator=RUN, reward=RunPlan(32, 2))
    one, other = plan.generator_release, plan.reward_release
    assert (one.sample_rate, one.steps) == (64 / 3364, 157)
    assert (other.sample_rate, other.steps) == (32 / 3364, 210)
    assert one.sigma == other.sigma
    assert plan.total == epsilon([one, other], 1e-5)
    assert 7.99 <= plan.total <= 8
    assert plan.releases == (one, other)
    assert f"ε {plan.total:.4g} at δ 1e-05" in plan.sentence()
    assert f"ε {epsilon([one], 1e-5):.4g} by itself" in plan.sentence()


def test_the_split_is_by_noise():
    plan = PrivacyPlan(4, 1e-5, n=3364, generator=RUN, reward=RUN, split=0.25)
    assert plan.reward_release.sigma == pytest.approx(3 * plan.generator_release.sigma)
    assert 3.99 <= plan.total <= 4


def test_one_run_alone_and_after_others():
    alone = PrivacyPlan(8, 1e-5, n=3364, generator=RUN)
    assert alone.reward_release is None
    assert alone.generator_release.sigma == pytest.approx(0.5566, abs=2e-3)
    later = PrivacyPlan(8, 1e-5, n=3364, generator=RUN, spent=(alone.generator_release,) * 0)
    assert later == alone
    spent = (Release(1.0, 64 / 3364, 157),)
    after = PrivacyPlan(8, 1e-5, n=3364, generator=RUN, spent=spent)
    assert after.generator_release.sigma > alone.generator_release.sigma
    assert after.total == epsilon([*spent, after.generator_release], 1e-5)
    with pytest.raises(UnreachablePrivacy):
        PrivacyPlan(1, 1e-5, n=3364, generator=RUN, spent=(Release(0.6, 0.1, 100),))


def test_delta_is_below_one_record_in_n():
    assert default_delta(100) == 1e-5
    assert default_delta(10**6) == pytest.approx(10**-6.6)
    assert PrivacyPlan(8, n=3364, generator=RunPlan(64, 0.1)).delta == 1e-5
    for wrong in (1 / 3364, 0.1, 0.0, -1e-5, math.nan):
        with pytest.raises(InvalidSetting, match="1/n"):
            PrivacyPlan(8, wrong, n=3364, generator=RUN)


def test_steps_are_whole_batches_in_the_epochs():
    assert RUN.steps(3364) == 157
    assert RunPlan(64, 0.001).steps(3364) == 1
    assert RunPlan(1, 1.5).steps(10) == 15


@pytest.mark.parametrize("wrong", [-1.0, 0.0, math.nan, math.inf, "8"])
def test_a_budget_that_is_none_is_refused(wrong):
    with pytest.raises(InvalidSetting, match="epsilon"):
        PrivacyPlan(wrong, 1e-5, n=3364, generator=RUN)


def test_data_that_are_too_few_are_told():
    with pytest.raises(InvalidSetting, match=r"64.*30 records"):
        PrivacyPlan(8, 1e-5, n=30, generator=RUN)
    with pytest.raises(InvalidSetting, match="n is 0"):
        PrivacyPlan(8, 1e-5, n=0, generator=RUN)
    with pytest.warns(WeakAmplification, match="639"):
        PrivacyPlan(8, 1e-5, n=639, generator=RUN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PrivacyPlan(8, 1e-5, n=640, generator=RUN)


@pytest.mark.parametrize("split", ["by-epsilon", 0.0, 1.0, -0.1, math.nan])
def test_a_split_that_is_none_is_refused(split):
    with pytest.raises(InvalidSetting, match="split"):
        PrivacyPlan(8, 1e-5, n=3364, generator=RUN, reward=RUN, split=split)


@pytest.mark.parametrize("values", [(0, 3), (1.5, 3), (64, 0), (64, math.inf)])
def test_a_run_that_is_none_is_refused(values):
    with pytest.raises(InvalidSetting):
        RunPlan(*values)


def test_a_group_without_sampling_is_a_larger_sensitivity():
    for size in (2, 7):
        found = epsilon([Release(10.0, 1.0, 4)], 1e-6, group=size)
        assert found == pytest.approx(epsilon([Release(10.0 / size, 1.0, 4)], 1e-6), rel=1e-3)


def test_a_group_goes_from_neighbour_to_neighbour_where_only_epsilon_is_known():
    assert epsilon([BoundedRelease(0.4)], 1e-9, group=3) == pytest.approx(1.2, rel=1e-3)
    delta = 1e-9 * (1 + math.exp(0.4) + math.exp(0.8))  # of three, each seen from its neighbour
    pair = [BoundedRelease(0.4, 1e-9)]
    assert epsilon(pair, delta * 0.99, group=3) == math.inf
    assert epsilon(pair, delta * 1.01, group=3) == pytest.approx(1.2, rel=1e-3)


def test_five_pairs_clipped_one_by_one_cost_five_times_as_much():
    """The specification's reading of the authors' pairs: ε 8 a pair is nearly 40 a record."""
    run = Release(0.557, 64 / 3364, 157)
    found = group_epsilons([run], 1e-5, (1, 2, 5))
    assert found[1] == epsilon([run], 1e-5)
    assert 15 < found[2] < 2 * found[1]
    assert 35 < found[5] < 5 * found[1]


def test_a_group_costs_less_than_a_sum_of_its_ways():
    """Between one record at rate p and a whole group that comes and goes as one."""
    run = Release(1.0, 0.05, 50)
    packed = Release(1.0 / 3, 1 - 0.95**3, 50)  # all three whenever one is drawn
    assert epsilon([run], 1e-5) < epsilon([run], 1e-5, group=3) < epsilon([packed], 1e-5)


def test_the_largest_group_is_the_last_one_below_the_limit():
    run = [Release(0.7, 64 / 3364, 157)]
    limit = 20.0
    size = largest_group(run, 1e-5, limit)
    costs = group_epsilons(run, 1e-5, (size, size + 1))
    assert costs[size] <= limit < costs[size + 1]
    assert largest_group(run, 1e-5, 0.1) == 0
    assert largest_group([], 1e-5, 1.0, most=3) == 3
    with pytest.raises(InvalidSetting, match="limit"):
        largest_group(run, 1e-5, 0.0)
