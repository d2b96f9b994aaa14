"""One set of spans is one release, however often and by however many it is asked for."""

import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from lipogram.errors import CorruptState
from privacyrestore.errors import BudgetSpent
from privacyrestore.guarantee import Guarantee
from privacyrestore.ledger import PrivacyLedger
from privacyrestore.noise_cache import NoiseCache

BANK = "a" * 64
COST = Guarantee("subspace", 3.0, 2.0, 6.0, 0.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "ledger.db"


@pytest.fixture
def cache(path):
    return NoiseCache(PrivacyLedger(path))


def draw():
    return secrets.token_bytes(40)


def never():
    raise AssertionError("nothing may be drawn")


def ask(cache, spans=(1, 2), subject="ann", bank=BANK, cost=COST, draw=draw):
    return cache.message(subject, bank, cost, spans, draw)


def ask_often(path):
    cache = NoiseCache(PrivacyLedger(path))
    return {ask(cache).message for _ in range(10)}


PROCESS = """
import secrets, sys
from privacyrestore.guarantee import Guarantee
from privacyrestore.ledger import PrivacyLedger
from privacyrestore.noise_cache import NoiseCache
cache = NoiseCache(PrivacyLedger(sys.argv[1]))
cost = Guarantee("subspace", 3.0, 2.0, 6.0, 0.0)
print("ready", flush=True)
sys.stdin.readline()
draw = lambda: secrets.token_bytes(40)
asked = [cache.message("ann", "a" * 64, cost, (1, 2), draw) for _ in range(125)]
print(*{each.message.hex() for each in asked})
"""


def test_a_thousand_repeats_are_one_release(cache):
    first = ask(cache)
    assert first.new_release
    for _ in range(1000):
        again = ask(cache, draw=never)
        assert again.message == first.message
        assert not again.new_release
    assert again.spent == first.spent
    assert len(cache.ledger.releases()) == 1


def test_of_threads_that_ask_at_once_one_draws(path):
    PrivacyLedger(path)
    with ThreadPoolExecutor(8) as workers:
        seen = list(workers.map(ask_often, [path] * 8))
    assert len(set().union(*seen)) == 1
    assert len(PrivacyLedger(path).releases()) == 1


def test_of_processes_that_ask_a_thousand_times_one_draws(path):
    command = [sys.executable, "-c", PROCESS, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, **pipes) for _ in range(8)]
    assert [each.stdout.readline() for each in started] == ["ready\n"] * 8
    seen = []
    for each in started:
        each.stdin.write("go\n")
        each.stdin.flush()
    for each in started:
        seen += each.communicate()[0].split()
    assert [each.returncode for each in started] == [0] * 8
    assert len(seen) == 8
    assert len(set(seen)) == 1
    assert len(PrivacyLedger(path).releases()) == 1


def test_order_and_repeats_are_no_other_set(cache):
    first = ask(cache, (5, 1, 3))
    assert ask(cache, (3, 5, 1, 1), draw=never).message == first.message


def test_whatever_else_differs_is_another_release(cache):
    asked = [
        {},
        {"spans": ()},
        {"spans": (1,)},
        {"spans": (12,)},
        {"subject": "bob"},
        {"bank": "b" * 64},
        {"cost": replace(COST, metric_epsilon=3.5, local_epsilon=7.0)},
        {"cost": replace(COST, mechanism="full")},
    ]
    seen = {ask(cache, **each).message for each in asked}
    assert len(seen) == len(asked) == len(cache.ledger.releases())
    assert {ask(cache, **each, draw=never).message for each in asked} == seen


def test_a_text_without_spans_is_a_release_like_any_other(cache):
    first = ask(cache, ())
    assert first.new_release
    assert len(cache.ledger.releases()) == 1
    assert ask(cache, (), draw=never).message == first.message


def test_what_cannot_be_drawn_is_not_counted(cache):
    with pytest.raises(ZeroDivisionError):
        ask(cache, draw=lambda: 1 // 0)
    assert cache.ledger.releases() == []
    assert ask(cache).new_release


def test_past_the_budget_nothing_is_drawn_and_what_was_sent_still_is(path):
    cache = NoiseCache(PrivacyLedger(path, budget=6.0))
    first = ask(cache)
    before = path.read_bytes()
    with pytest.raises(BudgetSpent):
        ask(cache, (7,), draw=never)
    with pytest.raises(BudgetSpent):
        ask(cache, (), draw=never)
    assert path.read_bytes() == before
    assert ask(cache, draw=never).message == first.message


def test_messages_are_sealed_each_in_its_place(path, cache):
    drawn = [ask(cache, (i,)).message for i in range(2)]
    held = path.read_bytes()
    assert not any(each in held or each[:8] in held for each in drawn)
    with cache.ledger.database.transaction() as connection:
        (one, first), (two, second) = connection.execute("SELECT * FROM noise").fetchall()
        for key, sealed in ((one, second), (two, first)):
            connection.execute("UPDATE noise SET sealed = ? WHERE key = ?", (sealed, key))
    for i in range(2):
        with pytest.raises(CorruptState):
            ask(cache, (i,), draw=never)
    assert len(cache.ledger.releases()) == 2


def test_what_was_drawn_is_in_no_text_of_the_object(cache):
    held = ask(cache)
    assert repr(held.message) not in repr(held)
