import numpy as np
import torch
from sklearn.utils.estimator_checks import parametrize_with_checks

from afl.classifier import AFLClassifier
from afl.client_stats import ClientStats
from afl.federation import Federation
from lipogram.analytic.datasets import digits


@parametrize_with_checks([AFLClassifier(fit_intercept=True)])
def test_scikit_learns_contract(estimator, check):
    check(estimator)


def test_the_pooled_classifier_is_the_federations_head():
    X, y = digits()
    federation = Federation()
    for number, rows in enumerate(np.array_split(np.argsort(y, kind="stable"), 10)):
        federation.add(str(number), ClientStats.compute(X[rows], y[rows]))
    head, pooled = federation.solve(1.0), AFLClassifier(gamma=1.0).fit(X, y)
    assert np.allclose(pooled.coef_.T, head.weight, rtol=1e-9, atol=1e-12)
    assert pooled.predict(X).tolist() == head.predict(X).tolist()
    assert torch.equal(head.intercept, torch.zeros(10, dtype=torch.float64))
