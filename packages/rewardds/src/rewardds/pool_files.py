"""A pool as a folder: the newest row of each question, and what is learnt from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from lipogram.analytic.settings import one_of
from lipogram.errors import CorruptState
from lipogram.files import write_atomically
from rewardds.errors import InvalidRows
from rewardds.pool import Pool, Select
from rewardds.ranking import check_keep
from rewardds.synthetic import read_rows, write_rows

ROWS, KEPT, FACTS = "rows.jsonl", "kept.jsonl", "pool.json"


def write_pool(folder: str | Path, pool: Pool) -> None:
    """Write a pool; until its last file is there, :func:`read_pool` finds none.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FACTS).unlink(missing_ok=True)
    write_rows(folder / ROWS, pool.rows)
    write_rows(folder / KEPT, pool.kept)
    counts = {"rows": len(pool.rows), "kept": len(pool.kept)}
    facts = {"keep": pool.keep, "select": pool.select} | counts
    write_atomically(folder / FACTS, json.dumps(facts).encode())


def read_pool(folder: str | Path) -> Pool | None:
    """The pool of a folder; None where none was finished there.

    Raises:
        CorruptState: files that do not fit together.
        MissingAsset, InvalidRows: rows that are not there or are none.
    """
    folder = Path(folder)
    if not (folder / FACTS).exists():
        return None
    try:
        facts = json.loads((folder / FACTS).read_bytes())
        keep, counts = float(facts["keep"]), (facts["rows"], facts["kept"])
        check_keep(keep)
        select: Any = one_of("select", facts["select"], get_args(Select))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CorruptState(f"{folder / FACTS} describes no pool: {error!r}") from error
    rows, kept = read_rows(folder / ROWS), read_rows(folder / KEPT)
    if (len(rows), len(kept)) != counts:
        raise CorruptState(
            f"{folder} holds {len(rows)} and {len(kept)} rows, {FACTS} says {counts[0]} and "
            f"{counts[1]}: filter again"
        )
    for row in (*rows, *kept):
        if row.chosen is None or not row.rewards:
            raise InvalidRows(f"{folder}: row {row.id!r} is not scored and ranked")
    return Pool(tuple(rows), tuple(kept), keep, select)
