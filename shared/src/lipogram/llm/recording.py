"""Activations of a forward pass, kept."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lipogram.errors import InvalidSetting, PatchMismatch
from lipogram.llm.architecture import Architecture, describe
from lipogram.llm.hooks import Change, Place, check_mask, check_positions, hooked


class Recording(dict[Place, Tensor]):
    """What was recorded: `recording["mlp_act", 9]` is a tensor [b, t, width].

    A forward pass replaces what the one before it left.
    """

    def __missing__(self, place: Place) -> Tensor:
        held = ", ".join(f"{site} {layer}" for site, layer in sorted(self)) or "nothing"
        raise PatchMismatch(f"{place!r} was not recorded; there is: {held}")


@contextmanager
def record(
    model: Any,
    sites: Iterable[str | tuple[str, int] | tuple[str, Iterable[int]]],
    *,
    positions: Tensor | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    detach: bool = True,
) -> Iterator[Recording]:
    """Keeps activations of the forward passes inside the `with`.

    What is recorded is what the model uses: patches entered before are in it. Nothing is copied
    unless `device`, `dtype` or `positions` ask for it.

    Args:
        model: a causal language model, also inside PEFT or compiled.
        sites: "mlp_act" for all layers, ("mlp_act", 9) or ("mlp_act", range(8, 13)).
        positions: bool [b, t]; only these tokens are kept, as [number of them, width].
        device: where to move the values; None leaves them.
        dtype: as what to keep them; None leaves it.
        detach: keep values only, no graph.

    Yields:
        The recording, empty until the model runs. It outlives the `with`.

    Raises:
        InvalidSetting: an unknown site or layer.
        UnsupportedArchitecture: a model that cannot be described, or a site it does not have.
        PatchMismatch: in the forward pass, `positions` of another shape than the tokens.
    """
    check_mask(positions)
    architecture = describe(model)
    recording = Recording()

    def keep(place: Place, activation: Tensor) -> None:
        check_positions(positions, activation, place)
        value = activation.detach() if detach else activation
        if positions is not None:
            value = value[positions.to(value.device)]
        recording[place] = value.to(device=device, dtype=dtype)

    changes: dict[Place, Change] = {
        place: partial(keep, place) for place in places(architecture, sites)
    }
    with hooked(architecture, changes):
        yield recording


def places(
    architecture: Architecture,
    sites: Iterable[str | tuple[str, int] | tuple[str, Iterable[int]]],
) -> list[Place]:
    """The pairs (site, layer) that are meant, each once.

    Raises:
        InvalidSetting: `sites` is a single string.
    """
    if isinstance(sites, str):
        raise InvalidSetting(f"sites is a list of sites: [{sites!r}], not {sites!r}")
    found: list[Place] = []
    for item in sites:
        site, layers = (item, range(architecture.n_layers)) if isinstance(item, str) else item
        found += [(site, layer) for layer in ([layers] if isinstance(layers, int) else layers)]
    return list(dict.fromkeys(found))
