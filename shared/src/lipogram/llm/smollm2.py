"""SmolLM2-135M-Instruct, the model that is there without a hub."""

import os
from pathlib import Path

from lipogram.assets import ASSETS, get
from lipogram.errors import MissingAsset, ModelNotFound
from lipogram.llm.gguf import converted, home
from lipogram.llm.hub import INSTALL

VARIABLE = "LIPOGRAM_SMOLLM2_GGUF"


def smollm2_gguf() -> Path:
    """The GGUF file: the one that LIPOGRAM_SMOLLM2_GGUF names, else the asset, fetched if need be.

    Raises:
        ModelNotFound: the variable names no file, or the asset is nowhere and cannot be fetched.
        AssetMismatch: the asset has other contents than were examined.
    """
    if named := os.environ.get(VARIABLE):
        path = Path(named).expanduser()
        if not path.is_file():
            raise ModelNotFound(f"{VARIABLE} names {path}, which is no file")
        return path
    try:
        return get("smollm2")
    except MissingAsset as error:
        raise ModelNotFound(f"{error}\nIt also needs gguf: {INSTALL}") from error


def smollm2_folder() -> Path | None:
    """The converted model in the cache; None, with a warning, where the cache cannot be written.

    What was converted once is used without a look for the file it was made of.

    Raises:
        ModelNotFound, AssetMismatch: as :func:`smollm2_gguf`.
        CorruptState, MissingExtra: as :func:`lipogram.llm.gguf.converted`.
    """
    if VARIABLE not in os.environ:
        (digest,) = ASSETS["smollm2"].files.values()
        if (folder := home(digest)).exists():
            return folder
    return converted(smollm2_gguf())
