"""Training of a restoration bank: its vectors change, the model never does.

Source: PrivacyRestore (arXiv 2406.01394), section 4.2. Unlike the authors' code: rows are batched,
each restored by its own vector; the prompt is computed once for all answers; answers follow their
prompt without a token that begins a text; the cosine ends with the training; every row of an epoch
counts; and an early stop ends it all.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lipogram.errors import InvalidSetting, NotFinite
from lipogram.files import locked, write_atomically
from lipogram.llm import rng
from lipogram.llm.text import pad_id
from lipogram.progress import bar
from privacyrestore.held_out import check_held_out, measure
from privacyrestore.restoration import Restoration, check_model
from privacyrestore.restoration_bank import RestorationBank
from privacyrestore.restored_rows import (
    learnt_answers,
    packed,
    row_losses,
    signals,
    span_shares,
)
from privacyrestore.training_checkpoint import TrainingState
from privacyrestore.training_config import TrainConfig
from privacyrestore.training_rows import TrainingRow, check_row

CHECKPOINT, REPORT = "checkpoint.safetensors", "training.json"
Event = Callable[[dict[str, float]], None]


def train_bank(
    model: Any,
    tokenizer: Any,
    rows: Sequence[TrainingRow],
    bank: RestorationBank,
    config: TrainConfig | None = None,
    *,
    held_out: Sequence[TrainingRow] = (),
    folder: str | Path | None = None,
    on_event: Event | None = None,
) -> RestorationBank:
    """Train the vectors of a bank; rule, γ, sites and all else of it stay.

    Runs are equal bit for bit for equal numbers of threads, also where one was killed and called
    again with the same arguments. In a process group (`torchrun`) each step's rows are divided over
    the processes and the gradient is summed: the training is the same but for rounding.

    Args:
        model: the frozen causal language model, not restored; it runs in evaluation mode and is the
            same to the bit afterwards.
        tokenizer: its tokenizer.
        rows: to train on.
        bank: to begin with, as :meth:`~privacyrestore.head_selection.HeadSelection.bank` makes it.
        config: how to train.
        held_out: rows for `config.metric`; the vectors of the best measurement are returned, which
            may be the initial ones. Without them the last vectors are.
        folder: keeps a checkpoint, and at the end `training.json` with settings and history.
        on_event: called with each step's and each measurement's entry of the history.

    Returns:
        The trained bank, on the CPU.

    Raises:
        InvalidSetting: no rows, or a row that does not fit the bank, the objective or the metric.
        InvalidProbes: a row without tokens, or one that exceeds the model's context.
        BankMismatch: a bank for another model.
        RunMismatch, CorruptState: the folder holds another training, or a broken one.
        FolderInUse: another process trains in the folder.
        NotFinite: the loss or its gradient is not finite; the last checkpoint is still there.
    """
    config = config or TrainConfig()
    check_model(model, bank)
    training = _Training(model, tokenizer, rows, bank, config, held_out)
    path = None
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder) / CHECKPOINT
    alone = locked(path) if path is not None and training.rank == 0 else nullcontext()
    with alone, frozen(model), training.restoration.attach():
        state = training.run(path, on_event or (lambda _: None))
    if folder is not None and training.rank == 0:
        report = {"config": asdict(config), "rows": len(rows), "held_out": len(held_out)}
        report |= {"bank": bank.sha256, "steps": state.step, "history": state.history}
        write_atomically(Path(folder) / REPORT, json.dumps(report, indent=1).encode())
    return bank.with_vectors(state.best if held_out else state.vectors.detach())


class _Training:
    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        rows: Sequence[TrainingRow],
        bank: RestorationBank,
        config: TrainConfig,
        held_out: Sequence[TrainingRow],
    ):
        if not rows:
            raise InvalidSetting("there are no rows to train on")
        pairs = config.objective == "orpo-lm"
        for part, needed in ((rows, pairs), (held_out, pairs and config.metric == "loss")):
            for number, row in enumerate(part):
                check_row(row, number, len(bank.vocabulary), pairs=needed)
        check_held_out(held_out, config)
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.held_out = held_out
        self.rank, self.world = _processes()
        self.device = next(model.parameters()).device
        self.padding = pad_id(tokenizer)
        self.restoration = Restoration(model, bank, detach=config.detach)
        self.packed = [
            packed(model, tokenizer, row, learnt_answers(row, config), config, number)
            for number, row in enumerate(rows)
        ]
        self.shares = span_shares(rows, bank).to(self.device)
        self.held_shares = span_shares(held_out, bank).to(self.device)
        self.initial = bank.vectors.to(self.device)
        self.digest = _digest(rows, held_out, bank, config)
        self.steps_an_epoch = -(-len(rows) // config.rows_a_step)
        self.steps = self.steps_an_epoch * config.epochs

    def run(self, path: Path | None, on_event: Event) -> TrainingState:
        config = self.config
        state = TrainingState.fresh(self.initial, config.learning_rate, config.weight_decay)
        if path is not None and path.exists():
            state.load(path, self.digest)
        if self.world > 1:
            dist.barrier()  # nobody writes before all have read
        every = config.eval_every or self.steps_an_epoch

        def happened(**entry: float) -> None:
            state.history.append(entry)
            on_event(entry)

        def look() -> None:
            value = self.measure(state.vectors.detach())
            happened(step=state.step, metric=value)
            state.judge(-value if config.metric == "loss" else value)

        with bar("training the bank", self.steps, state.step) as advance:
            if state.step == 0 and self.held_out:
                look()
            while not state.finished:
                rate = config.rate(state.step, self.steps)
                loss = self.step(state, rate)
                state.step += 1
                happened(step=state.step, loss=loss, learning_rate=rate)
                advance(1)
                last = state.step == self.steps
                if self.held_out and (last or state.step % every == 0):
                    look()
                state.finished = last or (
                    config.patience is not None and state.stale >= config.patience
                )
                due = state.finished or state.step % config.save_every == 0
                if path is not None and self.rank == 0 and due:
                    state.save(path, self.digest)
        return state

    def step(self, state: TrainingState, rate: float) -> float:
        """One optimiser step; the mean loss of its rows before it."""
        epoch, at = divmod(state.step, self.steps_an_epoch)
        order = torch.randperm(
            len(self.packed), generator=rng(f"bank epoch {epoch}", self.config.seed)
        )
        size = self.config.rows_a_step
        chosen = order[at * size : (at + 1) * size].tolist()
        mine = sorted(chosen[self.rank :: self.world], key=lambda i: (-len(self.packed[i]), i))
        gradient = torch.zeros_like(state.vectors)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for start in range(0, len(mine), self.config.batch_size):
            some = mine[start : start + self.config.batch_size]
            loss = self.losses(some, state.vectors).sum() / len(chosen)
            gradient += torch.autograd.grad(loss, state.vectors)[0]
            total += loss.detach()
        if self.world > 1:
            dist.all_reduce(gradient)
            dist.all_reduce(total)
        if not (bool(torch.isfinite(total)) and bool(torch.isfinite(gradient).all())):
            raise NotFinite(
                f"loss or gradient of step {state.step + 1} is not finite; the last checkpoint is "
                "as it was. Lower the learning rate or γ, and begin anew"
            )
        state.vectors.grad = gradient
        state.optimizer.param_groups[0]["lr"] = rate
        state.optimizer.step()
        return float(total)

    def losses(self, numbers: Sequence[int], vectors: Tensor) -> Tensor:
        """The objective of some rows, [b] float32, with its gradient."""
        self.restoration.set(signals(vectors, self.shares[list(numbers)]))
        return row_losses(self.model, [self.packed[i] for i in numbers], self.padding, self.config)

    def measure(self, vectors: Tensor) -> float:
        """The mean of the metric over the held-out rows of all processes."""
        mine = self.held_out[self.rank :: self.world]
        shares = self.held_shares[self.rank :: self.world]
        total = torch.tensor(
            measure(
                self.model, self.tokenizer, mine, self.restoration, vectors, shares, self.config
            ),
            dtype=torch.float64,
            device=self.device,
        )
        if self.world > 1:
            dist.all_reduce(total)
        return float(total) / len(self.held_out)


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Inside, the model is in evaluation mode and no parameter of it wants a gradient."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        model.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


def _processes() -> tuple[int, int]:
    """This process's rank and the number of processes, of the group that `torchrun` asks for."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        from accelerate import PartialState  # type: ignore[import-untyped]

        PartialState()  # begins the group that suits the device
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _digest(
    rows: Sequence[TrainingRow],
    held_out: Sequence[TrainingRow],
    bank: RestorationBank,
    config: TrainConfig,
) -> str:
    """What a checkpoint belongs to."""
    settings = [
        bank.sha256,
        asdict(config),
        *([asdict(r) for r in part] for part in (rows, held_out)),
    ]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()
