"""An estimator on disk: settings, sums and feature map in one file, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lipogram.analytic.split_statistics import SplitStatistics
from lipogram.analytic.state import read_state, write_state
from lipogram.analytic.statistics import ClassStatistics
from lipogram.analytic.statistics_state import describe, restore
from lipogram.errors import CorruptState, InvalidSetting, LipogramError

if TYPE_CHECKING:
    from lipogram.analytic.estimator import AnalyticClassifier

    Model = TypeVar("Model", bound=AnalyticClassifier)

OF_THE_MACHINE = ("device", "folder")  # where a state lives is for its reader to say


def save_estimator(model: AnalyticClassifier, path: str | Path) -> Path:
    """Write settings, sums and buffer to one safetensors file, atomically; the path comes back.

    Raises:
        InvalidSetting: a setting that no file can hold (a function).
    """
    model.check_settings()
    held = model.statistics_
    parts = held.parts if isinstance(held, SplitStatistics) else [held]
    described = [describe(part, f"{i}/") for i, part in enumerate(parts)]
    names = getattr(model, "feature_names_in_", None)
    return write_state(
        path,
        {name: tensor for named, _ in described for name, tensor in named.items()},
        {
            "method": type(model).__name__,
            "settings": {
                name: _plain(name, value)
                for name, value in model.get_params(deep=False).items()
                if name not in OF_THE_MACHINE
            },
            "feature_names": None if names is None else list(names),
            "split": isinstance(held, SplitStatistics),
            "parts": [part for _, part in described],
        },
    )


def load_estimator(
    kind: type[Model], path: str | Path, *, device: str = "cpu", folder: str | None = None
) -> Model:
    """The estimator that :func:`save_estimator` wrote.

    Raises:
        FileNotFoundError: no such file.
        CorruptState: a damaged or hostile file, or one of another method.
    """
    tensors, description = read_state(path)
    if description.get("method") != kind.__name__:
        raise CorruptState(f"{path} holds a {description.get('method')!r}, not a {kind.__name__}")
    try:
        settings = {k: _restored(v) for k, v in description["settings"].items()}
        model = kind(**settings)
        model.device, model.folder = device, folder
        model.check_settings()
        parts: list[ClassStatistics] = []
        for i, part in enumerate(description["parts"]):
            shared = parts[0].feature_map if parts else None
            where: dict[str, Any] = {"device": device, "folder": folder, "feature_map": shared}
            where["make"] = model.empty_statistics
            parts.append(restore(tensors, part, f"{i}/", **where))
        for part in parts:
            part._check_same_space(parts[0])
            if part.classes != parts[0].classes or part.pooled != model._pooled():
                raise CorruptState(f"{path} holds sums that no {kind.__name__} can have")
        if len(parts) != 1 and description["split"] is not True:
            raise CorruptState(f"{path} holds {len(parts)} parts where one belongs")
        model.adopt(SplitStatistics.of(parts) if description["split"] else parts[0])
        _name_features(model, description["feature_names"])
    except CorruptState:
        raise
    except (LipogramError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CorruptState(f"{path} holds settings that do not fit together: {error}") from None
    return model


def _name_features(model: AnalyticClassifier, names: Any) -> None:
    if names is None:
        return
    if len(names) != model.n_features_in_ or not all(isinstance(name, str) for name in names):
        raise CorruptState("damaged or hostile state: the names of the features")
    model.feature_names_in_ = np.asarray(names, dtype=object)


def _plain(name: str, value: Any) -> Any:
    """A setting as JSON; a mapping as its pairs, since JSON would turn its keys into strings."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {"pairs": [[_plain(name, k), _plain(name, v)] for k, v in value.items()]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InvalidSetting(
        f"{name} is {value!r}, which a file cannot hold: use a number, a name or a mapping"
    )


def _restored(value: Any) -> Any:
    return dict(value["pairs"]) if isinstance(value, dict) else value
