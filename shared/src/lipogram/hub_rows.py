"""Data sets of the Hugging Face hub, by their id, at run time: nothing of them is bundled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lipogram.errors import MissingAsset, MissingExtra

PATIENCE = 5.0  # seconds until the hub counts as out of reach


def hub_rows(
    repository: str, config: str | None, split: str, *, file: str | None = None
) -> list[dict[str, Any]]:
    """The rows of one split; where the hub is out of reach, from its local cache.

    Args:
        repository: hub id, "owner/name", or a folder with JSON, CSV or Parquet.
        config: subset.
        split: part of the subset.
        file: a file's name or pattern in the repository, in place of `config`.

    Raises:
        MissingExtra: the library `datasets` is not there.
        MissingAsset: no such data set, or the hub is out of reach and the cache does not have it.
    """
    try:
        import datasets
        import huggingface_hub
    except ImportError as error:
        raise MissingExtra("datasets", "pip install datasets") from error
    reachable = True
    if not huggingface_hub.constants.HF_HUB_OFFLINE:
        try:
            huggingface_hub.HfApi().dataset_info(repository, timeout=PATIENCE)
        except (
            Exception
        ):  # whatever it is (no network, no such id, no right), loading says it again
            reachable = False
    try:
        with _online(datasets, huggingface_hub, reachable):
            rows = datasets.load_dataset(repository, config, data_files=file, split=split)
    except Exception as error:  # the library raises a dozen kinds, network and parsing alike
        part = f" ({config or file}, {split})"
        reason = (str(error).splitlines() or [""])[0]
        raise MissingAsset(
            f"the data set {repository}{part} could not be had from the hub nor from its cache: "
            f"{type(error).__name__}: {reason}; a local copy can be named in its place"
        ) from error
    return [dict(row) for row in rows]


@contextmanager
def _online(datasets: Any, huggingface_hub: Any, reachable: bool) -> Iterator[None]:
    """Without a hub, look into the cache only: the libraries would retry for half a minute."""
    settings = (datasets.config, huggingface_hub.constants)
    before = [module.HF_HUB_OFFLINE for module in settings]
    try:
        if not reachable:
            for module in settings:
                module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(settings, before, strict=True):
            module.HF_HUB_OFFLINE = value
