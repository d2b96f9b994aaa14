"""Shared vectors: what must hold of any grouping, and what the auditor finds they hide."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipogram.errors import InvalidSetting, MissingAsset
from privacyrestore.auditing import audit
from privacyrestore.confusable import anonymity, cluster_groups, confusable_bank, named_groups
from privacyrestore.mechanisms import Exact
from privacyrestore.restoration_bank import RestorationBank

from .banks import loose_identity, random_bank

SITES = [(0, 0), (2, 1)]
M = 24


def bank(n_spans=M, seed=0):
    return random_bank(loose_identity(), SITES, n_spans, seed=seed)


def clustered(n_groups=6, size=4, seed=0):
    """Spans in tight bundles around random directions, in mixed order; and the bundles."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(n_groups, 2, 32))
    owners = draw.permutation(np.repeat(np.arange(n_groups), size))
    vectors = centres[owners] + 0.1 * draw.normal(size=(n_groups * size, 2, 32))
    words = [f"finding-{i:02}" for i in range(n_groups * size)]
    made = RestorationBank.build(torch.tensor(vectors), SITES, words, loose_identity())
    return made, owners.tolist()


def same_partition(a, b):
    return len(set(zip(a, b, strict=True))) == len(set(a)) == len(set(b))


@pytest.mark.parametrize("method", ["k-means", "hierarchical"])
@pytest.mark.parametrize("balance", [True, False])
def test_bundles_are_found(method, balance):
    for seed in range(3):
        made, owners = clustered(seed=seed)
        found = cluster_groups(made, 6, method=method, balance=balance, seed=1)
        assert same_partition(found, owners)


@settings(max_examples=25)
@given(
    n_spans=st.integers(1, 17),
    data=st.data(),
    method=st.sampled_from(["k-means", "hierarchical"]),
    seed=st.integers(0, 3),
)
def test_balanced_groups_differ_by_one_at_most(n_spans, data, method, seed):
    n_groups = data.draw(st.integers(1, n_spans))
    groups = cluster_groups(bank(n_spans), n_groups, method=method, seed=seed)
    sizes = np.bincount(groups, minlength=n_groups)
    assert len(sizes) == n_groups
    assert sizes.max() - sizes.min() <= 1
    assert groups == cluster_groups(bank(n_spans), n_groups, method=method, seed=seed)
    loose = cluster_groups(bank(n_spans), n_groups, method=method, balance=False, seed=seed)
    assert set(loose) == set(range(len(set(loose))))
    assert len(set(loose)) <= n_groups


def test_a_largest_group_bounds_all():
    assert max(np.bincount(cluster_groups(bank(), max_group=5))) <= 5


def test_groups_of_one_are_the_bank_itself():
    whole = bank()
    same = confusable_bank(whole, range(M))
    torch.testing.assert_close(same.vectors, whole.vectors)
    assert same.groups == whole.groups


def test_a_shared_vector_is_the_members_mean_direction_and_their_mean_norm():
    whole = bank(3)
    longer = whole.with_vectors(whole.vectors * torch.tensor([1.0, 3.0, 2.0])[:, None, None])
    shared = confusable_bank(longer, [0, 0, 1])
    rows = longer.vectors.flatten(1).double()
    mean = rows[0] / rows[0].norm() + rows[1] / rows[1].norm()
    expected = mean / mean.norm() * (rows[0].norm() + rows[1].norm()) / 2
    torch.testing.assert_close(shared.vectors[0].flatten().double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(shared.signal([0]), shared.signal([1]))
    assert shared.sha256 != longer.sha256
    assert "3 spans share 2 vectors" in shared.statement


def test_anonymity_under_a_prior():
    shared = confusable_bank(bank(4), [0, 0, 0, 1])
    flat = anonymity(shared)
    assert flat.sizes.tolist() == [3, 3, 3, 1]
    torch.testing.assert_close(flat.effective_sizes, flat.sizes.double())
    assert flat.best_recall == pytest.approx(2 / 4)
    skewed = anonymity(shared, torch.tensor([0.7, 0.1, 0.1, 0.1]))
    share = np.array([7, 1, 1]) / 9
    assert float(skewed.effective_sizes[0]) == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert skewed.best_recall == pytest.approx(0.8)


def test_the_audit_finds_what_the_groups_leave():
    """One span a query, no noise: the prior within groups decides, as `best_recall` says."""
    made, owners = clustered()
    draw = np.random.default_rng(0)
    frequencies = draw.dirichlet(np.ones(M))
    sets, known = ([(int(i),) for i in draw.choice(M, n, p=frequencies)] for n in (800, 20_000))
    counted = np.bincount([s[0] for s in known], minlength=M) + 0.5
    number = {owner: i for i, owner in enumerate(dict.fromkeys(owners))}
    shared = confusable_bank(made, [number[owner] for owner in owners])
    report = audit(
        shared, Exact(unsafe=True), sets, attacks=("dictionary", "likelihood"), prior_sets=known
    )
    best = anonymity(shared, torch.tensor(counted)).best_recall
    for found in report.recoveries.values():
        assert found.recall.low <= best <= found.recall.high
    whole = audit(made, Exact(unsafe=True), sets, attacks=("likelihood",), prior_sets=known)
    assert whole.recovery.value == 1.0


def test_groups_by_name(tmp_path):
    whole = bank(5)
    path = tmp_path / "groups.json"
    path.write_text(json.dumps([[whole.vocabulary[3], whole.vocabulary[0]], [whole.vocabulary[4]]]))
    assert named_groups(whole, path) == [0, 1, 2, 0, 3]
    for content in ("{", "{}", "[1]", '[["elsewhere"]]', "[[3]]"):
        path.write_text(content)
        with pytest.raises(InvalidSetting):
            named_groups(whole, path)
    path.write_text(json.dumps([[whole.vocabulary[0]], [whole.vocabulary[0]]]))
    with pytest.raises(InvalidSetting, match="two"):
        named_groups(whole, path)
    with pytest.raises(MissingAsset):
        named_groups(whole, tmp_path / "none.json")


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"n_groups": 3, "max_group": 2},
        {"n_groups": 0},
        {"n_groups": M + 1},
        {"max_group": 0},
        {"max_group": 3, "balance": False},
        {"n_groups": 3, "method": "luck"},
        {"n_groups": 3, "frequencies": torch.zeros(M)},
    ],
)
def test_clusterings_that_cannot_be(choice):
    with pytest.raises(InvalidSetting):
        cluster_groups(bank(), **choice)


def test_groups_that_cannot_be():
    opposite = bank(2).with_vectors(torch.stack([torch.ones(2, 32), -torch.ones(2, 32)]))
    for groups in ([0], [0, 2], [-1, 0], [0, 0, 0]):
        with pytest.raises(InvalidSetting):
            confusable_bank(opposite, groups)
    with pytest.raises(InvalidSetting, match="cancel"):
        confusable_bank(opposite, [0, 0])
