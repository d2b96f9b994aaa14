"""The demo's page from a few sentences, and the processes that share them."""

import pytest

from lipogram import assets
from lipogram.errors import FolderInUse
from psfuture.demo import run_demo
from psfuture.study import DRAWN, families
from psfuture.sweep_processes import run_shares
from psfuture.trace import Trace

NEEDED = ("bergamot-enpt", "smollm2", "debian-handbook", "libreoffice-help-en-us")


def note(folder, share):
    """What a process does in the test below; number 1 fails where a file says so."""
    if share.rank == 1 and (folder / "fail").exists():
        raise SystemExit(3)
    (folder / f"{share.rank} of {share.world}").touch()


def test_every_process_gets_its_share(tmp_path):
    run_shares(2, note, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"0 of 2", "1 of 2"}


def test_a_process_that_fails_ends_the_others(tmp_path):
    (tmp_path / "fail").touch()
    with pytest.raises(FolderInUse, match="number 1 has stopped"):
        run_shares(2, note, tmp_path)


def test_without_a_language_model_its_curves_are_left_out():
    held = families(None, prefixes=(True,))
    assert not {"PsFuture", "PsFuture paced", "wait-k from futures"} & held.keys()
    assert {"wait-k", "PsFuture fixed", "true future", "offline"} <= held.keys() & set(DRAWN)


@pytest.mark.slow
def test_the_demo_leaves_a_page(tmp_path):
    lacking = [name for name in NEEDED if assets.find(name) is None]
    if lacking:
        pytest.skip(f"no {lacking[0]} here: `psfuture demo` brings it")
    told = []
    summary = run_demo(tmp_path, sentences=4, progress=told.append)
    assert 10 < summary["headline"]["BLEU offline"] < 90
    assert (tmp_path / "report.html").read_text().count("data:image/svg+xml") == 3
    assert Trace.from_json(summary["sentence"]).words
    assert any("2 processes" in line or "1 processes" in line for line in told)
