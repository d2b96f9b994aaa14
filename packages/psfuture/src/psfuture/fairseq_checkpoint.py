"""fairseq's checkpoints, read without fairseq and without running anything that is in them."""

from __future__ import annotations

import argparse
import hashlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipogram.errors import CorruptState, ModelNotFound, UnsafeCheckpoint

_REFUSED = re.compile(
    r"GLOBAL (\S+) (?:was not an allowed|whose module)|unrecognized function (.+)|"
    r"but got (<class .+?>)"
)
# In the weights of older versions and of no use: sinusoids are computed.
_DROPPED = re.compile(
    r"(encoder|decoder)\.(version|embed_positions\.(weights|_float_tensor)|_future_mask)"
)
_NORMS = {
    "encoder": {"0": "self_attn_layer_norm", "1": "final_layer_norm"},
    "decoder": {
        "0": "self_attn_layer_norm",
        "1": "encoder_attn_layer_norm",
        "2": "final_layer_norm",
    },
}
_OLD_NORM = re.compile(r"(encoder|decoder)(\.layers\.\d+)\.layer_norms\.(\d)\.(weight|bias)")


@dataclass(frozen=True)
class FairseqCheckpoint:
    """What of a checkpoint is needed to translate.

    Attributes:
        model: the network's settings, flat, as on fairseq's command line (`encoder_layers`).
        task: those of the task, such as `source_lang` and `target_lang`.
        weights: under the names that fairseq 0.12 gives them.
        digest: eight hexadecimal digits of the weights.
    """

    model: dict[str, Any]
    task: dict[str, Any]
    weights: dict[str, Tensor]
    digest: str


def read_fairseq(path: Path) -> FairseqCheckpoint:
    """Read a checkpoint of fairseq 0.6 to 0.12.

    Tensors, plain containers and `argparse.Namespace` are all that a file may hold. The state of
    the optimiser is not brought into memory where the format allows.

    Raises:
        ModelNotFound: there is no such file.
        UnsafeCheckpoint: the file holds another type, which the message names.
        CorruptState: it is truncated, or no checkpoint of fairseq.
    """
    state = _plain_tensors(path)
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise CorruptState(f"{path} is no checkpoint of fairseq: it holds no weights under 'model'")
    model, task = _settings(state)
    if not model:
        raise CorruptState(
            f"{path} does not say what network it holds: neither cfg nor args is there"
        )
    for name, value in state["model"].items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CorruptState(f"{path}: the weight {name!r} is no tensor")
    weights = _current_names(state["model"])
    for name, value in weights.items():
        if not _is_plain(value):
            raise CorruptState(f"{path}: the weight {name!r} is no dense tensor of real numbers")
    return FairseqCheckpoint(model, task, weights, weights_digest(weights))


def _is_plain(value: Tensor) -> bool:
    """Whether it takes no more memory when it is copied than it has now."""
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        return False
    held = value.untyped_storage().nbytes()
    return value.is_floating_point() and value.numel() * value.element_size() <= held


def _plain_tensors(path: Path) -> Any:
    if not path.is_file():
        raise ModelNotFound(f"there is no checkpoint {path}")
    zipped = False
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:  # torch compresses nothing, so whatever grows was made to fill the memory
            with zipfile.ZipFile(path) as archive:
                if any(file.file_size > file.compress_size for file in archive.infolist()):
                    raise CorruptState("its parts are compressed")
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except MemoryError:
        raise
    except Exception as error:  # whatever a hostile or broken file makes the reader raise
        said = str(error)
        if type(error).__name__ != "UnpicklingError":
            raise CorruptState(
                f"{path} is truncated or no checkpoint: {' '.join(said.split())[:300]}"
            ) from None
        if not zipped and path.read_bytes()[:1] != b"\x80":
            raise CorruptState(f"{path} is no checkpoint") from None
        found = _REFUSED.search(said)
        refused = next(filter(None, found.groups())) if found else said.split("\n")[-1].strip()
        operand = re.search(r"Unsupported operand \d+", said)
        raise UnsafeCheckpoint(
            f"{path} holds {operand[0] if operand else refused}, and only tensors, plain "
            "containers and argparse.Namespace are read: save it again with `args` or `cfg` and "
            "`model` alone"
        ) from None


def _settings(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    whole = _flat(state.get("cfg"))
    model, task = _flat(whole.get("model")), _flat(whole.get("task"))
    old = _flat(state.get("args"))
    for part in ("encoder", "decoder"):  # {"encoder": {"layers": 6}} is encoder_layers
        nested = _flat(model.get(part))
        model |= {f"{part}_{name}": value for name, value in nested.items()}
    return model or old, task or old


def _flat(settings: Any) -> dict[str, Any]:
    if isinstance(settings, argparse.Namespace):
        settings = vars(settings)
    if isinstance(settings, Mapping):
        return {str(n): value for n, value in settings.items() if not isinstance(value, Tensor)}
    return {}


def _current_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of any version under the names of the last."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        if _DROPPED.fullmatch(name):
            continue
        if old := _OLD_NORM.fullmatch(name):
            norm = _NORMS[old[1]].get(old[3], f"layer_norms.{old[3]}")
            found[f"{old[1]}{old[2]}.{norm}.{old[4]}"] = value
        elif name.endswith((".in_proj_weight", ".in_proj_bias")) and value.ndim:
            stem, _, kind = name.rpartition(".in_proj_")
            for gate, part in zip("qkv", value.chunk(3), strict=False):
                found[f"{stem}.{gate}_proj.{kind}"] = part
        elif name == "decoder.embed_out":
            found["decoder.output_projection.weight"] = value
        else:
            found[name] = value
    return found


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Eight hexadecimal digits of some values of every weight; of one with several names, once."""
    digest = hashlib.sha256()
    seen = set()
    for name in sorted(weights):
        place = (weights[name].data_ptr(), *weights[name].shape)
        if place in seen:
            continue
        seen.add(place)
        flat = weights[name].flatten()
        digest.update(name.encode())
        digest.update(flat[:: max(1, len(flat) // 64)].float().numpy().tobytes())
    return digest.hexdigest()[:8]
