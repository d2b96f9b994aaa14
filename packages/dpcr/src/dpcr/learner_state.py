"""A learner's folder: what is finished, and how far the task at hand has come.

``learner.json`` names one file of weights and one of statistics, under names that were never used
before, and is replaced last: whatever the instant of a kill, it names a whole state. The task at
hand has three more files, each of which says which task it is of.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from dpcr.checkpoints import load_module, module_tensors
from dpcr.drift_calibrator import DriftCalibrator
from dpcr.training_state import check_identity
from lipogram.analytic.state import read_state, write_state
from lipogram.errors import CorruptState
from lipogram.files import write_atomically

KIND = "dpcr-learner"
NETWORK = "dpcr-network"
TRAINED = "dpcr-trained"
SCHEMA = 1
MANIFEST = "learner.json"
_OWN = re.compile(r"(network|calibrator)-[0-9a-f]{16}\.safetensors")
_TORN = re.compile(  # what a kill left of a file that was being written
    r"\.(learner\.json|((network|calibrator)-[0-9a-f]{16}|training|trained|observed)\.safetensors)"
    r"\.[0-9a-f]+\.tmp"
)


@dataclass(frozen=True)
class KeptLearner:
    """A finished state on disk.

    Attributes:
        described: settings, classes, reports.
        network, calibrator: files.
    """

    described: dict[str, Any]
    network: Path
    calibrator: Path

    def load_network(self, network: nn.Module) -> None:
        """Put the weights into a module of the same architecture.

        Raises:
            CorruptState: a damaged file, or another architecture.
        """
        tensors, described = _read(self.network)
        if described.get("kind") != NETWORK:
            raise CorruptState(f"{self.network} holds {described.get('kind')!r}, not {NETWORK!r}")
        load_module(network, tensors, "network/")

    def load_calibrator(self, device: Any) -> DriftCalibrator:
        """Statistics, map and head.

        Raises:
            CorruptState: a damaged file.
        """
        try:
            return DriftCalibrator.load(self.calibrator, device=device)
        except FileNotFoundError:
            raise _missing(self.calibrator) from None


def write_learner(
    folder: Path, described: Mapping[str, Any], network: nn.Module, calibrator: DriftCalibrator
) -> None:
    """Write a finished state; the one before is there until this one is whole, then removed."""
    folder.mkdir(parents=True, exist_ok=True)
    tag = secrets.token_hex(8)
    names = {part: f"{part}-{tag}.safetensors" for part in ("network", "calibrator")}
    write_state(folder / names["network"], module_tensors(network, "network/"), {"kind": NETWORK})
    calibrator.save(folder / names["calibrator"])
    told = {"schema": SCHEMA, "kind": KIND, **described, "files": names}
    write_atomically(folder / MANIFEST, json.dumps(told, indent=1, allow_nan=False).encode())
    tidy(folder, names.values())


def read_learner(folder: Path) -> KeptLearner:
    """What :func:`write_learner` wrote.

    Raises:
        FileNotFoundError: there is no learner in the folder.
        CorruptState: ``learner.json`` is damaged or hostile.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"there is no learner in {folder}: {MANIFEST} is not there")
    try:
        described = json.loads(path.read_bytes(), parse_constant=_refuse)
        files = described["files"]
        wanted = {"settings": dict, "train": dict, "classes": list, "reports": list}
        whole = described["kind"] == KIND and described["schema"] == SCHEMA
        whole = whole and all(isinstance(described[n], kind) for n, kind in wanted.items())
        whole = whole and all(_OWN.fullmatch(files[n]) for n in ("network", "calibrator"))
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise CorruptState(f"{path} is no description of a learner, or a damaged one")
    return KeptLearner(described, folder / files["network"], folder / files["calibrator"])


def tidy(folder: Path, names: Collection[str]) -> None:
    """Remove older states than the one that has these files, and what a kill left half-written."""
    for path in folder.iterdir():
        older = _OWN.fullmatch(path.name) and path.name not in names
        if older or _TORN.fullmatch(path.name):
            path.unlink(missing_ok=True)


class TaskFiles:
    """How far the task at hand has come: in training, trained, looked at.

    Args:
        folder: of the learner; None keeps nothing.
        identity: JSON values; ``task`` is the task's number.
        writes: whether this process writes, or only reads.
    """

    def __init__(
        self, folder: Path | None, identity: Mapping[str, Any], *, writes: bool = True
    ) -> None:
        self.folder, self.identity, self.writes = folder, dict(identity), writes

    @property
    def training(self) -> Path | None:
        """Where :func:`dpcr.training.train_task` keeps its checkpoints."""
        return self._path("training")

    def trained(self, network: nn.Module) -> dict[str, Any] | None:
        """Load the trained network if it is there; what came of its training.

        Raises:
            RunMismatch: it was trained on another task, or otherwise.
            CorruptState: a damaged file, or another architecture.
        """
        path = self._path("trained")
        if path is None or not path.is_file():
            return None
        tensors, described = read_state(path)
        check_identity(path, TRAINED, described, self.identity)
        load_module(network, tensors, "network/")
        return dict(described["report"])

    def keep_trained(self, network: nn.Module, report: Mapping[str, Any]) -> None:
        """Keep a network that has been trained on the task."""
        path = self._path("trained")
        if path is not None and self.writes:
            told = {"kind": TRAINED, "identity": self.identity, "report": dict(report)}
            write_state(path, module_tensors(network, "network/"), told)

    def observed(self, calibrator: DriftCalibrator) -> DriftCalibrator | None:
        """The calibrator that has seen the task's samples, if it is there.

        Raises:
            CorruptState: a damaged file, or one of another learner.
        """
        path = self._path("observed")
        if path is None or not path.is_file():
            return None
        found = type(calibrator).load(path, device=calibrator.device)
        if found.tasks != calibrator.tasks or found.settings() != calibrator.settings():
            raise CorruptState(f"{path} is of another learner: remove it")
        return found

    def keep_observed(self, calibrator: DriftCalibrator) -> None:
        """Keep a calibrator that has seen the task's samples."""
        path = self._path("observed")
        if path is not None and self.writes:
            calibrator.save(path)

    def remove(self) -> None:
        """Remove the files; the one that says what task they are of goes last."""
        for name in ("observed", "training", "trained"):
            path = self._path(name)
            if path is not None and self.writes:
                path.unlink(missing_ok=True)

    def drop_finished(self) -> None:
        """Remove files of a task before this one: a kill came before they were removed."""
        path = self._path("trained")
        if path is None or not self.writes or not path.is_file():
            return
        identity = read_state(path)[1].get("identity")
        number = identity.get("task") if isinstance(identity, dict) else None
        if isinstance(number, int) and number < self.identity["task"]:
            self.remove()

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}.safetensors"


def _read(path: Path) -> Any:
    try:
        return read_state(path)
    except FileNotFoundError:
        raise _missing(path) from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _missing(path: Path) -> CorruptState:
    return CorruptState(f"{path.parent / MANIFEST} names {path.name}, which is not there")
