import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipogram.errors import InvalidSetting
from lipogram.llm.objectives import (
    dpo_loss,
    kl_rows,
    npo_loss,
    scored_rows,
    sequence_logps,
    simnpo_loss,
    token_logps,
)


def batch(seed=0, b=3, t=7, v=11, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(b, t, v, generator=generator, dtype=dtype)
    labels = torch.randint(v, (b, t), generator=generator)
    labels[torch.rand(b, t, generator=generator) < 0.4] = -100
    return logits, labels


def by_hand(logits, labels):
    """[row][scored token] log-probabilities in Python's floats."""
    found = []
    for z, y in zip(logits.double().tolist(), labels.tolist(), strict=True):
        row = []
        for t in range(1, len(y)):
            if y[t] != -100:
                top = max(z[t - 1])
                total = math.log(sum(math.exp(x - top) for x in z[t - 1])) + top
                row.append(z[t - 1][y[t]] - total)
        found.append(row)
    return found


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 9), st.integers(2, 20))
def test_sums_are_those_of_a_loop(seed, b, t, v):
    logits, labels = batch(seed, b, t, v)
    rows = by_hand(logits, labels)
    sums, counts = sequence_logps(logits, labels)
    assert counts.tolist() == [len(row) for row in rows]
    assert sums.tolist() == pytest.approx([sum(row) for row in rows], abs=1e-5)
    flat = [value for row in rows for value in row]
    assert token_logps(logits, labels).tolist() == pytest.approx(flat, abs=1e-5)


def test_unlabelled_rows_may_hold_anything():
    logits, labels = batch()
    wild = logits.clone()
    wild[~scored_rows(labels)] = math.nan
    assert torch.equal(sequence_logps(wild, labels)[0], sequence_logps(logits, labels)[0])
    wild.requires_grad_()
    sequence_logps(wild, labels)[0].sum().backward()
    assert torch.isfinite(wild.grad).all()


def test_half_precision_is_computed_in_float32():
    logits, labels = batch()
    half = logits.bfloat16()
    assert sequence_logps(half, labels)[0].dtype == torch.float32
    assert torch.equal(sequence_logps(half, labels)[0], sequence_logps(half.float(), labels)[0])


@pytest.mark.parametrize("beta", [0.05, 0.1, 4.5])
def test_losses_are_those_of_a_loop(beta):
    a, b, c, d = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)) * 20
    counts = torch.tensor([1, 2, 3, 4, 5, 6])

    def softplus(x):
        return max(x, 0) + math.log1p(math.exp(-abs(x)))

    rows = list(zip(*(x.tolist() for x in (a, b, c, d, counts)), strict=True))
    dpo = sum(softplus(-beta * ((w - x) - (y - z))) for w, y, x, z, _ in rows) / 6
    npo = 2 / beta * sum(softplus(beta * (w - x)) for w, x, *_ in rows) / 6
    simnpo = 2 / beta * sum(softplus(beta * (w / n + 0.3)) for w, _, _, _, n in rows) / 6
    assert dpo_loss(a, b, c, d, beta).item() == pytest.approx(dpo, rel=1e-6)
    assert npo_loss(a, b, beta).item() == pytest.approx(npo, rel=1e-6)
    assert simnpo_loss(a, counts, beta, 0.3).item() == pytest.approx(simnpo, rel=1e-6)


def test_far_apart_models_stay_finite():
    far, near = torch.tensor([-5000.0]), torch.tensor([0.0])
    for loss in (dpo_loss(far, near, near, far, 1.0), npo_loss(near, far, 1.0)):
        assert loss.item() == pytest.approx(10000, rel=1e-6)


def test_kl_is_masked_and_not_negative():
    p, labels = batch(1)
    q, _ = batch(2)
    mask = labels != -100
    found = kl_rows(p, q, mask)
    assert found.shape == (int(mask.sum()),)
    assert (found > 0).all()
    wild = torch.where(mask[..., None], p, math.inf)
    assert torch.equal(kl_rows(wild, q, mask), found)
    assert kl_rows(p, p, mask).abs().max() < 1e-6
    x, y = p[mask][0].double().softmax(0), q[mask][0].double().softmax(0)
    loop = sum(s * math.log(s / r) for s, r in zip(x.tolist(), y.tolist(), strict=True))
    assert found[0].item() == pytest.approx(loop, abs=1e-6)


@pytest.mark.parametrize("loss", [dpo_loss, npo_loss, simnpo_loss])
def test_beta_has_to_be_above_zero(loss):
    n = 4 if loss is dpo_loss else 2
    with pytest.raises(InvalidSetting, match="beta must be above 0, not 0"):
        loss(*[torch.ones(2)] * n, 0)
