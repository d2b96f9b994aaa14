"""The analytic imbalance rectifier: a closed-form head in which every class counts equally.

Reference: Fang et al., "AIR: Analytic Imbalance Rectifier for Continual Learning",
arXiv 2408.10349.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from air.weighting import Normalise, Rule, check_rule, class_weights, normalisation
from lipogram.analytic.blas import Accumulate
from lipogram.analytic.buffer import Initialisation
from lipogram.analytic.estimator import AnalyticClassifier
from lipogram.analytic.gram_store import Storage
from lipogram.errors import ClosedClass, InvalidSetting, NotSeen


class AIRClassifier(AnalyticClassifier):
    """Class-weighted ridge head for imbalanced streams.

    ``min_W Σ_y c π_y Σ_{i: y_i=y} ‖e_y − Wᵀx_i‖² + γ‖W‖²`` with ``π_y = 1/N_y`` and, by default,
    ``c = K/Σ_y π_y`` (the harmonic mean of the class sizes). Weights are formed when the head is
    solved, from the sizes at that time: nothing learnt depends on them.

    Args:
        gamma: ridge γ > 0 in units of the average class's features, or ``"cv"`` for the largest γ
            within one standard error of the least held-out loss of fold statistics. ``"gcv"``
            serves only ``class_weight="none"``.
        buffer_size: width D of the random ReLU buffer, None for none.
        class_weight: rule for π, see :func:`air.weighting.class_weights`; a number β gives N^-β.
        normalize: rule for c, see :func:`air.weighting.normalisation`.
        policy: ``"gcil"``, classes may come back at any time and each keeps its second moment;
            ``"cil"``, :meth:`end_task` folds finished classes into one matrix of D² numbers.
        min_count: class sizes below it count as it.
        buffer_init, activation, buffer_scale, fit_intercept, storage, accumulate, memory_budget,
            folder, folds, device, space, seed: see :class:`lipogram.analytic.AnalyticClassifier`.

    Attributes:
        class_weight_: c π_y of each class, (k,).
        gamma_effective_: γ/c, the ridge against weights π.
        classes_, coef_, intercept_, class_count_, n_samples_seen_, condition_, gamma_, nbytes_: see
            :class:`lipogram.analytic.AnalyticClassifier`.
    """

    def __init__(
        self,
        *,
        gamma: float | str = 0.1,
        buffer_size: int | None = 2048,
        class_weight: Rule = "balanced",
        normalize: Normalise = "seen",
        policy: Literal["gcil", "cil"] = "gcil",
        min_count: float = 1,
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
        self.class_weight = class_weight
        self.normalize = normalize
        self.policy = policy
        self.min_count = min_count

    def check_settings(self) -> None:
        """Raise InvalidSetting for settings that cannot work."""
        super().check_settings()
        check_rule(self.class_weight)
        normalisation(np.ones(0), (), self.normalize)
        if self.normalize not in ("seen", "slots", "none"):
            raise InvalidSetting(f"normalize is {self.normalize!r}, it must be seen, slots or none")
        if self.policy not in ("gcil", "cil"):
            raise InvalidSetting(f"policy is {self.policy!r}, it must be gcil or cil")
        if not np.isfinite(self.min_count) or self.min_count <= 0:
            raise InvalidSetting(f"min_count is {self.min_count!r}, it must be finite and above 0")
        if self.gamma == "gcv" and self.class_weight not in ("none", 0):
            raise InvalidSetting(
                'gamma="gcv" misjudges class-weighted rows: use gamma="cv", a number, or '
                'class_weight="none"'
            )
        if self.gamma == "cv" and self.policy == "cil":
            raise InvalidSetting(
                'gamma="cv" holds classes out, so they cannot be folded: use policy="gcil"'
            )

    def _pooled(self) -> bool:
        return False

    def _raw_weight(self) -> NDArray[np.float64]:
        held = self.statistics_
        return class_weights(
            held.mass, self.class_weight, classes=held.classes, min_count=self.min_count
        )

    def _class_weight(self) -> NDArray[np.float64]:
        raw = self._raw_weight()
        return raw * normalisation(raw, self.statistics_.classes, self.normalize)

    # ------------------------------------------------------------------ the stream

    def partial_fit(
        self,
        X: Any,
        y: Any,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn from more rows, see :meth:`lipogram.analytic.AnalyticClassifier.partial_fit`.

        Raises:
            ClosedClass: with ``policy="cil"``, a class that :meth:`end_task` has closed.
        """
        with self._closed_class_remedy():
            return super().partial_fit(X, y, classes, sample_weight)

    def forget(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Unlearn rows exactly, see :meth:`lipogram.analytic.AnalyticClassifier.forget`."""
        with self._closed_class_remedy():
            return super().forget(X, y, sample_weight)

    def drop_classes(self, labels: Any) -> Self:
        """Remove whole classes, see :meth:`lipogram.analytic.AnalyticClassifier.drop_classes`."""
        with self._closed_class_remedy():
            return super().drop_classes(labels)

    def end_task(self, classes: Any = None) -> Self:
        """Close classes: with ``policy="cil"`` their second moments are folded and freed.

        ``S += π_y A_y`` with the π_y of now; the common factor c stays free, so folding is exact.
        With ``policy="gcil"`` nothing closes and nothing changes.

        Args:
            classes: labels to close; by default every open class that has rows.

        Raises:
            NotSeen: a class without a row.
            UnknownClass, ClosedClass: see there.
        """
        check_is_fitted(self)
        if self.policy == "gcil":
            return self
        held = self.statistics_
        raw = dict(zip(held.classes, self._raw_weight().tolist(), strict=True))
        counts = dict(zip(held.classes, held.counts.tolist(), strict=True))
        closed = {held.classes[slot] for slot in held.frozen}
        if classes is None:
            labels = [label for label in held.classes if counts[label] and label not in closed]
        else:
            labels = np.atleast_1d(np.asarray(classes)).tolist()
        for label in labels:
            held.index.slot(label)
            if not counts[label]:
                raise NotSeen(f"class {label!r} has no row yet: there is nothing to close")
        held.fold({label: raw[label] for label in labels})
        return self._changed()

    def reweight(self, class_weight: Rule) -> Self:
        """Change the rule for the class weights after the fact; no row is touched.

        Raises:
            InvalidSetting: an unknown rule.
            ClosedClass: folded classes keep the ratio of their weights.
        """
        check_is_fitted(self)
        before, self.class_weight = self.class_weight, class_weight
        try:
            self.check_settings()
            weight = self._class_weight()
            if self.policy == "cil":
                self.statistics_.common_scale(weight)
        except Exception:
            self.class_weight = before
            raise
        return self._changed()

    # ------------------------------------------------------------------ what it knows

    @property
    def class_weight_(self) -> NDArray[np.float64]:
        """C π_y of each class, (k,)."""
        check_is_fitted(self)
        return self._class_weight()

    @property
    def gamma_effective_(self) -> float:
        """γ/c, the ridge as it stands against weights π (and 1/N_y for AIR)."""
        raw = self._raw_weight() if self.__sklearn_is_fitted__() else np.ones(0)
        return self.gamma_ / normalisation(raw, self.statistics_.classes, self.normalize)

    @contextmanager
    def _closed_class_remedy(self) -> Iterator[None]:
        try:
            yield
        except ClosedClass as error:
            raise ClosedClass(
                f'{error}. Under policy="cil" end_task() closes classes for good; '
                'policy="gcil" keeps them open'
            ) from None
