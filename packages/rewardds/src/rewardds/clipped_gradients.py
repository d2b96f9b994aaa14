"""Sums of the records' gradients, each cut to a norm of its own: what DP-SGD adds its noise to.

Two ways to the same sum (Abadi et al., "Deep Learning with Differential Privacy", CCS 2016,
algorithm 1). "hooks" forms each record's gradient, one array a trainable parameter; "ghost" forms
norms only, from each layer's inputs and output gradients (Goodfellow, arXiv 1510.01799; Li et al.,
"Large Language Models Can Be Strong Differentially Private Learners", ICLR 2022), and lets a second
backward pass add up the losses weighted so that each record's gradient has at most norm C. Opacus
finds samples and norms of most layers.

The first backward pass stops at the outputs of the first trainable layers and asks for no
parameter's gradient: nothing else is needed of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from opacus.grad_sample import (  # type: ignore[import-untyped]
    GradSampleHooks,
    GradSampleHooksFastGradientClipping,
)
from torch import Tensor, nn

from lipogram.analytic.settings import one_of, positive
from lipogram.errors import InvalidSetting
from rewardds.errors import InadmissibleLoss, InadmissibleModel
from rewardds.layer_norms import NORMS, SAMPLES, squared_norms
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

    Attributes:
        parameters: those that are trained, with their `names`.
        sums: of each parameter, in float32 or its own type.

    Args:
        model: as :func:`rewardds.admission.admit` lets it pass.
        loss: one value a row.
        clip: C, above 0.
        mode: "hooks" for few trainable parameters, "ghost" for many.
        collate: rows to a batch, on the CPU.
        autocast: run the model in bfloat16, as `torch.autocast` does; with "hooks" only.

    Raises:
        InvalidSetting: a clipping norm or mode that is none; "ghost" with autocast; PyTorch set to
            multiply float32 with fewer digits.
        InadmissibleModel: layers that Opacus refuses, or "ghost" with weights in half precision.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: RecordLoss,
        clip: float,
        mode: Mode,
        collate: Callable[[Sequence[Row]], PackedBatch],
        *,
        autocast: bool = False,
    ):
        self.clip = positive("clip", clip)
        self.mode = one_of("grad", mode, get_args(Mode))
        self.model, self.loss, self._collate, self.autocast = model, loss, collate, autocast
        check_digits(model, self.mode, autocast=autocast)
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
        with _expected_warnings():
            return self._add(rows)

    def plain(self, row: Row) -> list[Tensor]:
        """The ordinary gradient of one row by itself, as PyTorch finds it.

        Raises:
            InadmissibleLoss: as in :meth:`add`.
        """
        with self._unhooked():
            loss = self._losses([row])[0]
            return list(torch.autograd.grad(loss, self.parameters, materialize_grads=True))

    def _add(self, rows: Sequence[Row]) -> Tally:
        self._forget()
        try:
            losses = self._losses(rows)
            norms = self._first_pass(losses)
            finite = torch.isfinite(norms) & torch.isfinite(losses.detach())
            if self.mode == "ghost" and not bool(finite.all()):
                # NaN times a weight of 0 is NaN: those rows must not take part at all.
                kept = [row for row, good in zip(rows, finite.tolist(), strict=True) if good]
                tally = self._add(kept) if kept else Tally()
                tally += Tally(records=len(rows) - len(kept), dropped=len(rows) - len(kept))
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

    def _losses(self, rows: Sequence[Row]) -> Tensor:
        """(b,) the rows' losses, with their graph."""
        batch = self._collate(rows).to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            losses = self.loss(self.model, batch)
        if not isinstance(losses, Tensor) or losses.shape != (len(rows),):
            shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise InadmissibleLoss(
                f"the loss of {len(rows)} rows is {shape}, it must be one value a row: a mean "
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
        squares = torch.zeros_like(losses, requires_grad=False)
        for name, parameter in zip(self.names, self.parameters, strict=True):
            sample = getattr(parameter, found, None)
            if not isinstance(sample, Tensor) or sample.shape[:1] != losses.shape:
                raise InadmissibleModel(
                    f"no gradient of each of {len(losses)} rows was found for {name}: its layer "
                    "has to be called once a step, with the rows as the first axis"
                )
            square = sample.square() if ghost else squared_norms(sample)
            squares = squares + square.to(squares)
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
        for total, parameter in zip(self.sums, self.parameters, strict=True):
            parameter.grad = total  # to which PyTorch adds in place: no second copy of all
        try:
            with self._unhooked():
                (weights * losses).sum().backward(inputs=self.parameters)
        finally:
            for parameter in self.parameters:
                parameter.grad = None

    @contextmanager
    def _unhooked(self) -> Iterator[None]:
        self._hooks.disable_hooks()
        try:
            with _expected_warnings():
                yield
        finally:
            self._hooks.enable_hooks()

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


@contextmanager
def _expected_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # The first trainable layers have inputs without gradients: that is what they are.
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        yield


def check_digits(model: nn.Module, mode: str, *, autocast: bool) -> None:
    """Refuse what would cut gradients to norms that are not theirs.

    Raises:
        InvalidSetting, InadmissibleModel: as :class:`ClippedGradients` does.
    """
    precision = torch.get_float32_matmul_precision()
    if precision != "highest":
        raise InvalidSetting(
            f"float32 is multiplied with {precision!r} precision: norms would be wrong by more "
            "than a thousandth. Call torch.set_float32_matmul_precision('highest')"
        )
    if mode != "ghost":
        return
    if autocast:
        raise InvalidSetting(
            "grad='ghost' with autocast: its second pass rounds other numbers than its norms were "
            "formed of, and gradients would pass the clipping norm. Use grad='hooks'"
        )
    half = {str(p.dtype) for p in model.parameters() if p.is_floating_point()} & {
        "torch.bfloat16",
        "torch.float16",
    }
    if half:
        raise InadmissibleModel(
            f"grad='ghost' with weights in {', '.join(half)}: gradients would pass the clipping "
            "norm by rounding. Use model.float(), or grad='hooks' with an adapter"
        )


class _Sources:
    """Keeps the outputs of hooked modules behind which nothing is trained."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.sources: list[Tensor] = []
        super().__init__(*args, **kwargs)

    def capture_activations_hook(self, module: Any, forward_input: Any, output: Any) -> None:
        """As in Opacus, which calls it behind each forward pass of a hooked module."""
        super().capture_activations_hook(module, forward_input, output)  # type: ignore[misc]
        behind = any(isinstance(each, Tensor) and each.requires_grad for each in forward_input)
        watched = isinstance(output, Tensor) and output.requires_grad and module.training
        if watched and not behind:
            self.sources.append(output)


class _Hooks(_Sources, GradSampleHooks):
    GRAD_SAMPLERS = SAMPLES


class _Ghost(_Sources, GradSampleHooksFastGradientClipping):
    GRAD_SAMPLERS = SAMPLES
    NORM_SAMPLERS = NORMS
