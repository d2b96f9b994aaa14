"""What a person types, as the values that the library takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lipogram.options import number


def typed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as :class:`air.experiment.Experiment` takes them: tuples, paths, None for 0."""
    values = dict(settings)
    for name in ("orders", "methods", "seeds"):
        if name in values:
            values[name] = tuple(
                values[name] if isinstance(values[name], (list, tuple)) else [values[name]]
            )
    if isinstance(values.get("gamma"), str):
        values["gamma"] = number(values["gamma"])
    for name in ("rho", "buffer_size"):
        if values.get(name) == 0:
            values[name] = None
    if values.get("data") is not None:
        values["data"] = Path(values["data"])
    return values
