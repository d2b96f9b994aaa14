"""What a person types, as the values that the library takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lipogram.errors import InvalidSetting


def choice(name: str, value: str, allowed: tuple[str, ...]) -> Any:
    """The value, if it is allowed.

    Raises:
        InvalidSetting: it is not; what is, is listed.
    """
    if value not in allowed:
        raise InvalidSetting(f"{name} {value!r} is none of {', '.join(allowed)}")
    return value


def number(text: str) -> Any:
    """An int or float where the text is one, else the text."""
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() and "." not in text else value


def settings_in(path: Path) -> dict[str, Any]:
    """Names and values of a YAML file; dashes in names are underscores.

    Raises:
        InvalidSetting: no YAML, or no names and values.
    """
    import yaml

    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{path} is no YAML: {error}") from None
    if not isinstance(held, dict):
        raise InvalidSetting(f"{path} holds no settings: names and values are needed")
    return {str(name).replace("-", "_"): value for name, value in held.items()}


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
