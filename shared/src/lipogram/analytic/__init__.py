"""Closed-form learning: sums that merge and subtract, and heads solved from them on demand."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lipogram.analytic.backbones import Backbone as Backbone
    from lipogram.analytic.backbones import load_backbone as load_backbone
    from lipogram.analytic.buffer import GaussianKernelBuffer as GaussianKernelBuffer
    from lipogram.analytic.buffer import RandomBuffer as RandomBuffer
    from lipogram.analytic.estimator import AnalyticClassifier as AnalyticClassifier
    from lipogram.analytic.features import FeatureStore as FeatureStore
    from lipogram.analytic.features import extract as extract
    from lipogram.analytic.solve import RidgeSolution as RidgeSolution
    from lipogram.analytic.solve import RidgeSystem as RidgeSystem
    from lipogram.analytic.statistics import ClassStatistics as ClassStatistics

_HOME = {
    "AnalyticClassifier": "estimator",
    "Backbone": "backbones",
    "ClassStatistics": "statistics",
    "FeatureStore": "features",
    "GaussianKernelBuffer": "buffer",
    "RandomBuffer": "buffer",
    "RidgeSolution": "solve",
    "RidgeSystem": "solve",
    "extract": "features",
    "load_backbone": "backbones",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
