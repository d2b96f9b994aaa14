"""Rows that lie beside draws from another bundle are not scored by this one."""

import pytest

from lipogram.errors import RunMismatch
from rewardds.cli_server import _check_source
from rewardds.shards import Shards


def test_rows_beside_draws_from_another_bundle_are_refused(tmp_path):
    rows = tmp_path / "rows.jsonl"
    _check_source(rows, "a" * 64)  # nothing is known of where they come from
    Shards(tmp_path / "draws", {"source": "a" * 64}, size=4)
    _check_source(rows, "a" * 64)
    with pytest.raises(RunMismatch, match="drawn from another bundle"):
        _check_source(rows, "b" * 64)
    (tmp_path / "draws" / "shards.json").write_text("[]")
    _check_source(rows, "b" * 64)
