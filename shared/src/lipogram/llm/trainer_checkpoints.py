"""Trainer checkpoints of safetensors and JSON: nothing is pickled, and nothing unpickled."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer, TrainingArguments

from lipogram.errors import CorruptState
from lipogram.llm.quiet import quiet
from lipogram.settings import plain

OPTIMIZER, RANDOM, SCHEDULER = "optimizer", "random", "scheduler.json"
STATE = "trainer_state.json"
"""Written last: a checkpoint is whole once this is there and is JSON."""


class CheckpointedTrainer(Trainer):
    """A Trainer whose checkpoints hold no pickle, are whole or not taken, and resume bit for bit.

    transformers saves the arguments, the optimiser, the schedule and the random states with
    `torch.save`. Here they are `training_args.json`, `optimizer.safetensors` with
    `optimizer.json`, `scheduler.json`, and `random.safetensors` with `random.json` (`random_1` and
    so on for the other processes). Not for FSDP or DeepSpeed, which keep the optimiser's shards in
    formats of their own: train those with `save_only_model`.
    """

    args: TrainingArguments
    model: Any
    optimizer: Any
    lr_scheduler: Any

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As `Trainer.train`; True resumes from the newest whole checkpoint of `output_dir`.

        Raises:
            CorruptState: the checkpoint, or every one of the folder, is not whole, or was not
                written by this class.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(str(self.args.output_dir))
        if resume_from_checkpoint:
            check_checkpoint(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint or None, *args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:  # what lies there from another run is no longer whole
            (folder / STATE).unlink(missing_ok=True)
        super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        with quiet():
            model.save_pretrained(folder, state_dict=state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        _write(folder / "training_args.json", self.args.to_sanitized_dict())

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.args.should_save:
            return
        folder, state = Path(output_dir), self.optimizer.state_dict()
        tensors, values = {}, {}
        for number, entries in state["state"].items():
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"{number}.{name}"] = value.contiguous()
                else:
                    values[f"{number}.{name}"] = value
        save_file(tensors, folder / f"{OPTIMIZER}.safetensors")
        _write(folder / f"{OPTIMIZER}.json", {"values": values, "groups": state["param_groups"]})
        _write(folder / SCHEDULER, self.lr_scheduler.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        head = _read(folder / f"{OPTIMIZER}.json")
        entries = _tensors(folder / f"{OPTIMIZER}.safetensors") | head["values"]
        state: dict[int, dict[str, Any]] = {}
        for key, value in entries.items():
            number, _, name = key.partition(".")
            state.setdefault(int(number), {})[name] = value
        groups = [
            {k: tuple(v) if k == "betas" else v for k, v in group.items()}
            for group in head["groups"]
        ]
        try:
            self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        except ValueError as error:
            raise CorruptState(f"{folder} is of another optimiser: {error}") from error
        self.lr_scheduler.load_state_dict(_read(folder / SCHEDULER))

    def _save_scaler(self, output_dir: str) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and self.args.should_save:
            _write(Path(output_dir) / "scaler.json", scaler.state_dict())

    def _load_scaler(self, checkpoint: str | None) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and checkpoint is not None:
            scaler.load_state_dict(_read(Path(checkpoint) / "scaler.json"))

    def _save_rng_state(self, output_dir: str) -> None:
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        kind, keys, *counters = np.random.get_state(legacy=True)  # noqa: NPY002 - transformers draws from it
        tensors = {"torch": torch.get_rng_state(), "numpy": torch.tensor(keys, dtype=torch.int64)}
        if torch.cuda.is_available():
            states = torch.cuda.get_rng_state_all()
            tensors |= {f"cuda.{device}": state for device, state in enumerate(states)}
        save_file(tensors, folder / f"{self._random}.safetensors")
        values = {"python": random.getstate(), "numpy": [kind, *counters]}
        _write(folder / f"{self._random}.json", values)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        path = Path(checkpoint) / self._random
        tensors, values = (
            _tensors(path.with_suffix(".safetensors")),
            _read(path.with_suffix(".json")),
        )
        version, internal, gauss = values["python"]
        random.setstate((version, tuple(internal), gauss))
        kind, *counters = values["numpy"]
        keys = tensors["numpy"].numpy().astype(np.uint32)
        np.random.set_state((kind, keys, *counters))  # noqa: NPY002
        torch.set_rng_state(tensors["torch"])
        cuda = [tensors[f"cuda.{i}"] for i in range(len(tensors)) if f"cuda.{i}" in tensors]
        if torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(cuda)

    @property
    def _random(self) -> str:
        process = self.args.process_index
        return f"{RANDOM}_{process}" if process else RANDOM


def last_checkpoint(folder: str | Path) -> str:
    """The newest checkpoint in `folder` that is whole; one cut off in writing is passed over.

    Raises:
        CorruptState: there is none.
    """
    found = [
        path
        for path in Path(folder).glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdigit()
    ]
    for path in sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")), reverse=True):
        try:
            check_checkpoint(path)
        except CorruptState:
            continue
        return str(path)
    raise CorruptState(f"{folder} holds no whole checkpoint to resume from")


def check_checkpoint(folder: Path) -> None:
    """Raise CorruptState for a folder that is no whole checkpoint without pickles."""
    _read(folder / STATE)
    weights = [*folder.glob("model*.safetensors"), *folder.glob("**/adapter_model.safetensors")]
    names = (SCHEDULER, f"{OPTIMIZER}.json", f"{OPTIMIZER}.safetensors")
    missing = [name for name in names if not (folder / name).exists()]
    if missing or not weights:
        raise CorruptState(
            f"{folder} lacks {', '.join(missing) or 'weights in safetensors'}: it cannot be resumed"
        )


def _write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(plain(values, path.name), allow_nan=False))


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CorruptState(f"{path} is missing or is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CorruptState(f"{path} must hold an object, it holds a {type(values).__name__}")
    return values


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CorruptState(f"{path} cannot be read: {error}") from error
