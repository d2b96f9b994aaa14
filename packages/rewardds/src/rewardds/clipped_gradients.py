"""Sums of the records' gradients, each cut to a norm of its own: what DP-SGD adds its noise to.

Two ways to the same sum (Abadi et al., "Deep Learning with Differential Privacy", CCS 2016,
algorithm 1). "hooks" forms each record's gradient, one array a trainable parameter; "ghost" forms
norms only, from each layer's inputs and output gradients (Goodfellow, arXiv 1510.01799; Lee & Kifer
2021; Li et al., ICLR 2022), and lets a second backward pass add up the losses weighted so that each
record's gradient has at most norm C. Opacus finds samples and norms of the layers.

The first backward pass stops at the outputs of the first trainable layers and asks for no
parameter's gradient: nothing else is needed of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping
from torch import Tensor, nn

from lipogram.analytic.settings import one_of, positive
from rewardds.errors import InadmissibleLoss, InadmissibleModel
from rewardds.layer_norms import NORMS
from rewardds.losses import RecordLoss
from rewardds.rows import PackedBatch, Row

Mode = Literal["hooks", "ghost"]
MARGIN = 2e-6
"""By how much norms are taken for larger: what is rounded in float32 must not pass C."""


@dataclass
class Tally:
    """What was seen of the records. It is not private: for the client's own eyes.

    Attributes:
        records: gradients that were added.
        clipped: of them, those that were cut.
        dropped: of them, those with a loss or gradient that is NaN or infinite; they added zero.
        loss: sum of the finite losses.
    """

    records: int = 0
    clipped: int = 0
    dropped: int = 0
    loss: float = 0.0

    def __iadd__(self, other: Tally) -> Tally:
        self.records += other.records
        self.clipped += other.clipped
        self.dropped += other.dropped
        self.loss += other.loss
        return self


class ClippedGradients:
    """Σ over records of g·min(1, C/‖g‖), over all trainable parameters of a model together.

    Puts hooks on the model; :meth:`close` takes them off. Every module with trainable parameters
    must be in training mode.

    Args:
        model: as :func:`rewardds.admission.admit` lets it pass.
        loss: one value a row.
        clip: C, above 0.
        mode: "hooks" for few trainable parameters, "ghost" for many.
        collate: rows to a batch, on the CPU.

    Raises:
        InvalidSetting: a clipping norm or mode that is none.
        InadmissibleModel: layers that Opacus refuses.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: RecordLoss,
        clip: float,
        mode: Mode,
        collate: Callable[[Sequence[Row]], PackedBatch],
    ):
        self.clip = positive("clip", clip)
        self.mode = one_of("grad", mode, get_args(Mode))
        self.model, self.loss, self._collate = model, loss, collate
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters = [p for _, p in named]
        self.device = self.parameters[0].device
        self.sums = [torch.zeros_like(p) for p in self.parameters]
        kind = _Ghost if mode == "ghost" else _Hooks
        try:
            self._hooks: Any = kind(model, loss_reduction="sum")
        except NotImplementedError as error:
            raise InadmissibleModel(f"Opacus cannot train this model: {error}") from error

    def close(self) -> None:
        """Take all hooks off the model."""
        self._hooks.cleanup()

    def reset(self) -> None:
        """Begin a new sum."""
        for each in self.sums:
            each.zero_()

    def add(self, rows: Sequence[Row]) -> Tally:
        """Add the clipped gradients of some rows to `sums`.

        Raises:
            InadmissibleLoss: the loss is not one value a row.
            InadmissibleModel: a trainable parameter for which no gradient of single rows is found.
        """
        if not rows:
            return Tally()
        with warnings.catch_warnings():
            # The first trainable layers have inputs without gradients: that is what they are.
            warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
            return self._add(rows)

    def _add(self, rows: Sequence[Row]) -> Tally:
        batch = self._collate(rows).to(self.device)
        self._forget()
        try:
            losses = self._losses(batch)
            norms = self._first_pass(losses)
            finite = torch.isfinite(norms) & torch.isfinite(losses.detach())
            if self.mode == "ghost" and not bool(finite.all()):
                # NaN times a weight of 0 is NaN: those rows must not take part at all.
                kept = [row for row, good in zip(rows, finite.tolist(), strict=True) if good]
                tally = self._add(kept) if kept else Tally()
                tally.records += len(rows) - len(kept)
                tally.dropped += len(rows) - len(kept)
                return tally
            weights = torch.where(finite, self.clip / (norms * (1 + MARGIN)), 0.0).clamp(max=1.0)
            if self.mode == "ghost":
                self._second_pass(losses, weights)
            else:
                self._weighted_samples(weights, finite)
        finally:
            self._forget()
        return Tally(
            len(rows),
            int(((weights < 1) & finite).sum()),
            int((~finite).sum()),
            float(losses.detach()[finite].sum()),
        )

    def _losses(self, batch: PackedBatch) -> Tensor:
        losses = self.loss(self.model, batch)
        if not isinstance(losses, Tensor) or losses.shape != (len(batch),):
            shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise InadmissibleLoss(
                f"the loss of {len(batch)} rows is {shape}, it must be one value a row: a mean "
                "over rows couples their gradients, and no clipping bounds a row's part in it"
            )
        return losses

    def _first_pass(self, losses: Tensor) -> Tensor:
        """(b,) norms of the rows' gradients; NaN or infinite where a gradient is."""
        sources = self._hooks.sources
        if not losses.requires_grad or not sources:
            raise InadmissibleModel("the loss depends on no trainable layer in training mode")
        ghost = self.mode == "ghost"
        torch.autograd.grad(losses.sum(), sources, retain_graph=ghost, allow_unused=True)
        found = "_norm_sample" if ghost else "grad_sample"
        squares = torch.zeros(len(losses), device=self.device)
        for name, parameter in zip(self.names, self.parameters, strict=True):
            sample = getattr(parameter, found, None)
            if not isinstance(sample, Tensor) or sample.shape[:1] != losses.shape:
                raise InadmissibleModel(
                    f"no gradient of each of {len(losses)} rows was found for {name}: its layer "
                    "has to be called once a step, with the rows as the first axis"
                )
            norm = sample if ghost else torch.linalg.vector_norm(sample.float().flatten(1), dim=1)
            squares = squares + norm.to(squares) ** 2
        return squares.sqrt()

    def _weighted_samples(self, weights: Tensor, finite: Tensor) -> None:
        bad = bool((~finite).any())
        for total, parameter in zip(self.sums, self.parameters, strict=True):
            sample: Any = parameter.grad_sample  # type: ignore[attr-defined]
            if bad:
                shape = (-1,) + (1,) * (sample.ndim - 1)
                sample = sample.masked_fill(~finite.reshape(shape), 0.0)
            total += torch.tensordot(weights.to(total.dtype), sample.to(total.dtype), dims=1)

    def _second_pass(self, losses: Tensor, weights: Tensor) -> None:
        self._hooks.disable_hooks()
        try:
            parts = torch.autograd.grad(
                (weights.to(losses.dtype) * losses).sum(), self.parameters, allow_unused=True
            )
        finally:
            self._hooks.enable_hooks()
        for total, part in zip(self.sums, parts, strict=True):
            if part is not None:
                total += part

    def _forget(self) -> None:
        """Drop what a pass has left, also one that failed half-way."""
        self._hooks.sources.clear()
        for module in self.model.modules():
            for name in ("activations", "max_batch_len"):
                if name in vars(module):
                    delattr(module, name)
        for parameter in self.parameters:
            parameter._forward_counter = 0  # type: ignore[attr-defined]
            parameter.grad_sample = None  # type: ignore[attr-defined]
            for name in ("_norm_sample", "_current_grad_sample"):
                if hasattr(parameter, name):
                    delattr(parameter, name)


class _Sources:
    """Keeps the outputs of hooked modules behind which nothing is trained."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.sources: list[Tensor] = []
        super().__init__(*args, **kwargs)

    def capture_activations_hook(self, module: Any, forward_input: Any, output: Any) -> None:
        """As in Opacus, which calls it behind each forward pass of a hooked module."""
        super().capture_activations_hook(module, forward_input, output)  # type: ignore[misc]
        behind = any(isinstance(each, Tensor) and each.requires_grad for each in forward_input)
        if isinstance(output, Tensor) and output.requires_grad and not behind:
            self.sources.append(output)


class _Hooks(_Sources, GradSampleHooks):  # type: ignore[misc]
    pass


class _Ghost(_Sources, GradSampleHooksFastGradientClipping):  # type: ignore[misc]
    NORM_SAMPLERS = NORMS
