"""Times of the road data set: those that are malformed, and what they are read as.

The tables are the ones that the published reader of CLAD patches by hand (VerwimpEli/CLAD at
56960ab, ``clad/utils/utils.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

TIMES = {
    "145960": "150000",
    "102360": "102400",
    "1221831": "122131",
    "1420214": "142021",
    "1111523": "111152",
    "10:00": "100000",
    "12:00": "120000",
    "13:00": "130000",
}
DATES = {"201810152": "20181015", "50181015": "20181015"}


@dataclass(frozen=True)
class Repair:
    """A malformed date or time that was read as another.

    Attributes:
        image: identifier of the image. ``field``: "date" or "time".
        found: the text in the file. ``read_as``: what it was taken for.
    """

    image: int
    field: str
    found: str
    read_as: str


def repair(
    image: int,
    date: str,
    time: str,
    *,
    dates: Mapping[str, str] = DATES,
    times: Mapping[str, str] = TIMES,
) -> tuple[str, str, list[Repair]]:
    """Date and time of an image without blanks around them, as the tables correct them.

    Args:
        image: identifier.
        date: as the file has it.
        time: as the file has it.
        dates: what each malformed date is read as.
        times: what each malformed time is read as.
    """
    date, time = date.strip(), time.strip()
    done = []
    if date in dates:
        done.append(Repair(image, "date", date, dates[date]))
    if time in times:
        done.append(Repair(image, "time", time, times[time]))
    return dates.get(date, date), times.get(time, time), done


def moment(date: str, time: str) -> datetime | None:
    """The instant, or None if the two are not one.

    ``YYYYMMDD`` with ``HHMMSS`` (a leading 0 may be missing), or ``YYYY-MM-DD`` with ``HH:MM:SS``.
    """
    if re.fullmatch(r"[0-9]{8}", date) and re.fullmatch(r"[0-9]{5,6}", time):
        text = f"{date[:4]}-{date[4:6]}-{date[6:]}T{time.zfill(6)}"
    elif re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", date) and re.fullmatch(
        r"[0-9]{2}:[0-9]{2}:[0-9]{2}", time
    ):
        text = f"{date}T{time.replace(':', '')}"
    else:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H%M%S")
    except ValueError:
        return None
