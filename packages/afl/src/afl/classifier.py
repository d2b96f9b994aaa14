"""The pooled reference: what a federation's head equals, as a scikit-learn estimator."""

from __future__ import annotations

from lipogram.analytic.blas import Accumulate
from lipogram.analytic.buffer import Initialisation
from lipogram.analytic.estimator import AnalyticClassifier
from lipogram.analytic.gram_store import Storage


class AFLClassifier(AnalyticClassifier):
    """Ridge classifier whose sums are those of :class:`afl.Federation`.

    ``fit`` on all rows, ``partial_fit`` on the rows of one client after the other, or ``merge`` of
    classifiers that were fitted apart give the same head, and the one that a federation solves.

    Args:
        gamma: ridge γ, 1 as in the authors' code; see :class:`lipogram.analytic.AnalyticClassifier`
            for it and for all other settings.
        buffer_size, buffer_init, activation, buffer_scale, fit_intercept, storage, accumulate,
            memory_budget, folder, folds, device, space, seed: see there.
    """

    def __init__(
        self,
        *,
        gamma: float | str = 1.0,
        buffer_size: int | None = None,
        buffer_init: Initialisation = "uniform_fan_in",
        activation: str = "relu",
        buffer_scale: float = 1.0,
        fit_intercept: bool = False,
        storage: Storage = "auto",
        accumulate: Accumulate = "float64",
        memory_budget: int | None = None,
        folder: str | None = None,
        folds: int = 5,
        device: str = "cpu",
        space: str = "",
        seed: int = 0,
    ) -> None:
        super().__init__(
            gamma=gamma,
            buffer_size=buffer_size,
            buffer_init=buffer_init,
            activation=activation,
            buffer_scale=buffer_scale,
            fit_intercept=fit_intercept,
            storage=storage,
            accumulate=accumulate,
            memory_budget=memory_budget,
            folder=folder,
            folds=folds,
            device=device,
            space=space,
            seed=seed,
        )
