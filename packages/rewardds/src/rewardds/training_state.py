"""A private training on disk: how much noise was drawn, and the state to go on from.

The count is on disk before the noise it counts is drawn. Killed at any instant, a training has
counted at least as many noisy sums as it has formed; taken up again, it goes on from the last
saved state, and the steps in between stay counted: they are lost, and not made up for.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lipogram.errors import CorruptState
from lipogram.files import write_atomically
from lipogram.settings import differences
from rewardds.clipped_gradients import Tally
from rewardds.errors import DataMismatch
from rewardds.rows import Row

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def rows_digest(rows: Sequence[Row], key: bytes) -> bytes:
    """Keyed SHA-256 of all that is trained on, in its order: 32 bytes.

    Args:
        rows: of a training.
        key: which stays where the rows are.
    """
    found = hmac.new(key, digestmod=hashlib.sha256)
    for row in rows:
        told = [row.id, [[each.ids, each.scored] for each in row.sequences], row.pairs]
        found.update(json.dumps(told).encode() + b"\n")
    return found.digest()


class TrainingState:
    """A folder that holds one training; for the client's eyes alone.

    Args:
        folder: made if it is not there, for the user alone.
        settings: of the training, as JSON holds them.
        rows: that it trains on.

    Raises:
        DataMismatch: the folder holds a training with other rows or settings.
        CorruptState: its count cannot be read: without it no ε can be stated.
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], rows: Sequence[Row]):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._count, self._saved = folder / "count.json", folder / "state.safetensors"
        self.additions = 0
        self._head: dict[str, Any]
        if self._count.exists():
            self._take_up(settings, rows)
        else:
            key = secrets.token_bytes(32)
            digest = rows_digest(rows, key).hex()
            self._head = {"key": key.hex(), "rows": digest, "settings": settings}
            self._write(self._count, json.dumps(self._head | {"additions": 0}).encode())

    def count(self) -> None:
        """One more noisy sum: on disk when this returns, and only then may it be formed."""
        told = self._head | {"additions": self.additions + 1}
        self._write(self._count, json.dumps(told).encode())
        self.additions += 1

    def save(self, named: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Keep parameters and AdamW's moments; killed at any instant, old or new are there.

        Args:
            named: all trainable parameters.
            optimizer: over them.
        """
        tensors = {f"parameter.{name}": p.detach() for name, p in named.items()}
        for name, parameter in named.items():
            for moment, value in optimizer.state[parameter].items():
                tensors[f"{moment}.{name}"] = value
        held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        self._write(self._saved, save(held, {"additions": str(self.additions)}))

    def load(self, named: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Put back what :meth:`save` kept, if it was ever called.

        Raises:
            CorruptState: the file is damaged or of another model; nothing was changed.
        """
        if not self._saved.exists():
            return
        try:
            with safe_open(self._saved, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            values = {name: tensors[f"parameter.{name}"] for name in named}
            for name, parameter in named.items():
                if values[name].shape != parameter.shape:
                    raise ValueError(f"{name} has another shape")
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise CorruptState(f"{self._saved} is no state of this training: {error}") from error
        optimizer.state.clear()
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(values[name])
                moments = {m: tensors.get(f"{m}.{name}") for m in _MOMENTS}
                if all(value is not None for value in moments.values()):
                    optimizer.state[parameter] = {
                        m: value if m == "step" else value.to(parameter)
                        for m, value in moments.items()
                        if value is not None
                    }

    def log(self, tally: Tally) -> None:
        """Write down what a step saw of the records: private, readable by the user alone."""
        told = json.dumps({"addition": self.additions, **asdict(tally)}) + "\n"
        place = self._count.with_name("private-log.jsonl")
        handle = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(told)

    def _take_up(self, settings: dict[str, Any], rows: Sequence[Row]) -> None:
        try:
            told = json.loads(self._count.read_bytes())
            self.additions = int(told.pop("additions"))
            same = rows_digest(rows, bytes.fromhex(told["key"])).hex() == told["rows"]
            held = told["settings"]
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptState(
                f"{self._count} does not tell how much noise was drawn: put it back from a copy, "
                "or count a whole training as spent and begin in another folder"
            ) from error
        other = differences(held, settings)
        if not same:
            other.insert(0, "the records are not those it was begun with")
        if other:
            raise DataMismatch(f"{self._count.parent} holds another training: {'; '.join(other)}")
        self._head = told

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        write_atomically(path, content)
        os.chmod(path, 0o600)
