"""The vanilla model during training: a copy, the adapter switched off, or numbers kept from it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ftunlearn.unlearning_data import Example, collate
from lipogram.errors import InvalidSetting
from lipogram.llm.forward import evaluating
from lipogram.llm.objectives import sequence_logps


class VanillaModel:
    """What the trained model was before training.

    Args:
        model: the model that will be trained.
        kind: "copy" or "adapter_off".
        given: a vanilla model that is there already, in place of a copy.

    Raises:
        InvalidSetting: "adapter_off" for a model without an adapter.
    """

    def __init__(self, model: Any, kind: str, given: Any = None):
        if kind == "adapter_off" and not hasattr(model, "disable_adapter"):
            raise InvalidSetting("ref='adapter_off' needs a peft_config or a PEFT model")
        self._model = model if kind == "adapter_off" else None
        self._copy = None
        if kind == "copy":
            self._copy = (copy.deepcopy(model) if given is None else given).eval()

    @contextmanager
    def running(self) -> Iterator[Any]:
        """The model, without gradients and dropout."""
        if self._copy is not None:
            with torch.no_grad():
                yield self._copy
            return
        assert self._model is not None
        trained = [(p, p.requires_grad) for p in self._model.parameters()]
        try:
            with evaluating(self._model), self._model.disable_adapter():
                yield self._model
        finally:  # PEFT lets everything of an adapter that it switches on be trained
            for parameter, wanted in trained:
                parameter.requires_grad_(wanted)


def logits_of(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """[b, t, v] logits of a collated batch."""
    output = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    )
    logits: Tensor = output.logits
    return logits


def summed_logps(
    model: Any, examples: Sequence[Example], pad_id: int, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Σ log p over each example's labelled tokens, [n] float32, and their number, [n] int64.

    Both are on the CPU, in the order of `examples`. Gradients and dropout are off.
    """
    device = next(model.parameters()).device
    sums, counts = [], []
    with evaluating(model):
        for start in range(0, len(examples), batch_size):
            stop = min(start + batch_size, len(examples))
            batch = collate([examples[i] for i in range(start, stop)], pad_id)
            batch = {name: value.to(device) for name, value in batch.items()}
            found = sequence_logps(logits_of(model, batch), batch["labels"])
            sums.append(found[0].cpu())
            counts.append(found[1].cpu())
    return torch.cat(sums), torch.cat(counts)
