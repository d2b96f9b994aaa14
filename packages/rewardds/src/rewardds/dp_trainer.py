"""DP-SGD for language models with adapters, or whole ones: noisy sums of cut gradients into AdamW.

Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, algorithm 1, with Adam's update
as post-processing: each step samples every record with probability p = B/n, cuts each sampled
record's gradient to norm C, adds N(0, σ²C²I) to their sum and divides by B.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from lipogram.analytic.settings import one_of, positive, whole
from lipogram.discrete_gaussian import Stream
from lipogram.errors import InvalidSetting
from lipogram.files import locked
from lipogram.secure_noise import add_gaussian, secure_stream
from rewardds.admission import admit
from rewardds.clipped_gradients import ClippedGradients, Mode, Tally, check_digits
from rewardds.errors import DataMismatch, InvalidRecords, UnsafeSetting
from rewardds.losses import RecordLoss
from rewardds.poisson import physical_batches, sample
from rewardds.processes import Processes
from rewardds.record_independence import check_independence
from rewardds.rows import PackedBatch, Row, collate
from rewardds.training_run import TrainingReport, TrainingRun
from rewardds.training_state import TrainingState, rows_digest

_FAILED = -1


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
        autocast: run the model in bfloat16 where PyTorch's autocast does; with "hooks" only.
        distributed: share each step among the processes of `torch.distributed`'s group. Noise is
            drawn once, and the result is that of one process. `folder` is the first process's.
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
        autocast: bool = False,
        distributed: bool = False,
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
        check_digits(model, one_of("grad", grad, get_args(Mode)), autocast=autocast)
        admit(model, full=full)
        self._full, self.autocast, self._processes = full, autocast, Processes(distributed)
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
            rows: one for each privacy unit; with `distributed` all of them in every process.

        Returns:
            What may be told: its T counts every noise addition, also of empty batches.

        Raises:
            InvalidRecords: no rows.
            InadmissibleLoss, InadmissibleModel: rows act on each other's gradients, or theirs are
                not found; before the first record is run.
            DataMismatch: `folder` holds a training with other rows or settings, or the processes
                were given different ones.
            CorruptState: of the folder.
            FolderInUse: another process trains in it.
        """
        if not rows:
            raise InvalidRecords("there are no rows to train on")
        joined: Callable[[Sequence[Row]], PackedBatch]
        joined = partial(collate, pad_id=self._pad_id, bucket=self.bucket)
        admit(self.model, full=self._full)
        modes = [(module, module.training) for module in self.model.modules()]
        gradients = ClippedGradients(
            self.model, self.loss, self.clip, self.grad, joined, autocast=self.autocast
        )
        try:
            self.model.train()
            check_independence(gradients, paired=any(row.pairs for row in rows))
            additions = self._train(rows, gradients)
        finally:
            gradients.close()
            for module, mode in modes:
                module.training = mode
        run, seeded = self.run, self._seed is not None
        return TrainingReport(
            additions, run.sigma, run.sample_rate, run.batch, self.clip, seeded=seeded
        )

    def _train(self, rows: Sequence[Row], gradients: ClippedGradients) -> int:
        """The noise additions of the whole training, also of parts before this one."""
        processes, device = self._processes, gradients.device
        told = rows_digest(rows, json.dumps(self._settings()).encode())
        processes.same(told, device)
        named: dict[str, Any] = dict(zip(gradients.names, gradients.parameters, strict=True))
        optimizer = torch.optim.AdamW(
            gradients.parameters, lr=self.lr, weight_decay=self.weight_decay
        )
        with ExitStack() as opened:
            state = None
            try:
                if self.folder is not None and not processes.rank:
                    state = opened.enter_context(self._opened(self.folder, rows))
                    state.load(named, optimizer)
            except BaseException:
                processes.number(_FAILED, device)
                raise
            additions = processes.number(state.additions if state else 0, device)
            if additions == _FAILED:
                raise DataMismatch("the first process could not take up the folder: see its error")
            processes.from_first(gradients.parameters)
            streams = self._streams(additions)
            while additions < self.run.steps:
                if state:
                    state.count()
                seen = self._step(rows, gradients, optimizer, streams)
                self.tally += seen
                additions += 1
                if state:
                    state.log(seen)
                    if not additions % self.save_every or additions == self.run.steps:
                        state.save(named, optimizer)
        return additions

    @contextmanager
    def _opened(self, folder: Path, rows: Sequence[Row]) -> Iterator[TrainingState]:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(folder / "count.json", seconds=1):
            yield TrainingState(folder, self._settings(), rows)

    def _step(
        self,
        rows: Sequence[Row],
        gradients: ClippedGradients,
        optimizer: torch.optim.Optimizer,
        streams: tuple[Stream, Stream],
    ) -> Tally:
        coins, noise = streams
        processes, seen = self._processes, Tally()
        gradients.reset()
        places = processes.sample(sample(coins, len(rows), self.run.sample_rate), gradients.device)
        batches = physical_batches(places, [len(row) for row in rows], self.physical_batch)
        for batch in batches[processes.rank :: processes.size]:
            seen += gradients.add([rows[place] for place in batch])
        processes.add_up(gradients.sums)
        if not processes.rank:
            self._add_noise(gradients.sums, noise)
            for parameter, total in zip(gradients.parameters, gradients.sums, strict=True):
                parameter.grad = total.div_(self.run.batch)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        processes.from_first(gradients.parameters)
        return seen

    def _add_noise(self, sums: list[Tensor], stream: Stream) -> None:
        """In place, and one sum at a time: float64 copies of all would not be small."""
        if self.run.sigma == 0:
            return
        size = sum(each.numel() for each in sums)
        for each in sums:
            share = (each.numel() / size) ** 0.5  # of the sensitivity: the grid is one for all
            std, sensitivity = self.run.sigma * self.clip, self.clip * share
            each.copy_(add_gaussian([each], std, sensitivity, stream=stream)[0])

    def _streams(self, additions: int) -> tuple[Stream, Stream]:
        """For coins and for noise."""
        if self._seed is None:
            return secure_stream(), secure_stream()
        base = 2 * (self._seed + additions)  # not what was drawn before the training was taken up
        return secure_stream(base), secure_stream(base + 1)

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
