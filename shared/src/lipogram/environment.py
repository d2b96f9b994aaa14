"""What a run ran on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_LIBRARIES = ("lipogram", "numpy", "scipy", "scikit-learn", "torch", "torchvision", "transformers")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def environment(package: str) -> dict[str, Any]:
    """Versions, threads and platform; nothing that names a person or a machine.

    Args:
        package: a distribution whose version is given beside the libraries'; None where one is not
            installed.
    """
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in dict.fromkeys([package, *_LIBRARIES]):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    threads: dict[str, int | str | None] = {"cpus": os.cpu_count()}
    threads |= {name: os.environ[name] for name in _THREADS if name in os.environ}
    if versions["torch"] is not None:
        import torch

        threads["torch"] = torch.get_num_threads()
    return {
        "versions": versions,
        "threads": threads,
        "platform": {"system": platform.system(), "machine": platform.machine()},
    }
