"""Any translation model made simultaneous, without training."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psfuture import futures as futures
    from psfuture import metrics as metrics
    from psfuture.bootstrap import compare_at as compare_at
    from psfuture.calibration import Calibration as Calibration
    from psfuture.calibration import calibrate as calibrate
    from psfuture.curves import plot_curves as plot_curves
    from psfuture.curves import plot_traces as plot_traces
    from psfuture.engine import Engine as Engine
    from psfuture.lm_future import LanguageModel as LanguageModel
    from psfuture.models import load as load
    from psfuture.p2f_batches import P2FCollator as P2FCollator
    from psfuture.p2f_settings import P2FSettings as P2FSettings
    from psfuture.p2f_trainer import P2FTrainer as P2FTrainer
    from psfuture.p2f_training import train_p2f as train_p2f
    from psfuture.policies import AlignAtt as AlignAtt
    from psfuture.policies import HoldN as HoldN
    from psfuture.policies import Limits as Limits
    from psfuture.policies import LocalAgreement as LocalAgreement
    from psfuture.policies import Offline as Offline
    from psfuture.policies import PsFuture as PsFuture
    from psfuture.policies import WaitK as WaitK
    from psfuture.policy_text import make_policy as make_policy
    from psfuture.session import Event as Event
    from psfuture.session import Session as Session
    from psfuture.simulation import simulate as simulate
    from psfuture.sweeps import sweep as sweep
    from psfuture.trace import Trace as Trace

__version__ = version("lipogram-psfuture")

_WHERE = {
    "Calibration": "calibration",
    "calibrate": "calibration",
    "compare_at": "bootstrap",
    "LanguageModel": "lm_future",
    "load": "models",
    "make_policy": "policy_text",
    "P2FCollator": "p2f_batches",
    "P2FSettings": "p2f_settings",
    "P2FTrainer": "p2f_trainer",
    "plot_curves": "curves",
    "plot_traces": "curves",
    "simulate": "simulation",
    "sweep": "sweeps",
    "train_p2f": "p2f_training",
    "Engine": "engine",
    "Event": "session",
    "Session": "session",
    "Trace": "trace",
    **dict.fromkeys(
        ("AlignAtt", "HoldN", "Limits", "LocalAgreement", "Offline", "PsFuture", "WaitK"),
        "policies",
    ),
}
_MODULES = ("futures", "metrics")
__all__ = ["__version__", *_WHERE, *_MODULES]


def __getattr__(name: str) -> Any:
    """Public names, loaded when they are first asked for: torch takes seconds."""
    if name in _MODULES:
        return import_module(f"psfuture.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module 'psfuture' has no attribute {name!r}")
    return getattr(import_module(f"psfuture.{_WHERE[name]}"), name)
