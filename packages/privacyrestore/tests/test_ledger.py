"""The ledger counts every release once, for all processes, and never too few."""

import math
import os
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from lipogram.errors import CorruptState, FolderInUse, InvalidSetting
from privacyrestore import state_database
from privacyrestore.client_key import ClientKey
from privacyrestore.errors import BudgetSpent, UnwritableState
from privacyrestore.guarantee import Guarantee
from privacyrestore.ledger import PrivacyLedger

BANK, OTHER = "a" * 64, "b" * 64
COST = Guarantee("subspace", 3.0, 2.0, 6.0, 0.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "ledger.db"


def test_releases_add_up_until_the_budget_refuses_the_next(path):
    ledger = PrivacyLedger(path, budget=18.0)
    for number in (1, 2, 3):
        assert ledger.spend("ann", BANK, COST).local_epsilon == pytest.approx(6.0 * number)
    before = path.read_bytes()
    with pytest.raises(BudgetSpent, match=r"18.*18.*24"):
        ledger.spend("ann", BANK, COST)
    with pytest.raises(BudgetSpent):  # another bank tells about the same person
        ledger.spend("ann", OTHER, COST)
    assert path.read_bytes() == before
    assert ledger.spend("bob", BANK, COST).local_epsilon == pytest.approx(6.0)
    again = PrivacyLedger(path)
    assert again.spent("ann").local_epsilon == pytest.approx(18.0)
    assert again.spent().local_epsilon == pytest.approx(24.0)
    assert again.spent("eve").local_epsilon == 0.0
    with pytest.raises(BudgetSpent):
        PrivacyLedger(path, budget=20.0).spend("ann", BANK, COST)


def test_a_row_says_what_was_released(path):
    ledger = PrivacyLedger(path)
    ledger.spend("ann", BANK, COST)
    ledger.spend("bob", OTHER, Guarantee("none", None, 1.5, math.inf, 0.0))
    ledger.spend("ann", BANK, Guarantee("gaussian", None, 2.0, 4.0, 1e-6))
    first, second, third = ledger.releases()
    assert (first.bank, first.mechanism, first.epsilon) == (BANK, "subspace", 3.0)
    assert (first.diameter, first.local_epsilon, first.delta) == (2.0, 6.0, 0.0)
    assert (second.bank, second.epsilon, second.local_epsilon) == (OTHER, None, math.inf)
    assert (third.local_epsilon, third.delta) == (4.0, 1e-6)
    assert 1.7e9 < first.time <= second.time <= third.time
    assert ledger.releases("ann") == [first, third]
    assert ledger.spent("bob").local_epsilon == math.inf


def test_gaussian_releases_cost_less_together_than_one_by_one(path):
    ledger, cost = PrivacyLedger(path, budget=10.0), Guarantee("gaussian", None, 2.0, 4.0, 1e-6)
    ledger.spend("ann", BANK, cost)
    both = ledger.spend("ann", BANK, cost)
    assert 4.0 < both.local_epsilon < 8.0
    assert both.delta == 1e-6
    with pytest.raises(BudgetSpent):
        ledger.spend("ann", BANK, COST)
    assert ledger.spent("ann") == both


def test_noise_free_messages_pass_any_budget(path):
    ledger = PrivacyLedger(path, budget=1e9)
    with pytest.raises(BudgetSpent):
        ledger.spend("ann", BANK, Guarantee("none", None, 1.5, math.inf, 0.0))
    assert ledger.releases() == []


def test_the_files_tell_others_nothing(path):
    ledger = PrivacyLedger(path)
    ledger.spend("somebody by name", BANK, COST)
    held = path.read_bytes()
    for word in (b"somebody", BANK.encode(), b"subspace"):
        assert word not in held
    if os.name == "posix":
        modes = {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
        assert modes == {0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        path.chmod(0o644)
        with pytest.raises(InvalidSetting, match="mode 644"):
            PrivacyLedger(path)


def foreign_text(path):
    path.write_text("my diary, not a database" * 20)


def foreign_database(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE diary (line TEXT)")
    connection.close()


def truncated(path):
    path.write_bytes(path.read_bytes()[:5000])


def scrambled(path):
    held = bytearray(path.read_bytes())
    held[4096:4196] = os.urandom(100)
    path.write_bytes(held)


def newer(path):
    edit(path, "PRAGMA user_version = 2")


def row_removed(path):
    edit(path, "DELETE FROM releases WHERE number = 1")


def rows_swapped(path):
    edit(
        path,
        "UPDATE releases SET sealed = (SELECT sealed FROM releases r WHERE r.number = "
        "3 - releases.number)",
    )


def row_of_another(path):
    edit(path, "UPDATE releases SET subject = zeroblob(32) WHERE number = 1")


def table_dropped(path):
    edit(path, "DROP TABLE releases")


def other_key(path):
    path.with_name("key").unlink()
    ClientKey.open(path.with_name("key"))


def key_missing(path):
    path.with_name("key").unlink()


def edit(path, statement):
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "harm",
    [
        foreign_text,
        foreign_database,
        truncated,
        scrambled,
        newer,
        row_removed,
        rows_swapped,
        row_of_another,
        table_dropped,
        other_key,
        key_missing,
    ],
)
def test_a_file_that_is_not_whole_is_refused_and_left_as_it_is(path, harm):
    ledger = PrivacyLedger(path)
    for _ in range(2):
        ledger.spend("ann", BANK, COST)
    if harm in (foreign_text, foreign_database):
        path.unlink()
    harm(path)
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(CorruptState):
        PrivacyLedger(path).spend("ann", BANK, COST)
    with pytest.raises(CorruptState):
        PrivacyLedger(path).releases()
    assert path.read_bytes() == before
    assert path.with_name("key").exists() == (harm is not key_missing)


def test_a_file_that_goes_away_is_not_made_anew(path):
    ledger = PrivacyLedger(path)
    ledger.spend("ann", BANK, COST)
    path.rename(path.with_name("away"))
    with pytest.raises(UnwritableState, match=r"ledger\.db"):
        ledger.spend("ann", BANK, COST)
    assert not path.exists()


def test_settings_that_are_none(path, tmp_path):
    for budget in (0, -1.0, math.inf, math.nan):
        with pytest.raises(InvalidSetting, match="budget"):
            PrivacyLedger(path, budget=budget)
    assert not path.parent.exists()
    with pytest.raises(InvalidSetting, match="folder"):
        PrivacyLedger(tmp_path)


def test_another_process_that_never_ends_is_a_typed_error(path, monkeypatch):
    ledger = PrivacyLedger(path)
    with ledger.database.transaction():
        monkeypatch.setattr(state_database, "WAIT_SECONDS", 0.05)
        with pytest.raises(FolderInUse):
            ledger.spend("ann", BANK, COST)
    assert ledger.releases() == []


PROCESS = """
import sys
from privacyrestore.errors import BudgetSpent
from privacyrestore.guarantee import Guarantee
from privacyrestore.ledger import PrivacyLedger
ledger, done = PrivacyLedger(sys.argv[1], budget=6.0 * 20), 0
print("ready", flush=True)
sys.stdin.readline()
for _ in range(10):
    try:
        ledger.spend("ann", "a" * 64, Guarantee("subspace", 3.0, 2.0, 6.0, 0.0))
        done += 1
    except BudgetSpent:
        pass
print(done)
"""


def test_of_processes_that_spend_at_once_none_passes_the_budget(path):
    command = [sys.executable, "-c", PROCESS, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, **pipes) for _ in range(4)]
    assert [each.stdout.readline() for each in started] == ["ready\n"] * 4
    for each in started:
        each.stdin.write("go\n")
        each.stdin.flush()
    assert sum(int(each.communicate()[0]) for each in started) == 20
    assert len(PrivacyLedger(path).releases("ann")) == 20


def test_of_threads_that_spend_at_once_none_passes_the_budget(path):
    ledger = PrivacyLedger(path, budget=6.0 * 20)

    def spend(_):
        try:
            return ledger.spend("ann", BANK, COST) is not None
        except BudgetSpent:
            return False

    with ThreadPoolExecutor(8) as workers:
        assert sum(workers.map(spend, range(30))) == 20
    assert len(ledger.releases()) == 20
