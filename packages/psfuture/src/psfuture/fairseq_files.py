"""What makes a model of fairseq: a checkpoint and the files beside it, or a converted folder."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from lipogram.errors import CorruptState, InvalidSetting, ModelNotFound
from lipogram.files import move_folder
from psfuture.fairseq_checkpoint import FairseqCheckpoint, read_fairseq, weights_digest
from psfuture.fairseq_settings import FairseqSettings

SEGMENTED = "segmented"
"""As `bpe`: the words that are given are pieces of the dictionary already."""

PIECES = (".model", ".spm")
"""How files of SentencePiece models end; all other `bpe` files are byte-pair codes."""

_FORMAT = 1
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_SOURCE, _TARGET = "dict.source.txt", "dict.target.txt"
_CODES, _MODEL = "bpe.codes", "bpe.model"
_NAME = re.compile(r"(?s)fairseq:.*@[0-9a-f]{8}")


@dataclass(frozen=True)
class FairseqFiles:
    """Settings and weights in memory, and where the rest lies.

    Attributes:
        settings: of the network.
        weights: under the names that fairseq 0.12 gives them.
        source: the source's dictionary.
        target: the target's.
        bpe: how source words are cut: a file, "segmented", or None for a dictionary of whole words.
        name: what identifies the weights.
    """

    settings: FairseqSettings
    weights: dict[str, Tensor]
    source: Path
    target: Path
    bpe: str | Path | None
    name: str

    @classmethod
    def find(
        cls,
        path: Path,
        *,
        src_dict: str | Path | None = None,
        tgt_dict: str | Path | None = None,
        bpe: str | Path | None = None,
        causal_encoder: bool | None = None,
    ) -> FairseqFiles:
        """A checkpoint and what belongs to it; the arguments are those of `FairseqBackend.load`."""
        checkpoint = read_fairseq(path)
        return cls(
            FairseqSettings.read(checkpoint.model, causal_encoder=causal_encoder),
            checkpoint.weights,
            _dictionary(path, checkpoint, "source", src_dict),
            _dictionary(path, checkpoint, "target", tgt_dict),
            bpe,
            f"fairseq:{path.stem}@{checkpoint.digest}",
        )

    @classmethod
    def restore(cls, folder: Path) -> FairseqFiles:
        """What :meth:`save` wrote; nothing in it is unpickled.

        Raises:
            ModelNotFound: it is no such folder.
            CorruptState: a file is damaged, or the weights are not those that were written.
        """
        from safetensors.torch import load_file

        if not (folder / _CONFIG).is_file():
            raise ModelNotFound(f"{folder} is no converted model of fairseq: it has no {_CONFIG}")
        try:
            config = json.loads((folder / _CONFIG).read_bytes())
            weights = load_file(folder / _WEIGHTS)
        except (OSError, ValueError, RecursionError, SafetensorError) as error:
            raise CorruptState(f"the model in {folder} cannot be read: {error}") from None
        if not isinstance(config, dict) or config.get("model_type") != "fairseq":
            raise CorruptState(f"{folder / _CONFIG} does not describe a converted model of fairseq")
        if config.get("format") != _FORMAT:
            raise CorruptState(
                f"{folder} has the format {config.get('format')!r}, and {_FORMAT} is read here: "
                "convert the checkpoint again"
            )
        name, bpe, same = config.get("name"), config.get("bpe"), config.get("same")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise CorruptState(f"{folder / _CONFIG}: name is {name!r}")
        if bpe not in (None, SEGMENTED, _CODES, _MODEL):
            raise CorruptState(f"{folder / _CONFIG}: bpe is {bpe!r}")
        if not isinstance(same, dict) or not {*map(str, same.values())} <= weights.keys():
            raise CorruptState(f"{folder / _CONFIG}: same is {same!r}")
        weights |= {str(other): weights[first] for other, first in same.items()}
        if not name.endswith(weights_digest(weights)):
            raise CorruptState(f"the weights in {folder} are not those of {name}")
        return cls(
            FairseqSettings.restore(config.get("network")),
            weights,
            folder / _SOURCE,
            folder / _TARGET,
            folder / bpe if bpe in (_CODES, _MODEL) else bpe,
            name,
        )

    def save(self, folder: Path) -> None:
        """Write a folder of safetensors, JSON and copies of the other files, whole or not at all.

        Raises:
            InvalidSetting: `folder` is there and not empty.
            OSError: the disk is full or cannot be written.
        """
        from safetensors.torch import save_file

        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InvalidSetting(f"{folder} is there and not empty: choose another folder")
        first: dict[tuple[int, ...], str] = {}
        kept, same = {}, {}
        for name, value in self.weights.items():
            held = first.setdefault((value.data_ptr(), *value.shape, *value.stride()), name)
            if held == name:
                kept[name] = value.clone(memory_format=torch.contiguous_format)
            else:
                same[name] = held
        bpe = self.bpe
        copies = {_SOURCE: self.source, _TARGET: self.target}
        if bpe is not None and bpe != SEGMENTED:
            file = Path(bpe)
            bpe = _MODEL if file.suffix in PIECES else _CODES
            copies[bpe] = file
        config = {
            "model_type": "fairseq",
            "format": _FORMAT,
            "name": self.name,
            "network": asdict(self.settings),
            "same": same,
            "bpe": bpe,
        }
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".part-{folder.name}-", dir=folder.parent))
        try:
            save_file(kept, part / _WEIGHTS, {"format": "pt"})
            for written, path in copies.items():
                shutil.copyfile(path, part / written)
            text = json.dumps(config, indent=1, allow_nan=False) + "\n"
            (part / _CONFIG).write_text(text, encoding="utf-8")
            part.chmod(0o755)
            move_folder(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def convert_fairseq(
    path: str | Path,
    out: str | Path,
    *,
    src_dict: str | Path | None = None,
    tgt_dict: str | Path | None = None,
    bpe: str | Path | None = None,
    causal_encoder: bool | None = None,
) -> None:
    """Write a checkpoint as a folder of safetensors that `FairseqBackend.load` reads unpickled.

    Weights keep their type; the model keeps its name. `out` is written whole or not at all, and not
    if the model could not be loaded from it.

    Args:
        path: the checkpoint.
        out: a folder that is not there, or empty.
        src_dict: see :meth:`psfuture.fairseq_backend.FairseqBackend.load`; so are the others.
        tgt_dict: see there.
        bpe: see there.
        causal_encoder: see there.

    Raises:
        InvalidSetting: `out` is not empty, or as `load`.
        ModelNotFound, UnsafeCheckpoint, CorruptState, NotFinite: as `load`.
        OSError: the disk is full or cannot be written.
    """
    from psfuture.fairseq_backend import FairseqBackend

    files = FairseqFiles.find(
        Path(path),
        src_dict=src_dict,
        tgt_dict=tgt_dict,
        bpe=bpe,
        causal_encoder=causal_encoder,
    )
    FairseqBackend.made_of(files, device="cpu")
    files.save(Path(out))


def _dictionary(
    path: Path, checkpoint: FairseqCheckpoint, which: str, given: str | Path | None
) -> Path:
    if given is not None:
        return Path(given)
    language: Any = checkpoint.task.get(f"{which}_lang")
    if not isinstance(language, str) or not re.fullmatch(r"[\w.@-]+", language):
        raise InvalidSetting(
            f"{path} does not name its {which} language: pass src_dict= and tgt_dict= with the "
            "dict.xx.txt of both"
        )
    return path.parent / f"dict.{language}.txt"
