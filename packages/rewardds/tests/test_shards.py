"""Killed at any instant, nothing that was finished is lost or done again."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from lipogram.errors import CorruptState, InvalidSetting, RunMismatch
from rewardds.shards import Shards

SETTINGS = {"seed": 3, "drawing": {"top_p": 0.7}}


def value(number):
    return [f"item {number} ü\u2028", number / 3]


class Work:
    def __init__(self):
        self.calls = []

    def __call__(self, numbers):
        self.calls.append(list(numbers))
        return [value(number) for number in numbers]

    @property
    def done(self):
        return [number for call in self.calls for number in call]


@pytest.mark.parametrize("size", [1, 4, 100])
def test_any_split_gives_the_same_values(tmp_path, size):
    for folder in (tmp_path, None):
        work = Work()
        found = Shards(folder, SETTINGS, size=size).complete("question", range(11), work)
        assert found == {number: value(number) for number in range(11)}
        assert list(found) == list(range(11))
        assert max(map(len, work.calls)) <= size
        assert sorted(work.done) == list(range(11))


def test_what_is_done_is_not_done_again(tmp_path):
    Shards(tmp_path, SETTINGS, size=4).complete("question", [0, 3, 9], Work())
    work = Work()
    shards = Shards(tmp_path, SETTINGS, size=3)
    found = shards.complete("question", [9, 1, 0, 7, 3], work)
    assert work.done == [1, 7]
    assert found == {number: value(number) for number in (9, 1, 0, 7, 3)}
    other = Work()
    shards.complete("answer", [0, 1], other)  # numbers of its own
    assert other.done == [0, 1]
    assert shards.done("question").keys() == {0, 1, 3, 7, 9}


def test_two_workers_see_what_the_other_has_done(tmp_path):
    a, b = (Shards(tmp_path, SETTINGS, size=2) for _ in range(2))
    a.complete("question", range(0, 10, 2), Work())
    work = Work()
    b.complete("question", range(1, 10, 2), Work())
    assert a.complete("question", range(10), work) == b.complete("question", range(10), work)
    assert work.done == []
    a.complete("question", range(10, 14), Work())
    b.complete("question", range(10, 13), Work())  # the same items in other shards: no harm
    assert Shards(tmp_path, SETTINGS).done("question").keys() == set(range(14))


def test_a_shard_is_not_written_over_a_larger_one(tmp_path):
    a, b = Shards(tmp_path, SETTINGS, size=3), Shards(tmp_path, SETTINGS, size=5)

    def overtaken(numbers):
        if 0 not in numbers:
            raise OSError("killed here")
        b.complete("question", range(5), Work())  # meanwhile, by another process
        return Work()(numbers)

    with pytest.raises(OSError, match="killed"):
        a.complete("question", range(7), overtaken)
    found = Shards(tmp_path, SETTINGS).done("question")
    assert found == {number: value(number) for number in range(5)}


CHILD = """
import sys, time
from rewardds.shards import Shards

def work(numbers):
    print("begin", *numbers, flush=True)
    time.sleep(0.01)
    return [[f"item {n} \\u00fc\\u2028", n / 3] for n in numbers]

Shards(sys.argv[1], {"seed": 3, "drawing": {"top_p": 0.7}}, size=3).complete(
    "question", range(60), work
)
print("end", flush=True)
"""


def test_killed_at_any_instant_nothing_finished_is_lost(tmp_path):
    draw = random.Random(1)
    begun = []
    for life in range(6):
        known = set(Shards(tmp_path, SETTINGS).done("question"))
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        if life < 5:
            said = [child.stdout.readline() for _ in range(draw.randint(1, 4))]
            time.sleep(draw.uniform(0, 0.02))
            child.send_signal(signal.SIGKILL)
        else:
            said = []
        said += child.communicate(timeout=60)[0].splitlines()
        begun = [int(n) for line in said if line.startswith("begin") for n in line.split()[1:]]
        assert not known & set(begun)  # nothing finished is begun again
        kept = Shards(tmp_path, SETTINGS).done("question")
        assert known <= set(kept)
        assert set(begun[:-3]) <= set(kept)  # all but the shard it was at
        assert kept == {number: value(number) for number in kept}
    assert said[-1] == "end"
    assert set(kept) == set(range(60))


def test_work_that_fails_keeps_the_shards_before_it(tmp_path):
    def breaks(numbers):
        if 5 in numbers:
            raise OSError("the engine died")
        return [value(number) for number in numbers]

    shards = Shards(tmp_path, SETTINGS, size=2)
    with pytest.raises(OSError, match="engine"):
        shards.complete("question", range(8), breaks)
    assert shards.done("question").keys() == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"seed": 4, "drawing": {"top_p": 0.7}}, "seed is 3 in the folder, 4"),
        ({"seed": 3, "drawing": {"top_p": 0.8}}, r"drawing\.top_p"),
        ({"seed": 3}, "drawing"),
    ],
)
def test_other_settings_are_another_folder(tmp_path, settings, told):
    Shards(tmp_path, SETTINGS).complete("question", [0], Work())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RunMismatch, match=told):
        Shards(tmp_path, settings)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_no_shard_is_told_with_its_file(tmp_path):
    Shards(tmp_path, SETTINGS, size=3).complete("question", range(3), Work())
    (shard,) = tmp_path.glob("question-*")
    whole = shard.read_bytes()
    broken = [whole[:-5], b"[]\n", b'{"number": -1, "value": 0}\n', b'{"number": 1}\n', b"\xff\n"]
    for content in broken:
        shard.write_bytes(content)
        with pytest.raises(CorruptState, match=rf"{shard.name}, line \d.*delete the file"):
            Shards(tmp_path, SETTINGS).done("question")
    shard.write_bytes(whole)
    differs = json.dumps({"number": 1, "value": "other"}) + "\n"
    (tmp_path / "question-00000001-x.jsonl").write_text(differs)
    with pytest.raises(CorruptState, match="another value of item 1"):
        Shards(tmp_path, SETTINGS).done("question")


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(CorruptState, match="choose another folder"):
        Shards(tmp_path, SETTINGS)
    other = tmp_path / "other"
    other.mkdir()
    for content in ("{", "[]", '{"format": "else"}'):
        (other / "shards.json").write_text(content)
        with pytest.raises(CorruptState, match=r"shards\.json"):
            Shards(other, SETTINGS)


def test_values_that_cannot_be_kept_are_refused_and_nothing_is(tmp_path):
    for folder in (tmp_path, None):
        shards = Shards(folder, SETTINGS)
        for bad in ([float("nan")], [object()], [], [1, 2]):
            with pytest.raises(InvalidSetting):
                shards.complete("question", [0], lambda numbers, bad=bad: bad)
        assert shards.done("question") == {}
    with pytest.raises(InvalidSetting, match="0 items"):
        Shards(tmp_path, SETTINGS, size=0)
    with pytest.raises(InvalidSetting, match="finite"):
        Shards(tmp_path / "new", {"top_p": float("nan")})
    assert not (tmp_path / "new").exists()
