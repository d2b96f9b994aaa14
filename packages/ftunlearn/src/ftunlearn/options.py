"""What a person types, as the models and probes that the library takes."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipogram.errors import InvalidSetting
from lipogram.options import settings_in

if TYPE_CHECKING:
    from ftunlearn.probes import ProbeSet

SOURCES = "a JSONL file, builtin:facts, builtin:capitals, tofu:SUBSET, muse:CORPUS, concepts:FILE"


def probes_of(spec: str, *, strict: bool = False) -> ProbeSet:
    """The probes that a name stands for.

    Args:
        spec: a JSONL file, or one of `builtin:facts`, `builtin:capitals`, `tofu:forget10`,
            `muse:News`, `concepts:FILE`.
        strict: one bad item is an error.

    Raises:
        InvalidSetting: an unknown source.
        InvalidProbes: the file holds none.
        MissingAsset: it is not there.
    """
    from ftunlearn.probes import ProbeSet

    source, colon, name = spec.partition(":")
    if not colon or Path(spec).exists():
        return ProbeSet.from_jsonl(spec, strict=strict)
    match source:
        case "builtin":
            return ProbeSet.builtin(name)  # type: ignore[arg-type]
        case "tofu":
            return ProbeSet.tofu(name)
        case "muse":
            return ProbeSet.muse(name)  # type: ignore[arg-type]
        case "concepts":
            return ProbeSet.concept_vectors(name)
    raise InvalidSetting(f"probes {spec!r} are none of: {SOURCES}")


def expanded(specs: Sequence[str]) -> list[str]:
    """Models by name, patterns replaced by the folders that they match, in order, each once.

    Raises:
        InvalidSetting: a pattern that matches no folder.
    """
    found: list[str] = []
    for spec in specs:
        if not glob.has_magic(spec) or Path(spec).exists():
            found.append(spec)
            continue
        folders = [path for path in sorted(glob.glob(spec)) if Path(path).is_dir()]
        if not folders:
            raise InvalidSetting(f"{spec!r} matches no folder")
        found += folders
    return list(dict.fromkeys(found))


def folders_for(specs: Sequence[str], out: Path) -> dict[str, Path]:
    """A folder for each model: `out` for one, sub-folders named after them for several."""
    if len(specs) == 1:
        return {specs[0]: out}
    folders: dict[str, Path] = {}
    for spec in specs:
        name = Path(spec).name or "model"
        taken = {folder.name for folder in folders.values()}
        numbers = (f"{name}-{i}" for i in range(2, len(specs) + 2))
        folders[spec] = out / (
            name if name not in taken else next(n for n in numbers if n not in taken)
        )
    return folders


def merged(config: Path | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a YAML file, those given on the command line over them; None is not given."""
    settings = {} if config is None else settings_in(config)
    return settings | {name: value for name, value in given.items() if value is not None}


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Settings as `--config` reads them back."""
    import yaml

    from lipogram.settings import plain

    text: str = yaml.safe_dump(plain(dict(settings), "settings"), sort_keys=False)
    return text
