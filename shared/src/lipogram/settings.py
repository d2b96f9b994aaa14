"""Settings as JSON holds them, and how two sets of them differ."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lipogram.errors import InvalidSetting


def settings_of(config: object) -> dict[str, Any]:
    """The settings of a mapping or a dataclass, as JSON gives them back.

    Raises:
        InvalidSetting: neither of the two, or a setting that JSON cannot hold (NaN, an object).
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    if not isinstance(config, Mapping):
        raise InvalidSetting(
            f"config must be a mapping or a dataclass, got {type(config).__name__}"
        )
    settings: dict[str, Any] = plain(config, "config", finite=True)
    return settings


def plain(value: object, name: str, *, finite: bool = False) -> Any:
    """`value` as JSON gives it back: what is compared is then what is stored.

    Tuples and arrays become lists, NumPy and torch scalars numbers, paths strings (with `~` for the
    home folder), and a number that is not finite null.

    Args:
        value: anything.
        name: what a message calls it.
        finite: refuse a number that is not finite.

    Raises:
        InvalidSetting: a value that JSON cannot hold.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        if finite:
            raise InvalidSetting(f"{name} is {value}: a setting must be finite")
        return None
    if isinstance(value, Path):
        home = Path.home()
        return f"~/{value.relative_to(home)}" if value.is_relative_to(home) else str(value)
    if isinstance(value, Mapping):
        return {
            str(key): plain(item, f"{name}.{key}", finite=finite) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain(item, f"{name}[{i}]", finite=finite) for i, item in enumerate(value)]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, torch tensors
        return plain(value.tolist(), name, finite=finite)
    raise InvalidSetting(f"{name} is a {type(value).__name__}, which JSON cannot hold")


def differences(held: object, asked: object, name: str = "") -> list[str]:
    """Where two sets of settings differ: one phrase a key, nested keys joined by dots."""
    if isinstance(held, dict) and isinstance(asked, dict):
        found = []
        for key in sorted(held.keys() | asked.keys()):
            path = f"{name}.{key}" if name else key
            if key not in asked:
                found.append(f"{path} (only in the folder)")
            elif key not in held:
                found.append(f"{path} (not in the folder)")
            else:
                found += differences(held[key], asked[key], path)
        return found
    # 1 == 1.0 == True in Python, but not to the code that reads the setting.
    if json.dumps(held) == json.dumps(asked):
        return []
    return [f"{name} is {_short(held)} in the folder, {_short(asked)} asked for"]


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
