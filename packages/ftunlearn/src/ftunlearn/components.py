"""What an intervention replaces: activations, parameters, or both."""

from collections.abc import Sequence
from dataclasses import dataclass

from lipogram.errors import InvalidSetting


@dataclass(frozen=True)
class Component:
    """One kind of intervention on the unlearned model (arXiv 2410.06606, section 3).

    Attributes:
        name: what reports call it.
        sites: activations replaced by those of the vanilla model on the same tokens.
        groups: parameters replaced by those of the vanilla model.
    """

    name: str
    sites: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    @property
    def is_nothing(self) -> bool:
        """Whether it changes nothing: the control that must score exactly 0."""
        return not self.sites and not self.groups


_KINDS = (
    Component("nothing"),
    # Hypotheses of the paper: H1 coefficients, H3 attention states, both, H2 value vectors.
    Component("coef", sites=("mlp_act",)),
    Component("attn", sites=("attn_out",)),
    Component("coef+attn", sites=("mlp_act", "attn_out")),
    Component("values", groups=("values",)),
    # Ours: parameters of the same kind, so that like is compared with like.
    Component("mlp_states", sites=("mlp_out",)),
    Component("attn+mlp_states", sites=("attn_out", "mlp_out")),
    Component("keys", groups=("keys",)),
    Component("attn_weights", groups=("attn",)),
    Component("attn_qk", groups=("attn_qk",)),
    Component("attn_vo", groups=("attn_vo",)),
    Component("mlp_weights", groups=("mlp",)),
    Component("norms", groups=("norms",)),
    Component("embed", groups=("embed",)),
    Component("head", groups=("head",)),
    Component("all", groups=("all",)),
)
COMPONENTS = {component.name: component for component in _KINDS}

SWEPT = ("coef", "attn", "coef+attn", "values", "keys", "attn_weights")
"""The components that a dissection sweeps over the layers unless told otherwise."""

OUTSIDE_BLOCKS = ("embed", "head")
"""Components that no window over the blocks contains."""


def swept(names: Sequence[str]) -> tuple[Component, ...]:
    """Components by name, to be swept over the layers.

    Raises:
        InvalidSetting: an unknown name, one that lies outside the blocks, or one given twice.
    """
    if not names:
        raise InvalidSetting("components must name at least one component")
    if len(set(names)) < len(names):
        raise InvalidSetting(f"components names one of {', '.join(names)} twice")
    for name in names:
        if name not in COMPONENTS:
            raise InvalidSetting(
                f"component {name!r} is not known; there are {', '.join(COMPONENTS)}"
            )
        if name in OUTSIDE_BLOCKS:
            raise InvalidSetting(f"component {name!r} lies outside the blocks: no window holds it")
    return tuple(COMPONENTS[name] for name in names)


def window(centre: int, size: int, n_layers: int) -> range:
    """The blocks around `centre`, cut off at the ends: {l-2, ..., l+2} for a size of 5."""
    return range(max(0, centre - (size - 1) // 2), min(n_layers, centre + size // 2 + 1))
