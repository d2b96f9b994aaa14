"""An adapter switched off on chosen modules: a LoRA pair is two models with one set of weights."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from lipogram.errors import PatchMismatch
from lipogram.llm.architecture import Architecture, describe
from lipogram.llm.wrappers import is_adapted, unadapted


@contextmanager
def without_adapter(
    model: Any, groups: Iterable[str], layers: Iterable[int] | None = None
) -> Iterator[None]:
    """Inside the `with`, the modules of the groups compute what they did before the adapter.

    This restores the parameters of the base model without holding them twice. It serves any PEFT
    method that adds to single modules (LoRA, DoRA, IA³ ...) and whole modules trained beside
    (`modules_to_save`). Modules without an adapter stay as they are.

    Args:
        model: a PEFT model, or one with adapters loaded into it.
        groups: of parameters, see `Architecture.parts`.
        layers: only these blocks, and nothing outside of them; None for the whole model.

    Raises:
        InvalidSetting: an unknown group or layer.
        UnsupportedArchitecture: a model that cannot be described, or a group it does not have.
        PatchMismatch: an adapter that cannot be switched off for these modules alone: merged into
            the weights, learnt prompts, trained biases, a part of a fused projection, or a whole
            half of a block. The message says which.
    """
    architecture = describe(model)
    chosen = _adapted(model, architecture, groups, layers)
    with ExitStack() as stack:
        for module in chosen:
            gradients = [(p, p.requires_grad) for p in module.parameters()]
            stack.callback(_put_back, module, bool(module.disable_adapters), gradients)
            module.enable_adapters(False)  # type: ignore[operator]
        yield


def adapter_is_on(module: nn.Module) -> bool:
    """Whether a module is a PEFT layer that changes the result."""
    return is_adapted(module) and not module.disable_adapters and bool(module.active_adapters)


def _adapted(
    model: Any, architecture: Architecture, groups: Iterable[str], layers: Iterable[int] | None
) -> list[nn.Module]:
    layers = None if layers is None else list(layers)
    for name, config in getattr(model, "peft_config", {}).items():
        if getattr(config, "is_prompt_learning", False):
            raise PatchMismatch(
                f"adapter {name!r} is {config.peft_type}: it adds tokens, not changes to modules, "
                "so it cannot be switched off for some of them"
            )
        if getattr(config, "bias", "none") != "none":
            raise PatchMismatch(
                f"adapter {name!r} trains biases of the base model (bias={config.bias!r}), whose "
                "former values are lost; compare with the base model as a second model"
            )
    for name, module in architecture.causal_lm.named_modules():
        if is_adapted(module) and unadapted(module)._modules:
            raise PatchMismatch(
                f"{name} is adapted as a whole; only single modules can be switched off"
            )
    chosen: dict[int, nn.Module] = {}
    for group in groups:
        for part in architecture.parts(group, layers):
            if not is_adapted(part.module):
                continue
            if part.outputs is not None:
                raise PatchMismatch(
                    f"{part.name} computes queries, keys and values at once, and so does its "
                    f"adapter: group {group!r} cannot be separated; 'attn' can"
                )
            if getattr(part.module, "merged", False):
                raise PatchMismatch(
                    f"the adapter is merged into {part.name}: call unmerge_adapter() first"
                )
            chosen[id(part.module)] = part.module
    return list(chosen.values())


def _put_back(module: nn.Module, was_off: bool, gradients: list[tuple[nn.Parameter, bool]]) -> None:
    module.enable_adapters(not was_off)  # type: ignore[operator]
    for parameter, required in gradients:  # switching changes which parameters are trained
        parameter.requires_grad_(required)
