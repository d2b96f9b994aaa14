"""What a person types or writes into a file, as the settings that a library takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lipogram.errors import InvalidSetting

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)

_EXPONENT = re.compile(r"[-+]?\d+[eE][-+]?\d+")


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

    `1e-5`, which YAML 1.1 reads as text for want of a point, is a number.

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
    return {str(name).replace("-", "_"): _numbers(value) for name, value in held.items()}


def configured(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """A dataclass of settings from names and values; those not given keep their default.

    A whole number stands for a float, a list for a tuple, and a mapping for settings within
    settings.

    Raises:
        InvalidSetting: an unknown name, a value of another kind than the default's, or one that the
            settings refuse.
    """
    known = {field.name: field for field in fields(kind) if field.init}
    if unknown := [name for name in values if name not in known]:
        raise InvalidSetting(f"unknown setting {unknown[0]!r}; there are {', '.join(known)}")
    return kind(**{name: _as(known[name], value) for name, value in values.items()})


def _as(field: Field[Any], value: Any) -> Any:
    default = field.default
    if field.default_factory is not MISSING:
        default = field.default_factory()
    if is_dataclass(default) and isinstance(value, Mapping):
        kind: type[Any] = type(default)
        return configured(kind, value)
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        return tuple(value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if default is None or default is MISSING or value is None:
        return value
    if type(value) is not type(default):
        raise InvalidSetting(
            f"{field.name} is {value!r}, it must be {type(default).__name__} like {default!r}"
        )
    return value


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value
