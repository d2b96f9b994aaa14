"""How far a training has come, in a file that another process can go on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpcr.checkpoints import load_module, module_tensors, tensors_of
from dpcr.cosine_head import CosineClassifier
from dpcr.momentum_descent import MomentumDescent
from lipogram.analytic.state import read_state, write_state
from lipogram.errors import CorruptState, RunMismatch
from lipogram.settings import differences, plain

KIND = "dpcr-training"


class TrainingState:
    """A network, the momentum of its descent, and what each epoch so far gave.

    Attributes:
        epoch: number of finished epochs.
        losses, accuracies: of each. ``seconds``: of all.
    """

    def __init__(
        self,
        network: CosineClassifier,
        descent: MomentumDescent,
        identity: Mapping[str, Any],
    ) -> None:
        self.network, self.descent = network, descent
        self.identity = plain(identity, "identity")
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self.seconds = 0.0

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.losses)

    def add(self, loss: float, accuracy: float, seconds: float) -> None:
        """Count an epoch as finished."""
        self.losses.append(loss)
        self.accuracies.append(accuracy)
        self.seconds += seconds

    def save(self, path: Path) -> None:
        """Write everything to one safetensors file, atomically."""
        tensors = module_tensors(self.network, "network/")
        tensors |= {f"velocity/{name}": v for name, v in self.descent.velocities.items()}
        told = {"losses": self.losses, "accuracies": self.accuracies, "seconds": self.seconds}
        write_state(path, tensors, {"kind": KIND, "identity": self.identity, **told})

    def load(self, path: Path) -> None:
        """Go on from what :meth:`save` wrote.

        Raises:
            RunMismatch: it is of another training.
            CorruptState: it is damaged.
        """
        tensors, described = read_state(path)
        check_identity(path, KIND, described, self.identity)
        tensors_of(self.network, tensors, "network/")
        parameters = self.descent.parameters
        velocities = {
            name.removeprefix("velocity/"): tensor
            for name, tensor in tensors.items()
            if name.startswith("velocity/")
        }
        losses: Any = described.get("losses")
        accuracies: Any = described.get("accuracies")
        seconds: Any = described.get("seconds")
        fits = _numbers(losses) and _numbers(accuracies) and _numbers([seconds])
        fits = fits and len(losses) == len(accuracies)
        fits = fits and all(
            name in parameters and tensor.shape == parameters[name].shape
            for name, tensor in velocities.items()
        )
        if not fits:
            raise CorruptState(f"{path} is damaged: its parts do not fit together")
        load_module(self.network, tensors, "network/")
        self.descent.velocities = {n: v.to(parameters[n]) for n, v in velocities.items()}
        self.losses, self.accuracies, self.seconds = list(losses), list(accuracies), float(seconds)


def check_identity(
    path: Path, kind: str, described: Mapping[str, Any], identity: Mapping[str, Any]
) -> None:
    """See that a file is of a kind, and of what is asked for.

    Raises:
        CorruptState: it is of another kind.
        RunMismatch: it is of something else; the message names the differences.
    """
    if described.get("kind") != kind:
        raise CorruptState(f"{path} holds {described.get('kind')!r}, not {kind!r}")
    found = differences(described.get("identity"), plain(identity, "identity"))
    if found:
        raise RunMismatch(
            f"{path} is of other data or settings: {'; '.join(found)}. Choose another folder, or "
            "the same data and settings to resume"
        )


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(each) in (int, float) for each in values)
