"""DP-SGD for language models with adapters, or whole ones: noisy sums of cut gradients into AdamW.

Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, algorithm 1, with Adam's update
as post-processing: each step samples every record with probability p = B/n, cuts each sampled
record's gradient to norm C, adds N(0, σ²C²I) to their sum and divides by B.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipogram.analytic.settings import positive, whole
from lipogram.discrete_gaussian import Stream
from lipogram.errors import InvalidSetting
from lipogram.files import locked
from lipogram.secure_noise import add_gaussian, secure_stream
from rewardds.admission import admit
from rewardds.clipped_gradients import ClippedGradients, Mode, Tally
from rewardds.errors import InvalidRecords, UnsafeSetting
from rewardds.losses import RecordLoss
from rewardds.poisson import physical_batches, sample
from rewardds.rows import PackedBatch, Row, collate
from rewardds.training_run import TrainingReport, TrainingRun
from rewardds.training_state import TrainingState


class DPTrainer:
    """Trains the trainable parameters of `model` in place, under differential privacy.

    Attributes:
        tally: what was seen of the records in this process; not private, never to be published.

    Args:
        model: with adapters or heads to be trained, or `full`.
        run: σ, n, B and T.
        loss: one value a row, see :mod:`rewardds.losses`.
        lr: AdamW's learning rate.
        clip: C, largest L2 norm of a row's gradient.
        physical_batch: rows that are run at once; memory and speed hang on it, the result does not.
        grad: "hooks" for adapters, "ghost" for whole models.
        weight_decay: AdamW's.
        full: let parameters outside adapters and heads be trained.
        folder: where the count and the state are kept, so that a training that was killed goes on;
            None for none. What is in it is private.
        save_every: steps between two saved states.
        device: None for the model's own.
        pad_id: None for the model's, or 0.
        bucket: lengths of batches are multiples of it, in tokens.
        unsafe_no_noise: let σ be 0, for comparison; nothing private may be trained on then.
        unsafe_seed: a seed for masks and noise in place of the system's secure source, for studies.

    Raises:
        InvalidSetting: a setting outside its range.
        UnsafeSetting: σ = 0 without the flag.
        InadmissibleModel: see :func:`rewardds.admission.admit`.
    """

    def __init__(
        self,
        model: nn.Module,
        run: TrainingRun,
        *,
        loss: RecordLoss,
        lr: float,
        clip: float,
        physical_batch: int = 8,
        grad: Mode = "hooks",
        weight_decay: float = 0.0,
        full: bool = False,
        folder: str | Path | None = None,
        save_every: int = 10,
        device: torch.device | str | None = None,
        pad_id: int | None = None,
        bucket: int = 32,
        unsafe_no_noise: bool = False,
        unsafe_seed: int | None = None,
    ):
        if run.sigma == 0 and not unsafe_no_noise:
            raise UnsafeSetting(
                "sigma is 0: nothing would be private. It has to be above 0, or, where no record "
                "is private, unsafe_no_noise=True"
            )
        if not weight_decay >= 0:
            raise InvalidSetting(f"weight_decay is {weight_decay!r}, it must be at least 0")
        self.lr, self.clip = positive("lr", lr), positive("clip", clip)
        self.physical_batch = whole("physical_batch", physical_batch)
        self.save_every, self.bucket = whole("save_every", save_every), whole("bucket", bucket)
        admit(model, full=full)
        self.model, self.run, self.loss, self.grad = model, run, loss, grad
        self.weight_decay, self.folder = weight_decay, None if folder is None else Path(folder)
        if device is not None:
            model.to(device)
        own = getattr(getattr(model, "config", None), "pad_token_id", None)
        self._pad_id = pad_id if pad_id is not None else own or 0
        self._seed = unsafe_seed
        self.tally = Tally()

    def train(self, rows: Sequence[Row]) -> TrainingReport:
        """Take T noisy steps, or what is left of them where `folder` holds a part.

        Args:
            rows: one for each privacy unit.

        Returns:
            What may be told: its T counts every noise addition, also of empty batches.

        Raises:
            InvalidRecords: no rows.
            InadmissibleLoss, InadmissibleModel: see :meth:`ClippedGradients.add`.
            DataMismatch, CorruptState: of the folder.
            FolderInUse: another process trains in it.
        """
        if not rows:
            raise InvalidRecords("there are no rows to train on")
        lock: Any = nullcontext()
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = locked(self.folder / "count.json", seconds=1)
        with lock:
            return self._train(rows)

    def _train(self, rows: Sequence[Row]) -> TrainingReport:
        joined: Callable[[Sequence[Row]], PackedBatch]
        joined = partial(collate, pad_id=self._pad_id, bucket=self.bucket)
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.train()
        gradients = ClippedGradients(self.model, self.loss, self.clip, self.grad, joined)
        named: dict[str, Any] = dict(zip(gradients.names, gradients.parameters, strict=True))
        optimizer = torch.optim.AdamW(
            gradients.parameters, lr=self.lr, weight_decay=self.weight_decay
        )
        try:
            state = None
            if self.folder is not None:
                state = TrainingState(self.folder, self._settings(), rows)
                state.load(named, optimizer)
            additions = state.additions if state else 0
            streams = self._streams(additions)
            lengths = [len(row) for row in rows]
            while additions < self.run.steps:
                if state:
                    state.count()
                self._step(rows, lengths, gradients, optimizer, streams)
                additions += 1
                if state and (not additions % self.save_every or additions == self.run.steps):
                    state.save(named, optimizer)
        finally:
            gradients.close()
            for module, mode in modes:
                module.training = mode
        return TrainingReport(
            additions,
            self.run.sigma,
            self.run.sample_rate,
            self.run.batch,
            self.clip,
            self._seed is not None,
        )

    def _step(
        self,
        rows: Sequence[Row],
        lengths: Sequence[int],
        gradients: ClippedGradients,
        optimizer: torch.optim.Optimizer,
        streams: tuple[Stream, Stream],
    ) -> None:
        coins, noise = streams
        gradients.reset()
        for places in physical_batches(
            sample(coins, len(rows), self.run.sample_rate), lengths, self.physical_batch
        ):
            self.tally += gradients.add([rows[place] for place in places])
        parameters = gradients.parameters
        for parameter, total in zip(parameters, self._noisy(gradients.sums, noise), strict=True):
            parameter.grad = total / self.run.batch
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _noisy(self, sums: list[Tensor], stream: Stream) -> list[Tensor]:
        """Each sum with noise; one at a time, for float64 copies of all would not be small."""
        if self.run.sigma == 0:
            return sums
        size = sum(each.numel() for each in sums)
        found = []
        for each in sums:
            share = (each.numel() / size) ** 0.5  # of the sensitivity: the grid is one for all
            found += add_gaussian(
                [each], self.run.sigma * self.clip, self.clip * share, stream=stream
            )
        return found

    def _streams(self, additions: int) -> tuple[Stream, Stream]:
        if self._seed is None:
            return secure_stream(), secure_stream()
        return secure_stream(2 * (self._seed + additions)), secure_stream(
            2 * (self._seed + additions) + 1
        )

    def _settings(self) -> dict[str, Any]:
        run = self.run
        return {
            "sigma": run.sigma,
            "n": run.n,
            "batch": run.batch,
            "steps": run.steps,
            "clip": self.clip,
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "loss": type(self.loss).__name__,
            "seeded": self._seed is not None,
        }
