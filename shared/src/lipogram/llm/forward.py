"""Forward passes whose logits are only read."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lipogram.llm.wrappers import unwrap


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout and no graph inside; afterwards each module trains again that did before.

    What hooks record inside may take part in a graph later, as under `torch.no_grad`.
    """
    training = [module for module in model.modules() if module.training]
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        for module in training:
            module.training = True


def last_logits(
    model: Any, inputs: dict[str, Tensor], n_logits: int, **options: Any
) -> tuple[Tensor, Any]:
    """The logits of the last columns, [b, n_logits, v], and the model's whole output.

    The head is computed on those columns only where the model can do that. Inputs and options that
    its forward pass does not name, such as the position ids of a model without positions, are left
    out.

    Args:
        model: a causal language model.
        inputs: as :meth:`Batch.inputs`.
        n_logits: at least 1.
        options: such as use_cache and past_key_values.
    """
    given = inputs | options | {"logits_to_keep": n_logits}
    named = inspect.signature(unwrap(model).forward).parameters
    output = model(**{name: value for name, value in given.items() if name in named})
    return output.logits[:, -n_logits:], output
