"""The state of a bank's training as one file, written whole: safetensors with JSON inside."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lipogram.errors import CorruptState, RunMismatch
from lipogram.files import write_atomically

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class TrainingState:
    """All that the next step depends on.

    Attributes:
        vectors: [G, K, D] float32, trained.
        optimizer: AdamW over them alone.
        best: the vectors of the best measurement so far.
        step: optimiser steps done.
        best_value: of the metric, higher is better; None before the first measurement.
        stale: measurements since the best.
        finished: nothing is left to do.
        history: what happened: `{"step", "loss", "learning_rate"}` of each step, and
            `{"step", "metric"}` of each measurement.
    """

    vectors: nn.Parameter
    optimizer: torch.optim.AdamW
    best: Tensor
    step: int = 0
    best_value: float | None = None
    stale: int = 0
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def fresh(cls, vectors: Tensor, learning_rate: float, weight_decay: float) -> TrainingState:
        """The state before the first step; `vectors` are copied."""
        parameter = nn.Parameter(vectors.detach().clone())
        optimizer = torch.optim.AdamW([parameter], lr=learning_rate, weight_decay=weight_decay)
        return cls(parameter, optimizer, parameter.detach().clone())

    def judge(self, value: float) -> None:
        """Keep the vectors if their measurement is the best so far; higher is better."""
        if self.best_value is None or value > self.best_value:
            self.best_value, self.stale = value, 0
            self.best = self.vectors.detach().clone()
        else:
            self.stale += 1

    def save(self, path: Path, digest: str) -> None:
        """Replace the checkpoint; killed at any instant, the old one or the new one is there."""
        tensors = {"vectors": self.vectors.detach(), "best": self.best}
        tensors |= {name: self.optimizer.state[self.vectors][name] for name in self._moments()}
        held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        values = {name: getattr(self, name) for name in _VALUES}
        write_atomically(path, save(held, {"state": json.dumps(values), "digest": digest}))

    def load(self, path: Path, digest: str) -> None:
        """Take up what :meth:`save` wrote.

        Raises:
            RunMismatch: it is of another training.
            CorruptState: it is no checkpoint, or one of other vectors; this state is untouched.
        """
        try:
            with safe_open(path, "pt") as file:
                head = file.metadata()
                values = json.loads(head["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            if head["digest"] != digest:
                raise RunMismatch(
                    f"{path} is of a training with other rows, settings or initial vectors: choose "
                    "another folder, or the same to go on"
                )
            missing = {"vectors", "best"} - set(tensors) or set(_VALUES) - set(values)
            wrong = {t.shape for n, t in tensors.items() if n != "step"} - {self.vectors.shape}
            if missing or wrong:
                raise ValueError("it does not fit")
        except RunMismatch:
            raise
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CorruptState(f"{path} is no checkpoint of a training: {error}") from error
        for name, value in values.items():
            setattr(self, name, value)
        with torch.no_grad():
            self.vectors.copy_(tensors["vectors"])
        self.best = tensors["best"].to(self.vectors.device)
        moments: dict[str, Any] = {
            name: tensor if name == "step" else tensor.to(self.vectors.device)
            for name, tensor in tensors.items()
            if name in _MOMENTS
        }
        self.optimizer.state.clear()
        if moments:
            self.optimizer.state[self.vectors] = moments

    def _moments(self) -> list[str]:
        return [name for name in _MOMENTS if name in self.optimizer.state[self.vectors]]


_VALUES = ("step", "best_value", "stale", "finished", "history")
