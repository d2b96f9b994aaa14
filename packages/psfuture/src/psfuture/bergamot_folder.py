"""Folders with a Marian model: as Firefox has them, and as they are written after training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as as_safetensors

from lipogram.errors import CorruptState, ModelNotFound
from lipogram.files import write_atomically
from psfuture.bergamot_network import BergamotNetwork
from psfuture.marian_file import read_marian

WEIGHTS, CONFIG, FORMAT = "model.safetensors", "config.json", "psfuture-marian-1"


def read_folder(folder: Path) -> tuple[BergamotNetwork, str]:
    """The network in a folder, and its label.

    Args:
        folder: with one `*.bin` or `*.npz`, or written by :func:`write_folder`.

    Raises:
        ModelNotFound: neither, or several models.
        CorruptState: a broken file; see :func:`~psfuture.marian_file.read_marian`.
        InvalidSetting: a network of another kind.
    """
    if (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file():
        return _read_own(folder)
    models = sorted(
        p for p in folder.glob("*") if p.suffix in (".bin", ".npz") and p.name[:4] != "lex."
    )
    if len(models) != 1:
        raise ModelNotFound(
            f"{folder} must hold one Marian model (*.bin or *.npz), or {WEIGHTS} with {CONFIG}; "
            f"it holds {len(models)} models"
        )
    parts = models[0].name.split(".")
    label = parts[1] if len(parts) > 2 else folder.resolve().name
    weights, options = read_marian(models[0])
    return BergamotNetwork(weights, options), label


def find_vocabularies(folder: Path) -> tuple[Path, Path]:
    """SentencePiece models of the source and of the target; the same where there is one.

    Raises:
        ModelNotFound: there is none, or it is not clear which is which.
    """
    found = sorted(folder.glob("*.spm"))
    if len(found) == 1:
        return found[0], found[0]
    source = [p for p in found if p.name.startswith(("src", "source"))]
    target = [p for p in found if p.name.startswith(("trg", "tgt", "target"))]
    if len(found) != 2 or len(source) != 1 or len(target) != 1:
        raise ModelNotFound(
            f"{folder} must hold one *.spm vocabulary, or two whose names begin with src and trg; "
            f"it holds {len(found)}"
        )
    return source[0], target[0]


def write_folder(
    folder: Path, network: BergamotNetwork, label: str, vocabularies: tuple[bytes, bytes]
) -> None:
    """Write a network so that :func:`read_folder` reads it; each file is whole or not there.

    The configuration comes last and knows the weights' digest, so weights of another save beside
    it are noticed.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.cpu().contiguous() for name, tensor in network.weights().items()}
    source, target = vocabularies
    names = (
        {"vocabulary.spm": source} if source == target else {"src.spm": source, "trg.spm": target}
    )
    for stale in set(folder.glob("*.spm")) - {folder / name for name in names}:
        stale.unlink()
    for name, content in names.items():
        write_atomically(folder / name, content)
    write_atomically(folder / WEIGHTS, as_safetensors(weights))
    config = {
        "format": FORMAT,
        "label": label,
        "digest": digest_of(weights),
        "options": network.options,
    }
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def digest_of(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of all values, in the order of the names; the same in every file format."""
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(name.encode() + b"\0")
        found.update(weights[name].detach().cpu().contiguous().numpy().data)
    return found.hexdigest()


def _read_own(folder: Path) -> tuple[BergamotNetwork, str]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptState(f"{path} is no JSON: {error}") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CorruptState(f"{path} is not of the format {FORMAT}")
    options, label = config.get("options"), config.get("label")
    if (
        not isinstance(label, str)
        or not isinstance(options, dict)
        or not all(isinstance(text, str) for text in options.values())
    ):
        raise CorruptState(f"{path} must have a label, and options that are texts")
    try:
        weights = parse_safetensors((folder / WEIGHTS).read_bytes())
    except (SafetensorError, ValueError) as error:
        raise CorruptState(f"{folder / WEIGHTS} is broken: {error}") from None
    for name, tensor in weights.items():
        if tensor.dtype != torch.float32 or not torch.isfinite(tensor).all():
            raise CorruptState(f"{folder / WEIGHTS}: {name} is not finite float32")
    if digest_of(weights) != config.get("digest"):
        raise CorruptState(f"{folder / WEIGHTS} is not what {CONFIG} tells of: save it again")
    return BergamotNetwork(weights, options), label
