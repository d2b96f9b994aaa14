"""Privacy units: what may come or go without being noticed. A record, or a person's records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lipogram.errors import InvalidSetting
from rewardds.records import PrivateRecords, Record

UnitKind = Literal["record", "group"]


@dataclass(frozen=True)
class Unit:
    """What one row of training stands for.

    Attributes:
        id: of the record, or of the group.
        records: at least one.
    """

    id: str
    records: tuple[Record, ...]

    def __repr__(self) -> str:
        return f"Unit(id={self.id!r}, {len(self.records)} records)"


@dataclass(frozen=True)
class Units:
    """A private set, cut into units.

    Attributes:
        kind: what a unit is.
        units: in the order of their first records.
        left_out: records beyond `per_group` of their group, which nothing is trained on.
    """

    kind: UnitKind
    units: list[Unit]
    left_out: int

    def __len__(self) -> int:
        return len(self.units)


def privacy_units(
    records: PrivateRecords, kind: UnitKind = "record", *, per_group: int = 4
) -> Units:
    """Cut a private set into units.

    Args:
        records: the set.
        kind: "record": each by itself, whatever its group. "group": those of one group together;
            a record without a group is a unit of its own.
        per_group: records of a group that are used, the first ones; a person's influence on a row
            is bounded by clipping anyway, this bounds its length.

    Raises:
        InvalidSetting: another kind, or `per_group` below 1.
    """
    if kind not in ("record", "group"):
        raise InvalidSetting(f"the unit is {kind!r}: it must be 'record' or 'group'")
    if per_group < 1:
        raise InvalidSetting(f"per_group is {per_group}: at least one record of each")
    if kind == "record":
        return Units(kind, [Unit(record.id, (record,)) for record in records], 0)
    members: dict[Any, list[Record]] = {}
    for record in records:
        members.setdefault((bool(record.group), record.group or record.id), []).append(record)
    units = [Unit(name, tuple(found[:per_group])) for (_, name), found in members.items()]
    return Units(kind, units, len(records) - sum(len(unit.records) for unit in units))
