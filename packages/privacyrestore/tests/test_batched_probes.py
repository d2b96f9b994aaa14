"""The batch against scikit-learn, one problem at a time, and data that tempts it to diverge."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lipogram.errors import InvalidSetting, NotFinite
from lipogram.llm import rng
from privacyrestore.batched_probes import fit_probes, probe_accuracies


def problems(s, r, d, gap, seed=0):
    """Gaussian clouds whose means lie `gap` apart, scaled and shifted differently in each."""
    draw = rng("probes", seed)
    labels = torch.arange(r) % 2 == 0
    features = torch.randn(s, r, d, generator=draw, dtype=torch.float64)
    features[:, labels, 0] += gap
    sizes = torch.logspace(-2, 2, s, dtype=torch.float64)[:, None, None]
    return features * sizes + 3 * sizes, labels


@pytest.mark.parametrize(("r", "d", "gap"), [(60, 4, 1.0), (40, 40, 0.5), (12, 30, 2.0)])
@pytest.mark.parametrize("ridge", [1e-2, 1.0])
def test_weights_equal_those_of_scikit_learn(r, d, gap, ridge):
    features, labels = problems(5, r, d, gap)
    w, b = fit_probes(features, labels, ridge=ridge)
    for problem in range(5):
        oracle = LogisticRegression(
            C=1 / ridge, tol=1e-12, max_iter=10_000, solver="newton-cholesky"
        )
        oracle.fit(features[problem].numpy(), labels.numpy())
        scale = np.abs(oracle.coef_).max()
        assert np.abs(w[problem].numpy() - oracle.coef_[0]).max() <= 1e-4 * scale
        ours = features[problem] @ w[problem] + b[problem]
        theirs = oracle.decision_function(features[problem].numpy())
        assert np.abs(ours.numpy() - theirs).max() <= 1e-4 * max(1, np.abs(theirs).max())


def test_the_gradient_vanishes_at_the_solution():
    features, labels = problems(7, 50, 6, 1.0)
    w, b = fit_probes(features, labels, ridge=0.1)
    w, b = w.requires_grad_(), b.requires_grad_()
    scores = torch.einsum("srd,sd->sr", features, w) + b[:, None]
    signs = labels.double() * 2 - 1
    loss = torch.nn.functional.softplus(-signs * scores).sum() + 0.05 * w.square().sum()
    loss.backward()
    assert float(w.grad.abs().max()) < 1e-6
    assert float(b.grad.abs().max()) < 1e-6


@pytest.mark.parametrize("shape", [(4, 40, 3), (4, 12, 30)])
def test_separable_data_does_not_diverge(shape):
    features, labels = problems(*shape, gap=50.0)
    accuracy = probe_accuracies(features, labels, features, labels)
    w, b = fit_probes(features, labels)
    assert bool(torch.isfinite(w).all())
    assert bool(torch.isfinite(b).all())
    assert torch.equal(accuracy, torch.ones(shape[0], dtype=torch.float64))


def test_a_constant_feature_tells_nothing():
    labels = torch.arange(20) % 2 == 0
    w, _ = fit_probes(torch.full((2, 20, 3), 7.0), labels)
    assert float(w.abs().max()) < 1e-8
    same = torch.full((2, 20, 3), 7.0)
    assert torch.equal(probe_accuracies(same, labels, same, labels), torch.full((2,), 0.5).double())


def test_accuracy_does_not_depend_on_the_unit_of_the_features():
    features, labels = problems(1, 80, 5, 1.5)
    unit = probe_accuracies(features[:, :60], labels[:60], features[:, 60:], labels[60:])
    large = 1e4 * features - 7e4
    assert torch.equal(
        unit, probe_accuracies(large[:, :60], labels[:60], large[:, 60:], labels[60:])
    )


def test_bad_problems_are_refused():
    features, labels = problems(2, 10, 3, 1.0)
    with pytest.raises(InvalidSetting, match="both labels"):
        fit_probes(features, torch.ones(10, dtype=torch.bool))
    with pytest.raises(InvalidSetting, match=r"\[S, r, d\]"):
        fit_probes(features, labels[:9])
    with pytest.raises(InvalidSetting, match="ridge"):
        fit_probes(features, labels, ridge=0.0)
    features[0, 0, 0] = torch.nan
    with pytest.raises(NotFinite, match="NaN"):
        fit_probes(features, labels)
