"""Class-incremental learning without old images: statistics that move as the backbone drifts."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpcr.analytic_head import AnalyticHead as AnalyticHead
    from dpcr.bank_state import load_bank as load_bank
    from dpcr.bank_state import save_bank as save_bank
    from dpcr.calibration import calibrate as calibrate
    from dpcr.drift_calibrator import DriftCalibrator as DriftCalibrator
    from dpcr.held_out_classes import HeldOutClasses as HeldOutClasses
    from dpcr.learner import DPCR as DPCR
    from dpcr.projectors import Projector as Projector
    from dpcr.projectors import class_projector as class_projector
    from dpcr.projectors import row_space_projector as row_space_projector
    from dpcr.reconstruction import reconstruct as reconstruct
    from dpcr.shift_accumulator import ShiftAccumulator as ShiftAccumulator
    from dpcr.shift_map import ShiftMap as ShiftMap
    from dpcr.shift_map import fit_shift as fit_shift
    from dpcr.task_report import TaskReport as TaskReport
    from dpcr.train_settings import TrainConfig as TrainConfig

_HOME = {
    "DPCR": "learner",
    "TaskReport": "task_report",
    "TrainConfig": "train_settings",
    "AnalyticHead": "analytic_head",
    "DriftCalibrator": "drift_calibrator",
    "HeldOutClasses": "held_out_classes",
    "Projector": "projectors",
    "ShiftAccumulator": "shift_accumulator",
    "ShiftMap": "shift_map",
    "calibrate": "calibration",
    "class_projector": "projectors",
    "fit_shift": "shift_map",
    "load_bank": "bank_state",
    "reconstruct": "reconstruction",
    "row_space_projector": "projectors",
    "save_bank": "bank_state",
}
__version__ = version("lipogram-dpcr")
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:  # torch is imported when a name is used, not before
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
