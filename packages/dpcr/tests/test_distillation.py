import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from dpcr.distillation import distillation_losses, incremental_losses


def drawn(seed, n=6, k=5):
    random = np.random.default_rng(seed)
    return 3 * random.normal(size=(n, k)), random


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), known=st.integers(1, 4), tau=st.floats(0.5, 5))
def test_losses_are_those_of_the_paper(seed, known, tau):
    scores, random = drawn(seed)
    old = random.normal(size=(6, known))
    slots = random.integers(known, 5, 6)
    kept = -(softmax(old / tau, 1) * log_softmax(scores[:, :known] / tau, 1)).sum(1)
    local = -log_softmax(scores[:, known:], 1)[np.arange(6), slots - known]
    given_ = [torch.from_numpy(each) for each in (scores, slots, old)]
    losses = incremental_losses(*given_, lam=7.0, temperature=tau)
    np.testing.assert_allclose(losses.numpy(), local + 7 * kept, rtol=1e-10)
    alone = distillation_losses(given_[0][:, :known], given_[2], temperature=tau)
    np.testing.assert_allclose(alone.numpy(), kept, rtol=1e-10)


def test_the_first_task_is_plain_cross_entropy():
    scores, random = drawn(0)
    slots = random.integers(0, 5, 6)
    losses = incremental_losses(torch.from_numpy(scores), torch.from_numpy(slots))
    expected = -log_softmax(scores, 1)[np.arange(6), slots]
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-12)


def test_a_sample_of_an_old_class_is_distilled_only():
    scores, random = drawn(1)
    old = torch.from_numpy(random.normal(size=(6, 3)))
    x = torch.from_numpy(scores)
    kept = 10 * distillation_losses(x[:, :3], old)
    mixed = incremental_losses(x, torch.tensor([0, 3, 1, 4, 2, 3]), old)
    assert torch.equal(mixed == kept, torch.tensor([True, False, True, False, True, False]))
    no_new = incremental_losses(x[:, :3], torch.tensor([0, 1, 2, 0, 1, 2]), old)
    assert torch.equal(no_new, kept)


def test_distillation_is_least_where_nothing_moved():
    old = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = old.clone().requires_grad_()
    distillation_losses(scores, old).sum().backward()
    assert scores.grad.abs().max() < 1e-12
