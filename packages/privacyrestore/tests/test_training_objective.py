"""The loss against exact arithmetic, at both ends of its range."""

import math
from decimal import Decimal, localcontext

import pytest
import torch

from lipogram.errors import InvalidSetting
from privacyrestore.training_objective import LARGEST, log1mexp, log_odds, orpo_lm_loss

POINTS = [-1e-6, -1e-5, -1e-3, -0.1, -0.6, -0.69, -0.7, -1.0, -3.0, -20.0, -90.0]


def exact(x):
    """log(1 − e^x) with a hundred digits, of the very number that x is."""
    with localcontext(prec=100):
        return (1 - Decimal(x).exp()).ln()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log1mexp_has_all_its_digits(dtype):
    x = torch.tensor(POINTS, dtype=dtype)
    unit = torch.finfo(dtype).eps
    for at, ours in zip(x.tolist(), log1mexp(x).tolist(), strict=True):
        wanted = exact(at)
        assert abs((Decimal(ours) - wanted) / wanted) < 8 * Decimal(unit), at


def test_gradients_are_right_and_finite_at_both_ends():
    x = torch.tensor(POINTS, dtype=torch.float64, requires_grad=True)
    log1mexp(x).sum().backward()
    wanted = [1 / math.expm1(at) + 1 for at in POINTS]
    assert x.grad.tolist() == pytest.approx(wanted, rel=1e-9)
    single = torch.tensor([0.0, -1e-9, -1e4], requires_grad=True)
    log_odds(single).sum().backward()
    assert bool(torch.isfinite(single.grad).all())


def test_log_odds_are_bounded_at_zero_and_linear_far_below():
    ends = log_odds(torch.tensor([0.0, -1e-9, LARGEST, -50.0]))
    assert bool(torch.isfinite(ends).all())
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])
    assert float(ends[3]) == -50.0
    half = torch.tensor([-0.5], dtype=torch.bfloat16)
    assert log_odds(half).dtype == torch.float32


def test_the_loss_is_that_of_the_paper():
    preferred, rejected, gold = (torch.tensor(p, dtype=torch.float64) for p in _MEANS)
    ours = orpo_lm_loss(preferred, rejected, gold, alpha=0.7)
    for row, loss in enumerate(ours.tolist()):
        p, r, g = (Decimal(means[row]) for means in _MEANS)
        odds = [m.exp() / (1 - m.exp()) for m in (p, r)]
        wanted = -p + Decimal("0.7") * (1 + odds[1] / odds[0]).ln() - g
        assert loss == pytest.approx(float(wanted), rel=1e-12)
    single = orpo_lm_loss(*(torch.tensor(p) for p in _MEANS), alpha=0.7)
    assert torch.allclose(single.double(), ours, rtol=1e-5)


def test_the_gradient_is_that_of_finite_differences():
    means = [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in _MEANS]
    assert torch.autograd.gradcheck(lambda *m: orpo_lm_loss(*m, alpha=0.7), means)


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_bad_alpha_is_refused(alpha):
    with pytest.raises(InvalidSetting, match="alpha"):
        orpo_lm_loss(*(torch.tensor(p) for p in _MEANS), alpha=alpha)


_MEANS = ([-0.5, -2.0, -0.01, -6.0], [-1.5, -0.3, -0.02, -0.004], [-0.2, -4.0, -1.0, -0.7])
