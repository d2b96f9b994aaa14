"""AEF-OCL in Avalanche's loop ends at the heads that it alone ends at."""

import numpy as np
import pytest
import torch

from lipogram.analytic.datasets import digits

pytest.importorskip("avalanche", reason="pip install avalanche-lib==0.6.0 runs this test")


def test_avalanche_strategy_is_aefocl() -> None:
    from avalanche.benchmarks import nc_benchmark
    from avalanche.benchmarks.utils import as_classification_dataset
    from torch.utils.data import TensorDataset

    from aefocl import AEFOCLClassifier
    from aefocl.avalanche import AEFOCLStrategy

    rows, labels = digits()
    kept = np.flatnonzero((labels < 5) | (np.arange(len(labels)) % 5 == 0))
    rows, labels = rows[kept].astype(np.float32), labels[kept]
    x, y = torch.from_numpy(rows), torch.from_numpy(labels)

    class WithTargets(TensorDataset):
        targets = y.tolist()

    data = as_classification_dataset(WithTargets(x, y))
    stream = nc_benchmark(data, data, n_experiences=5, task_labels=False, seed=0)
    settings = {"gamma": 1.0, "buffer_size": 64}
    strategy = AEFOCLStrategy(
        backbone=torch.nn.Identity(),
        n_classes=10,
        classifier=AEFOCLClassifier(**settings),
        train_mb_size=50,
        evaluator=None,
    )
    for experience in stream.train_stream:
        strategy.train(experience)
    alone = AEFOCLClassifier(**settings).fit(rows, labels)
    model = strategy.model
    balanced = model.eval()(x).argmax(1).numpy()
    np.testing.assert_array_equal(balanced, alone.predict(rows))
    plain = model.train()(x).argmax(1).numpy()
    np.testing.assert_array_equal(plain, alone.predict(rows, balanced=False))
    assert (balanced != plain).any()
