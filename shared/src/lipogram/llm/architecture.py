"""The parts of a transformer language model: where its activations pass, what its parameters are.

Sites are activations of one block; groups are sets of parameters. Names follow Hong et al.
(arXiv 2410.06606): the input of an MLP's down projection holds its coefficients, the rows of that
projection its value vectors.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lipogram.errors import InvalidSetting, PatchMismatch, UnsupportedArchitecture
from lipogram.llm.layouts import LAYOUTS, Layout
from lipogram.llm.wrappers import (
    Part,
    is_conv1d,
    is_packed,
    n_inputs,
    owners,
    path_of,
    submodule,
    unadapted,
    unwrap,
)

Site = Literal[
    "resid_in",
    "resid_out",
    "attn_in",
    "attn_out",
    "head_in",
    "attn_add",
    "mlp_in",
    "mlp_act",
    "mlp_out",
    "mlp_add",
]
Group = Literal[
    "values", "keys", "mlp", "attn", "attn_qk", "attn_vo", "norms", "embed", "head", "all"
]
Side = Literal["input", "output"]
SITES: tuple[str, ...] = get_args(Site)
GROUPS: tuple[str, ...] = get_args(Group)


@dataclass(frozen=True)
class GroupParameter:
    """A parameter of a group, or a slice of a fused one.

    Attributes:
        name: its path in the model; the same with and without an adapter around it.
        parameter: the whole parameter.
        dim, index: the slice is `parameter.index_select(dim, index)`; index None means all of it.
    """

    name: str
    parameter: nn.Parameter
    dim: int = 0
    index: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """The values that belong to the group: the parameter's own, or a copy of the slice."""
        if self.index is None:
            return self.parameter.data
        return self.parameter.data.index_select(self.dim, self.index.to(self.parameter.device))


