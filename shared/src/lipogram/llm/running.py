"""A forward pass that starts at a later block."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from lipogram.errors import PatchMismatch
from lipogram.llm.architecture import describe
from lipogram.llm.hooks import first_input, uncompiled, with_first_input


@contextmanager
def run_from(model: Any, layer: int, hidden: Tensor) -> Iterator[None]:
    """Forward passes inside the `with` start at block `layer`, with `hidden` as its input.

    The blocks before it are not computed, and patches there do nothing. All else (embedding, masks,
    positions, the later blocks, norm, head) is the model's own code, called with its own arguments:
    with `hidden` recorded at ("resid_in", layer) for the same tokens, the logits are bit-equal to
    those of the whole pass. The model must be called without a cache (`use_cache=False`) or with
    one that is thrown away: the blocks before `layer` put nothing into it.

    Args:
        model: a causal language model, also inside PEFT or compiled.
        layer: the first block that runs, 0 to n_layers − 1.
        hidden: [b, t, width].

    Raises:
        InvalidSetting: no such layer.
        UnsupportedArchitecture: a model that cannot be described.
        PatchMismatch: in the forward pass, `hidden` is not of the shape that the model passes on.
    """
    architecture = describe(model)
    start = architecture.block(layer)

    def check(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        shape = first_input(args, kwargs).shape
        if hidden.shape != shape:
            raise PatchMismatch(
                f"hidden, the input of layer {layer}, has shape {list(hidden.shape)}; the model "
                f"passes on {list(shape)}"
            )

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        own = first_input(args, kwargs)
        return with_first_input(args, kwargs, hidden.to(device=own.device, dtype=own.dtype))

    with ExitStack() as stack:
        stack.enter_context(uncompiled())
        # What a skipped block returns is never read, only passed on: block `layer` gets `hidden`
        # whatever comes before it. So it does not matter whether blocks return a tensor or a tuple.
        for skipped in range(layer):
            block = architecture.block(skipped)
            stack.callback(partial(_put_back, block, block.__dict__.get("forward")))
            block.forward = partial(_skipped, hidden)
        for block, hook in ((start, enter), (architecture.block(0), check)):  # check comes first
            handle = block.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)
            stack.callback(handle.remove)
        yield


def _skipped(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden


def _put_back(block: nn.Module, forward: Any) -> None:
    if forward is None:
        del block.forward
    else:  # a forward of the instance's own, as accelerate installs
        block.forward = forward
