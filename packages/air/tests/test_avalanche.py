"""AIR in Avalanche's loop ends at the weights that AIR alone ends at."""

import numpy as np
import pytest
import torch

from lipogram.analytic.datasets import digits

pytest.importorskip("avalanche", reason="pip install avalanche-lib==0.6.0 runs this test")


def test_avalanche_strategy_is_air() -> None:
    from avalanche.benchmarks import nc_benchmark
    from avalanche.benchmarks.utils import as_classification_dataset
    from torch.utils.data import TensorDataset

    from air import AIRClassifier
    from air.avalanche import AIRStrategy

    rows, labels = digits()
    x, y = torch.from_numpy(rows).float(), torch.from_numpy(labels)

    class WithTargets(TensorDataset):
        targets = y.tolist()

    data = as_classification_dataset(WithTargets(x, y))
    stream = nc_benchmark(data, data, n_experiences=5, task_labels=False, seed=0)
    strategy = AIRStrategy(
        backbone=torch.nn.Identity(),
        n_classes=10,
        classifier=AIRClassifier(gamma=1.0, buffer_size=64, policy="cil"),
        train_mb_size=50,
        evaluator=None,
    )
    for experience in stream.train_stream:
        strategy.train(experience)
    ours = strategy.model.classifier
    alone = AIRClassifier(gamma=1.0, buffer_size=64).fit(rows.astype(np.float32), labels)
    order = np.argsort(ours.classes_)
    np.testing.assert_allclose(ours.coef_[order], alone.coef_, atol=1e-9 * abs(alone.coef_).max())
    scores = strategy.model(x)
    np.testing.assert_array_equal(scores.argmax(1).numpy(), alone.predict(rows.astype(np.float32)))