@dataclass(frozen=True, eq=False)
class Architecture:
    """A model's parts.

    Attributes:
        model_type: the architecture, as the configuration names it.
        causal_lm: the model without wrappers (PEFT, data parallel, compiled).
        layout: the paths of its parts.
        blocks: its transformer blocks.
        embed: the input embedding.
        final_norm: the norm before the head; None where there is none.
        head: the output embedding; None for a model without.
        n_layers, n_heads, n_kv_heads: counts of blocks, query heads and key heads.
        width: of the residual stream.
        mlp_width: number of coefficients of one MLP; 0 for a mixture of experts.
        head_dim: width of one head in the input of the attention's output projection.
        tied: input and output embedding are one parameter. The groups `embed` and `head` then
            share it, and restoring one restores both.
    """

    model_type: str
    causal_lm: Any
    layout: Layout
    blocks: nn.ModuleList
    embed: nn.Module
    final_norm: nn.Module | None
    head: nn.Module | None
    n_layers: int
    width: int
    mlp_width: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    tied: bool

    @property
    def decoder(self) -> nn.Module:
        """The module that runs the blocks, one after the other."""
        path = self.layout.blocks.rpartition(".")[0]
        decoder: nn.Module = self.causal_lm.base_model.get_submodule(path)
        return decoder

    def module(self, site: str, layer: int) -> tuple[nn.Module, Side]:
        """The module at which a site is seen, and whether it is its input or its output.

        Raises:
            InvalidSetting: an unknown site or a layer that is not there.
            UnsupportedArchitecture: a site inside the experts of a mixture.
        """
        if site not in SITES:
            raise InvalidSetting(f"no site {site!r}; there are {', '.join(SITES)}")
        layout, block = self.layout, self.block(layer)
        if layout.down is None and site in ("mlp_act", "mlp_out"):
            raise UnsupportedArchitecture(
                self.model_type,
                LAYOUTS,
                f"its MLPs are mixtures of experts, so the coefficients {site!r} of a token exist "
                "only in the experts chosen for it; mlp_in, mlp_add and all other sites work",
            )
        down = layout.down or layout.mlp
        path, side = _SITE_PATHS[site]
        path = {
            "attn": layout.attn,
            "out": layout.out,
            "attn_add": layout.attn_add or layout.out,
            "mlp": layout.mlp,
            "down": down,
            "mlp_add": layout.mlp_add or down,
        }.get(path, path)
        return block.get_submodule(path), side

    def block(self, layer: int) -> nn.Module:
        """The block of that index.

        Raises:
            InvalidSetting: no such layer.
        """
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < self.n_layers:
            raise InvalidSetting(f"layer {layer!r}: the model has layers 0 to {self.n_layers - 1}")
        block = self.blocks[layer]
        return getattr(block, "_orig_mod", block)  # one that was compiled by itself

    def parts(self, group: str, layers: Iterable[int] | None = None) -> list[Part]:
        """The modules that hold a group's parameters.

        `norms` is all that a block has beside its matrices, such as the norms of queries and keys,
        and the final norm. `embed` includes embeddings of positions. The groups values, keys,
        attn_qk, attn_vo, norms, embed and head share no parameter (if not tied) and together are
        the language model; `all` is everything.

        Args:
            group: one of `GROUPS`.
            layers: only these blocks, and nothing outside of them; None for the whole model.

        Raises:
            InvalidSetting: an unknown group, no such layer, or layers for a group that has none.
            UnsupportedArchitecture: a group that this architecture cannot tell apart.
        """
        if group not in GROUPS:
            raise InvalidSetting(f"no group {group!r}; there are {', '.join(GROUPS)}")
        if layers is None:
            if group == "all":
                return list(owners(self.causal_lm))
            inside, outside = list(range(self.n_layers)), self._outside(group)
        elif group in ("embed", "head"):
            raise InvalidSetting(f"group {group!r} lies outside the blocks: leave layers out")
        else:
            inside, outside = sorted(set(layers)), []
        prefix = path_of(self.causal_lm, self.blocks)
        parts = [
            part._replace(name=f"{prefix}.{layer}.{part.name}")
            for layer in inside
            for part in self._inside(group, layer)
        ]
        return parts + outside

    def parameters(self, group: str, layers: Iterable[int] | None = None) -> list[GroupParameter]:
        """A group's parameters, without those of adapters; arguments and errors as in `parts`.

        Raises:
            PatchMismatch: weights stored in 4 or 8 bits.
        """
        found: dict[tuple[int, int], GroupParameter] = {}  # a tied parameter once
        for number, part in enumerate(self.parts(group, layers)):
            module = unadapted(part.module)
            parameters = list(module.named_parameters(recurse=False))
            if is_packed(module) or any(
                not p.is_floating_point() or p.element_size() < 2 for _, p in parameters
            ):
                raise PatchMismatch(
                    f"{part.name} ({type(module).__name__}) is quantised: its weights have no "
                    "values of their own that could be compared or exchanged; load the model in "
                    "16 or 32 bits (activations can be patched as it is)"
                )
            for name, parameter in parameters:
                dim = 1 if parameter.ndim == 2 and is_conv1d(module) else 0
                key = (id(parameter), -1 if part.outputs is None else number)
                found.setdefault(
                    key, GroupParameter(f"{part.name}.{name}", parameter, dim, part.outputs)
                )
        return list(found.values())

    def _inside(self, group: str, layer: int) -> list[Part]:
        layout, block = self.layout, self.block(layer)
        if group == "all":
            return list(owners(block))
        if layout.down is None and group in ("values", "keys"):
            raise UnsupportedArchitecture(
                self.model_type,
                LAYOUTS,
                f"group {group!r} is spread over the experts of a mixture; 'mlp' works",
            )
        if layout.fused == "unknown" and group in ("attn_qk", "attn_vo"):
            raise UnsupportedArchitecture(
                self.model_type,
                LAYOUTS,
                f"which of its attention's parameters are group {group!r} is unknown; 'attn' works",
            )
        whole = layout.fused == "unknown"
        paths = {
            "values": [layout.down],
            "keys": layout.up,
            "mlp": [layout.mlp] if layout.down is None else [*layout.up, layout.down],
            "attn": dict.fromkeys([layout.q, layout.k, layout.v, *([] if whole else [layout.out])]),
            "attn_qk": dict.fromkeys([layout.q, layout.k]),
            "attn_vo": [layout.v, layout.out],
        }
        if group in paths:
            chosen = [path for path in paths[group] if path is not None]
            if layout.fused is None or group not in ("attn_qk", "attn_vo"):
                return [
                    owner._replace(name=f"{path}.{owner.name}".rstrip("."))
                    for path in chosen
                    for owner in owners(block.get_submodule(path))
                ]
            outputs = self._fused_outputs()[group == "attn_vo"]
            return [
                Part(path, block.get_submodule(path), outputs if path == layout.q else None)
                for path in chosen
            ]
        matrices = tuple(path for name in ("attn", "mlp") for path in paths[name] if path)
        return [
            part
            for part in owners(block)
            if group == "norms" and not f"{part.name}.".startswith(tuple(f"{p}." for p in matrices))
        ]

    def _outside(self, group: str) -> list[Part]:
        """What the group has outside the blocks."""
        base = self.causal_lm.base_model
        after = {
            "norms": [self.final_norm],
            "head": [self.head, submodule(base, self.layout.project_out)],
        }
        if group != "embed":
            roots = [root for root in after.get(group, []) if root is not None]
        else:
            others = [self.blocks, *after["norms"], *after["head"]]
            roots = [
                child
                for child in self.decoder.children()
                if not any(child is other for other in others)
            ]
        return [
            owner._replace(name=f"{path_of(self.causal_lm, root)}.{owner.name}".rstrip("."))
            for root in roots
            for owner in owners(root)
        ]

    def _fused_outputs(self) -> tuple[Tensor, Tensor]:
        """Indices of Q and K, and of V, among the outputs of a fused projection."""
        if self.layout.fused == "heads":
            rows = torch.arange(3 * self.n_heads * self.head_dim).view(self.n_heads, 3, -1)
            return rows[:, :2].flatten(), rows[:, 2].flatten()
        qk = (self.n_heads + self.n_kv_heads) * self.head_dim
        return torch.arange(qk), torch.arange(qk, qk + self.n_kv_heads * self.head_dim)


