"""A drift calibrator in one file, its unfinished task included."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from dpcr.analytic_head import AnalyticHead
from dpcr.bank_state import check_moments, part
from dpcr.projectors import Projector
from dpcr.shift_map import ShiftMap
from lipogram.analytic.settings import whole
from lipogram.analytic.state import read_state, write_state
from lipogram.analytic.statistics_state import describe, restore
from lipogram.errors import CorruptState, LipogramError

if TYPE_CHECKING:
    from dpcr.drift_calibrator import DriftCalibrator

    Calibrator = TypeVar("Calibrator", bound=DriftCalibrator)
else:
    Calibrator = TypeVar("Calibrator")

KIND = "dpcr-calibrator"
PARTS = ("bank", "observed", "plain")  # of class statistics


def write_calibrator(calibrator: DriftCalibrator, path: str | Path) -> Path:
    """Write a calibrator to one safetensors file, atomically."""
    tensors: dict[str, Tensor] = {}
    described: dict[str, Any] = {
        "kind": KIND,
        "settings": calibrator.settings(),
        "tasks": calibrator.tasks,
        "head": None,
        "shift": None,
        "projectors": list(calibrator.projectors),
    }
    for name in PARTS:
        statistics = getattr(calibrator, name)
        described[name] = None
        if statistics is not None:
            held, described[name] = describe(statistics, f"{name}/")
            tensors |= held
    held, described["pairs"] = calibrator.pairs.state("pairs/")
    tensors |= held
    if calibrator.head is not None:
        held, described["head"] = calibrator.head.state("head/")
        tensors |= held
    if calibrator.shift is not None:
        held, described["shift"] = calibrator.shift.state("shift/")
        tensors |= held
    for slot, projector in enumerate(calibrator.projectors.values()):
        tensors[f"projector/{slot}/vectors"] = projector.vectors.contiguous()
        tensors[f"projector/{slot}/strength"] = projector.strength
    return write_state(path, tensors, described)


def read_calibrator(
    kind: type[Calibrator], path: str | Path, *, device: torch.device | str = "cpu"
) -> Calibrator:
    """The calibrator that :func:`write_calibrator` wrote.

    Raises:
        FileNotFoundError: no such file.
        CorruptState: a damaged or hostile file, or one of another kind.
    """
    tensors, described = read_state(path)
    if described.get("kind") != KIND:
        raise CorruptState(f"{path} holds {described.get('kind')!r}, not {KIND!r}")
    try:
        return _restored(kind, tensors, described, torch.device(device))
    except CorruptState:
        raise
    except (LipogramError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptState(
            f"{path}: the parts of the state do not fit together: {error!r}"
        ) from None


def _restored(
    kind: type[Calibrator],
    tensors: dict[str, Tensor],
    described: dict[str, Any],
    device: torch.device,
) -> Calibrator:
    calibrator = kind(**described["settings"], device=device)
    calibrator.tasks = whole("tasks", described["tasks"], least=0)
    for name in PARTS:
        if described[name] is not None:
            statistics = restore(tensors, described[name], f"{name}/", device=device)
            check_moments(statistics)
            setattr(calibrator, name, statistics)
    moved = {name: tensor.to(device) for name, tensor in tensors.items()}
    pairs = type(calibrator.pairs)
    calibrator.pairs = pairs.of_state(tensors, described["pairs"], "pairs/", device=device)
    if described["head"] is not None:
        calibrator.head = AnalyticHead.of_state(moved, described["head"], "head/")
    if described["shift"] is not None:
        calibrator.shift = ShiftMap.of_state(moved, described["shift"], "shift/")
    for slot, label in enumerate(described["projectors"]):
        held = part(moved, f"projector/{slot}/")
        calibrator.projectors[label] = _projector(held, calibrator, label)
    _check(calibrator)
    return calibrator


def _projector(held: dict[str, Tensor], calibrator: DriftCalibrator, label: Any) -> Projector:
    vectors, strength = held["vectors"], held["strength"]
    bank = calibrator.bank
    if bank is None or label not in bank.index or vectors.shape[0] != bank.n_features:
        raise CorruptState(f"there is a projector of class {label!r}, and no such class")
    if vectors.ndim != 2 or strength.shape != vectors.shape[1:]:
        raise CorruptState(f"the projector of class {label!r} has other shapes")
    gap = vectors.T @ vectors - torch.eye(vectors.shape[1]).to(vectors)
    if vectors.numel() and float(gap.abs().max()) > 1e-6:
        raise CorruptState(f"the projector of class {label!r} is none")
    return Projector(vectors, strength)


def _check(calibrator: DriftCalibrator) -> None:
    bank, head = calibrator.bank, calibrator.head
    fits = (bank is None) == (head is None) == (not calibrator.tasks)
    if bank is not None and head is not None:
        fits = fits and head.in_features == bank.n_features
        shift = calibrator.shift
        fits = fits and (shift is None or shift.out_features == bank.n_features)
    if not fits:
        raise CorruptState("damaged or hostile state: head, bank and shift do not fit together")
