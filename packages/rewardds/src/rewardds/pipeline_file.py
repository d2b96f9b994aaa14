"""A whole run in one TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lipogram.errors import InvalidSetting
from rewardds.pipeline import PipelineSettings
from rewardds.records import PrivateRecords, PublicRecords, read_records

TABLES = {"data", "public", "pipeline"}


def read_pipeline(
    path: str | Path,
) -> tuple[PrivateRecords, PublicRecords | Sequence[str], PipelineSettings]:
    """What is private, what is public, and what to do.

    `[data]` and `[public]` have a `source` and, where the columns are called otherwise, `columns`;
    `[pipeline]` has the names of :class:`rewardds.pipeline.PipelineSettings`. Paths are relative
    to the file's folder.

    Raises:
        InvalidSetting: no TOML, an unknown table or setting, no source.
        MissingAsset, InvalidRecords: see :func:`rewardds.records.read_records`.
    """
    path = Path(path)
    try:
        held = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSetting(f"{path} cannot be read as TOML: {error}") from None
    for name in held:
        if name not in TABLES or not isinstance(held[name], dict):
            raise InvalidSetting(
                f"{path} has {name!r}; there are the tables {', '.join(sorted(TABLES))}"
            )
    settings = PipelineSettings.of(held.get("pipeline", {}))
    source, columns = _source(held, "data", path)
    private = read_records(source, columns=columns)
    public: PublicRecords | Sequence[str] = ()
    if "public" in held:
        source, columns = _source(held, "public", path)
        public = read_records(source, columns=columns, private=False)
    return private, public, settings


def _source(held: dict[str, Any], table: str, path: Path) -> tuple[str, dict[str, str] | None]:
    told = held.get(table, {})
    unknown = sorted(set(told) - {"source", "columns"})
    if "source" not in told or unknown:
        raise InvalidSetting(
            f"[{table}] in {path} has {', '.join(unknown) or 'no source'}: it must have a source "
            "and may have columns"
        )
    beside = path.parent / told["source"]
    return str(beside if beside.exists() else told["source"]), told.get("columns")
