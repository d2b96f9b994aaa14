"""One TOML file for all commands: a table a command, a name an option."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click

from lipogram.errors import InvalidSetting


def defaults_in(path: Path, group: click.Group) -> dict[str, dict[str, Any]]:
    """The options that a file sets; what is typed wins over it.

    Args:
        path: TOML such as `[ask]` above `epsilon = 30.0`.
        group: whose commands and options may be named.

    Raises:
        InvalidSetting: no TOML, or a command or option that isn't there.
    """
    try:
        held = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSetting(f"{path} cannot be read as TOML: {error}") from None
    for name, options in held.items():
        command = group.commands.get(name)
        if command is None or not isinstance(options, dict):
            known = ", ".join(sorted(group.commands))
            raise InvalidSetting(f"{path} has {name!r}, which is no command; there are {known}")
        known_options = {parameter.name for parameter in command.params}
        for option in options:
            if option.replace("-", "_") not in known_options:
                listed = ", ".join(sorted(str(each) for each in known_options))
                raise InvalidSetting(f"[{name}] in {path} sets {option!r}; there are {listed}")
    return {
        name: {option.replace("-", "_"): value for option, value in options.items()}
        for name, options in held.items()
    }