_SITE_PATHS: dict[str, tuple[str, Side]] = {
    "resid_in": ("", "input"),
    "resid_out": ("", "output"),
    "attn_in": ("attn", "input"),
    "attn_out": ("out", "output"),
    "head_in": ("out", "input"),
    "attn_add": ("attn_add", "output"),
    "mlp_in": ("mlp", "input"),
    "mlp_act": ("down", "input"),
    "mlp_out": ("down", "output"),
    "mlp_add": ("mlp_add", "output"),
}


def describe(model: Any) -> Architecture:
    """The parts of a causal language model; of the model inside a PEFT, parallel or compiled one.

    An architecture that is not in the table is searched for parts of the usual kind and accepted
    only if they pass a test on the model itself (see `lipogram.llm.discovery`).

    Raises:
        UnsupportedArchitecture: neither known nor of the usual kind.
    """
    causal_lm = unwrap(model)
    model_type = str(getattr(getattr(causal_lm, "config", None), "model_type", ""))
    layout = LAYOUTS.get(model_type)
    if layout is None:
        from lipogram.llm.discovery import discover  # it describes in turn

        layout = discover(causal_lm)
    try:
        return assemble(causal_lm, layout)
    except AttributeError as error:
        raise UnsupportedArchitecture(model_type, LAYOUTS, str(error)) from error


def assemble(causal_lm: Any, layout: Layout) -> Architecture:
    """The parts of an unwrapped model under a given layout.

    Raises:
        AttributeError: a part that is not where the layout says.
    """
    base, config = causal_lm.base_model, causal_lm.config.get_text_config()
    blocks = base.get_submodule(layout.blocks)
    first = blocks[0]
    embed = causal_lm.get_input_embeddings()
    head = causal_lm.get_output_embeddings() or submodule(causal_lm, "score")
    n_heads = config.num_attention_heads
    return Architecture(
        model_type=causal_lm.config.model_type,
        causal_lm=causal_lm,
        layout=layout,
        blocks=blocks,
        embed=embed,
        final_norm=submodule(base, layout.final_norm),
        head=head,
        n_layers=len(blocks),
        width=config.hidden_size,
        mlp_width=0 if layout.down is None else n_inputs(first.get_submodule(layout.down)),
        n_heads=n_heads,
        n_kv_heads=getattr(config, "num_key_value_heads", None) or n_heads,
        head_dim=n_inputs(first.get_submodule(layout.out)) // n_heads,
        tied=head is not None
        and getattr(unadapted(head), "weight", None) is unadapted(embed).weight,
    )
