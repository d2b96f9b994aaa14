"""Sites of an architecture that is not in the table, found by structure and tested.

The blocks are the largest list of modules of one class. A block's attention is its one child of
that name, its MLP the one other child with matrices; the last matrix of each is its output
projection. This is accepted only if, on the model itself, every site is seen, putting back what was
seen there leaves the logits bit-equal, and attention and MLP together are what the block adds.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lipogram.errors import UnsupportedArchitecture
from lipogram.llm.architecture import SITES, Architecture, assemble
from lipogram.llm.forward import evaluating
from lipogram.llm.hooks import Change, Place, hooked
from lipogram.llm.layouts import LAYOUTS, Layout
from lipogram.llm.wrappers import is_conv1d, unadapted

N_TOKENS = 5

_found: WeakKeyDictionary[nn.Module, Layout] = WeakKeyDictionary()  # the test costs a dozen passes


class _Unusual(Exception):
    """Why a model is not of the usual kind."""


def discover(causal_lm: Any) -> Layout:
    """The layout of an unknown model; tested once for each model.

    Raises:
        UnsupportedArchitecture: it is not of the usual kind, or fails the test; with the reason.
    """
    if causal_lm not in _found:
        config = getattr(causal_lm, "config", None)
        model_type = str(getattr(config, "model_type", type(causal_lm).__name__))
        try:
            layout = _by_structure(causal_lm)
            _test(assemble(causal_lm, layout))
        except Exception as error:  # whatever goes wrong in a strange model's code
            reason = str(error) if isinstance(error, _Unusual) else repr(error)
            raise UnsupportedArchitecture(model_type, LAYOUTS, reason) from error
        _found[causal_lm] = layout
    return _found[causal_lm]


def _by_structure(causal_lm: Any) -> Layout:
    base = causal_lm.base_model
    lists = {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(item) for item in module}) == 1
    }
    if not lists:
        raise _Unusual("it has no list of blocks of one class")
    blocks = max(lists, key=lambda name: sum(p.numel() for p in lists[name].parameters()))
    block = lists[blocks][0]
    halves = {
        name: [f"{name}.{path}" for path in _matrices(child)]
        for name, child in block.named_children()
        if _matrices(child) or any(p.ndim == 3 for p in child.parameters())
    }
    attentions = [name for name in halves if re.search("attn|attention", name, re.IGNORECASE)]
    mlps = [name for name in halves if name not in attentions]
    if len(attentions) != 1 or len(mlps) != 1:
        raise _Unusual(
            f"a block has {attentions or 'nothing'} for attention and {mlps or 'nothing'} for MLP; "
            "one of each is needed"
        )
    (attn,), (mlp,) = attentions, mlps
    *inputs, out = halves[attn]
    qkv = [[p for p in inputs if re.search(rf"\.{x}[^.]*$", p)] for x in "qkv"]
    split = len(inputs) == 3 and all(len(paths) == 1 for paths in qkv)
    q, k, v = (paths[0] for paths in qkv) if split else (attn, attn, attn)
    mixture = any(p.ndim == 3 for p in block.get_submodule(mlp).parameters()) or any(
        re.search("expert|router", name) for name, _ in block.get_submodule(mlp).named_modules()
    )
    return Layout(
        blocks=blocks,
        final_norm=_final_norm(base, blocks),
        attn=attn,
        q=q,
        k=k,
        v=v,
        out=out,
        mlp=mlp,
        up=() if mixture else tuple(halves[mlp][:-1]),
        down=None if mixture else halves[mlp][-1],
        fused=None if split else "unknown",
    )


def _matrices(module: nn.Module) -> list[str]:
    return [
        name
        for name, child in module.named_modules()
        if isinstance(unadapted(child), nn.Linear) or is_conv1d(unadapted(child))
        if not re.search(r"base_layer|lora_|original_module|modules_to_save", name)
    ]


def _final_norm(base: nn.Module, blocks: str) -> str:
    parent = blocks.rpartition(".")[0]
    names = [name for name, _ in base.get_submodule(parent).named_children()]
    after = names[names.index(blocks.rpartition(".")[2]) + 1 :]
    norms = [name for name in after if re.search("norm|^ln", name)]
    return f"{parent}.{norms[0]}".lstrip(".") if norms else ""


def _test(architecture: Architecture) -> None:
    """Runs the model on a few tokens: once as it is, once recorded, once for each site.

    Raises:
        _Unusual: what the model does is not what the layout says.
    """
    sites = [
        site
        for site in SITES
        if architecture.layout.down is not None or site not in ("mlp_act", "mlp_out")
    ]
    places = [(site, layer) for layer in range(architecture.n_layers) for site in sites]
    seen: dict[Place, Tensor] = {}

    def keep(place: Place, activation: Tensor) -> None:
        seen[place] = activation

    with evaluating(architecture.causal_lm):
        plain = _logits(architecture, {})
        _logits(architecture, {place: partial(keep, place) for place in places})
        if missing := [place for place in places if place not in seen]:
            raise _Unusual(f"{missing[0][0]} of layer {missing[0][1]} is never reached")
        patched = {  # site by site: the last one hides what those before it did
            site: _logits(architecture, {p: _constant(seen[p]) for p in places if p[0] == site})
            for site in sites
        }
    for place, value in seen.items():
        if value.shape[:2] != (1, N_TOKENS):
            raise _Unusual(f"{place[0]} has shape {list(value.shape)}, not [b, t, width]")
    for site, logits in patched.items():
        if not torch.equal(logits, plain):
            raise _Unusual(f"putting back what was seen at {site} changes the logits")
    for layer in range(architecture.n_layers):
        parts = [seen[site, layer].float() for site in ("resid_in", "attn_add", "mlp_add")]
        after = seen["resid_out", layer]
        error = float((sum(parts) - after.float()).abs().max())
        largest = max(float(part.abs().max()) for part in [*parts, after])
        if not error <= 8 * torch.finfo(after.dtype).eps * largest:
            raise _Unusual(
                f"in layer {layer} the outputs of attention and MLP are not what the block adds to "
                f"its input (off by {error:.2g}): there may be a norm or a factor after them"
            )


def _constant(value: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: value


def _logits(architecture: Architecture, changes: dict[Place, Change]) -> Tensor:
    causal_lm = architecture.causal_lm
    n_tokens = causal_lm.get_input_embeddings().weight.shape[0]
    tokens = torch.arange(3, 3 + N_TOKENS, device=causal_lm.device) % n_tokens
    with hooked(architecture, changes):
        logits: Tensor = causal_lm(input_ids=tokens[None], use_cache=False).logits
    return logits
