"""Parameters of one model put into another for a while."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from lipogram.errors import IncompatiblePair, PatchMismatch
from lipogram.llm.adapters import adapter_is_on, without_adapter
from lipogram.llm.architecture import (
    Architecture,
    GroupParameter,
    describe,
)
from lipogram.llm.wrappers import is_adapted


@contextmanager
def restore(
    model: Any, source: Any, groups: Iterable[str], layers: Iterable[int] | None = None
) -> Iterator[None]:
    """Inside the `with`, the groups' parameters of `model` are those of `source`.

    The parameters point at the source's tensors: nothing is copied where device and dtype agree
    (a fused projection of which only a part is asked for is assembled in a new tensor). Neither
    model's values are written, so afterwards `model` has its own tensors back, whatever happened
    inside. Do not train inside the `with`: it would train the source.

    An adapter around a module of `model` is off meanwhile, see `without_adapter`. With tied
    embeddings, `embed` and `head` share a tensor: restoring one restores it in both.

    Args:
        model: whose parameters are replaced.
        source: where they come from, of the same architecture and without an active adapter.
        groups: of parameters, see `Architecture.parts`.
        layers: only these blocks, and nothing outside of them; None for the whole model.

    Raises:
        InvalidSetting: an unknown group or layer.
        UnsupportedArchitecture: a model that cannot be described, or a group it does not have.
        IncompatiblePair: the models differ in architecture, in tying, or in a parameter's shape.
        PatchMismatch: quantised weights, or an adapter that is in the way.
    """
    groups = list(groups)
    layers = None if layers is None else list(layers)
    target_parts, source_parts = describe(model), describe(source)
    pairs = _pairs(target_parts, source_parts, groups, layers)
    with ExitStack() as stack:
        if any(is_adapted(module) for module in target_parts.causal_lm.modules()):
            stack.enter_context(without_adapter(model, groups, layers))
        for target, origin in pairs:
            parameter = target.parameter
            stack.callback(_point, parameter, parameter.data)
            _point(parameter, _assembled(target, origin))
        yield


def _pairs(
    target: Architecture, source: Architecture, groups: list[str], layers: list[int] | None
) -> list[tuple[GroupParameter, GroupParameter]]:
    """The parameters to exchange, all checked."""
    for field in ("model_type", "n_layers", "width"):
        ours, theirs = getattr(target, field), getattr(source, field)
        if ours != theirs:
            raise IncompatiblePair(field, ours, theirs)
    outside = layers is None and {"embed", "head", "all"} & set(groups)
    if outside and target.tied != source.tied:
        raise IncompatiblePair("tied embeddings", target.tied, source.tied)
    pairs = []
    for group in groups:
        for part in source.parts(group, layers):
            if adapter_is_on(part.module):
                raise PatchMismatch(
                    f"{part.name} of the source has an active adapter, so its weights are not what "
                    "it computes with: merge the adapter (merge_and_unload) or disable it"
                )
        ours = {item.name: item for item in target.parameters(group, layers)}
        theirs = {item.name: item for item in source.parameters(group, layers)}
        for name in ours.keys() ^ theirs.keys():
            raise IncompatiblePair(f"parameter {name}", name in ours, name in theirs)
        for name, item in ours.items():
            shapes = list(item.parameter.shape), list(theirs[name].parameter.shape)
            if shapes[0] != shapes[1]:
                raise IncompatiblePair(f"shape of {name}", *shapes)
            pairs.append((item, theirs[name]))
    return pairs


def _assembled(target: GroupParameter, origin: GroupParameter) -> Tensor:
    """The values that the target's parameter shall have."""
    own = target.parameter.data
    value = origin.value.to(device=own.device, dtype=own.dtype)
    if target.index is None:
        return value
    return own.index_copy(target.dim, target.index.to(own.device), value)


def _point(parameter: nn.Parameter, data: Tensor) -> None:
    parameter.data = data
