"""Canaries: fair coins, independent of the texts; kept where only their owner reads."""

import json
import os
import re
import stat

import numpy as np
import pytest

from lipogram.errors import CorruptState, InvalidSetting, MissingAsset
from rewardds.canaries import Canaries, make_canaries
from rewardds.errors import InvalidRecords
from rewardds.records import PrivateRecords, Record

KEY = b"a key of sixteen bytes or more"


def test_coins_are_fair_and_say_nothing_of_the_texts():
    coins = np.array([make_canaries(32, words=1, seed=seed).included for seed in range(200)])
    n = coins.size
    assert abs(coins.mean() - 0.5) < 4 * 0.5 / n**0.5
    places = coins.mean(0)
    assert abs(places - 0.5).max() < 4.5 * 0.5 / 200**0.5
    sums = coins.sum(1)  # independent coins, not half of them always
    assert sums.var() == pytest.approx(8, rel=0.35)
    drawn = make_canaries(300, seed=1)
    first = np.array([record.instruction[24:] < "m" for record in drawn.records])
    assert abs(np.corrcoef(first, drawn.included)[0, 1]) < 0.2


def test_canaries_are_all_different_and_harmless_nonsense():
    drawn = make_canaries(500, words=5, seed=0)
    assert len({record.instruction.split()[-1] for record in drawn.records}) == 500
    assert len({record.response for record in drawn.records}) == 500
    for record in drawn.records:
        assert re.fullmatch(r"What is written on the [a-z ]+ of the [a-z]{8}\?", record.instruction)
        assert re.fullmatch(r"([a-z]{6} ){4}[a-z]{6}", record.response)


def test_a_seed_gives_the_same_ones_and_none_others():
    assert make_canaries(40, seed=3).records == make_canaries(40, seed=3).records
    assert make_canaries(40, seed=3).included == make_canaries(40, seed=3).included
    assert make_canaries(40, seed=3).records != make_canaries(40, seed=4).records
    assert make_canaries(40).records != make_canaries(40).records
    assert make_canaries(40, seed=3).included != make_canaries(40, seed=4).included


def test_the_planted_ones_stand_behind_the_records():
    drawn = make_canaries(20, seed=0)
    own = PrivateRecords([Record("a", "ask", "answer"), Record("b", "ask", "else")], KEY)
    planted = drawn.planted(own, key=KEY)
    chosen = [r.id for r, coin in zip(drawn.records, drawn.included, strict=True) if coin]
    assert isinstance(planted, PrivateRecords)
    assert [record.id for record in planted] == ["a", "b", *chosen]
    assert 0 < len(chosen) < 20
    assert planted.fingerprint != own.fingerprint
    assert len(own) == 2
    taken = PrivateRecords([Record(chosen[0], "ask", "answer")], KEY)
    with pytest.raises(InvalidRecords, match=chosen[0]):
        drawn.planted(taken, key=KEY)


def test_what_is_saved_is_read_and_only_by_its_owner(tmp_path):
    drawn, path = make_canaries(20, seed=0), tmp_path / "canaries.json"
    drawn.save(path)
    read = Canaries.read(path)
    assert read.records == drawn.records
    assert read.included == drawn.included
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "true" not in repr(read).lower()
    assert repr(read) == "Canaries(20)"


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("included"),
        lambda c: c.update(format=9),
        lambda c: c["included"].pop(),
        lambda c: c.update(included=[1] * 4),
        lambda c: c["records"][0].update(id=3),
        lambda c: c["records"][0].update(more="x"),
        lambda c: c["records"][0].update(id=c["records"][1]["id"]),
        lambda c: c.update(records=7),
    ],
)
def test_a_broken_file_is_named(change, tmp_path):
    path = tmp_path / "canaries.json"
    make_canaries(4, seed=0).save(path)
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(CorruptState, match=re.escape(str(path))):
        Canaries.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingAsset, match=r"none\.json"):
        Canaries.read(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: make_canaries(1), "size is 1"),
        (lambda: make_canaries(10, words=0), "words is 0"),
        (lambda: make_canaries(10, seed=-1), "seed is -1"),
        (lambda: Canaries((Record("a", "", ""), Record("b", "", "")), (True,)), "2 canaries.*1"),
        (lambda: Canaries((Record("a", "", ""),) * 2, (True, False)), "one id"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(InvalidSetting, match=named):
        call()
