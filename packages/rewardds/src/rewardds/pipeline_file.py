"""A whole run in one TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lipogram.analytic.settings import whole
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
        InvalidSetting: no TOML, an unknown table or setting, a value outside its range, no source;
            what would come to light after the training, too.
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
    _check(settings, path)
    source, columns = _source(held, "data", path)
    private = read_records(source, columns=columns)
    public: PublicRecords | Sequence[str] = ()
    if "public" in held:
        source, columns = _source(held, "public", path)
        public = read_records(source, columns=columns, private=False)
    return private, public, settings


def _check(settings: PipelineSettings, path: Path) -> None:
    """Build what the run will, so that nothing is trained before a slip of the pen is found."""
    from rewardds.client_settings import ClientSettings
    from rewardds.finetuning import Tuning
    from rewardds.pipeline import _adapter
    from rewardds.prompts import Prompts
    from rewardds.ranking import check_alpha, check_keep
    from rewardds.refinement import RefinementSettings
    from rewardds.sampling import SamplingSettings

    whole("questions", settings.questions)
    whole("stages", settings.stages, least=0)
    check_alpha(settings.alpha)
    check_keep(settings.keep)
    if isinstance(settings.asked, str) or not all(isinstance(one, str) for one in settings.asked):
        raise InvalidSetting(f"asked in {path} must be a list of questions")
    client = dict(_table(settings, "client", path))
    if "prompts" in client:
        client["prompts"] = _built(Prompts, client["prompts"], "client.prompts", path)
    _built(ClientSettings, client, "client", path)
    sampling = {"candidates": settings.candidates} | _table(settings, "sampling", path)
    _built(SamplingSettings, sampling, "sampling", path)
    _built(RefinementSettings, _table(settings, "refinement", path), "refinement", path)
    _built(Tuning, _table(settings, "tuning", path), "tuning", path)
    whole("r", _table(settings, "lora", path).get("r", 8))
    try:
        _adapter(settings)
    except ValueError as error:
        raise InvalidSetting(f"[pipeline.lora] in {path}: {error}") from None


def _table(settings: PipelineSettings, name: str, path: Path) -> dict[str, Any]:
    table = getattr(settings, name)
    if not isinstance(table, dict):
        raise InvalidSetting(f"{name} in {path} is {table!r}: it must be a table")
    return table


def _built(kind: Any, table: Any, name: str, path: Path) -> Any:
    known = kind.__dataclass_fields__
    where = f"[pipeline.{name}] in {path}"
    if not isinstance(table, dict):
        raise InvalidSetting(f"{where} must be a table")
    for key, value in table.items():
        if key not in known:
            raise InvalidSetting(f"{where} has {key!r}; there are {', '.join(known)}")
        if isinstance(value, dict):
            raise InvalidSetting(f"{where}: {key} cannot be set in a file")
    try:
        return kind(**table)
    except TypeError as error:
        raise InvalidSetting(f"{where}: {error}") from None


def _source(held: dict[str, Any], table: str, path: Path) -> tuple[str, dict[str, str] | None]:
    told = held.get(table, {})
    unknown = sorted(set(told) - {"source", "columns"})
    if "source" not in told or unknown:
        raise InvalidSetting(
            f"[{table}] in {path} has {', '.join(unknown) or 'no source'}: it must have a source "
            "and may have columns"
        )
    columns = told.get("columns", {})
    if not isinstance(columns, dict) or not all(
        isinstance(name, str) for name in (told["source"], *columns.values())
    ):
        raise InvalidSetting(
            f"[{table}] in {path}: source must be a text, columns a table of texts"
        )
    beside = path.parent / told["source"]
    return str(beside if beside.exists() else told["source"]), told.get("columns")
