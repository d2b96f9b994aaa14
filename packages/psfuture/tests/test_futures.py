"""Invented words: what each future says, and what it must not know."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipogram.errors import InvalidSetting
from psfuture.engine import Engine
from psfuture.futures import Ellipsis, EndOfSentence, Fixed, Frequent, Multi, Oracle, Random
from psfuture.policies import PsFuture
from psfuture.session import Session
from psfuture.simulation import simulate, sweep_traces

from .toy_backend import ToyBackend

TEXT = [
    "open the file and save it",
    "open the file and close it",
    "open the door and save it",
    "save the file and close the door",
    "",
]
words = st.lists(st.sampled_from("open the file and save it close door".split()), max_size=6)
prefixes = st.lists(words.map(tuple), max_size=5)


def one(future, *prefix):
    return future.invent([prefix], ())[0][0]


@given(prefixes)
def test_fixed_futures_say_the_same_after_everything(given_prefixes):
    for future, said in (
        (Fixed(), ("and", "so", "on.")),
        (Fixed("  wait   for it "), ("wait", "for", "it")),
        (Ellipsis(), ("...",)),
        (EndOfSentence(), ()),
    ):
        assert future.invent(given_prefixes, ()) == [[said]] * len(given_prefixes)
        assert future.count == 1
        assert not future.sees_future


def test_only_the_end_of_sentence_closes_only():
    assert EndOfSentence().closes_only
    held = (Fixed(), Ellipsis(), Frequent(TEXT), Random(["a"]), Oracle(), Multi([Fixed()]))
    assert not any(future.closes_only for future in held)
    with pytest.raises(InvalidSetting, match="prefix_eos"):
        PsFuture(future=EndOfSentence())
    assert PsFuture(future=EndOfSentence(), prefix_eos=False).future.closes_only


def test_frequent_backs_off_from_two_words_to_one_to_none():
    future = Frequent(TEXT, length=2)
    assert one(future, "open", "the") == ("file", "and")  # 2 of 3
    assert one(future, "unknown", "the") == ("file", "and")  # after `the`: 3 of 4
    assert one(future, "save", "the") == ("file", "and")
    assert one(future, "nothing", "known") == ("file", "and")  # of all pairs the most frequent
    assert one(future, "the", "file", "and") == ("close", "it")  # of three the smaller of equals
    assert one(future) == ("file", "and")
    assert one(Frequent(["a b", "b c"], length=1), "a") == ("b",)


def test_two_words_outvote_one():
    future = Frequent(["x a b", "y a c", "y a c"], length=1)
    assert one(future, "x", "a") == ("b",)
    assert one(future, "z", "a") == ("c",)


@given(st.randoms(use_true_random=False), prefixes)
def test_the_order_of_the_text_does_not_matter(shuffler, given_prefixes):
    shuffled = list(TEXT)
    shuffler.shuffle(shuffled)
    for length in (1, 2, 3):
        wanted = Frequent(TEXT, length).invent(given_prefixes, ())
        assert Frequent(shuffled, length).invent(given_prefixes, ()) == wanted


@given(prefixes, st.integers(1, 4))
def test_frequent_says_what_was_in_the_text(given_prefixes, length):
    for [said] in Frequent(TEXT, length).invent(given_prefixes, ()):
        assert any(f" {' '.join(said)} " in f" {line} " for line in TEXT)
        assert len(said) == length


def test_random_words_are_those_of_the_prefix():
    pool = [f"w{i}" for i in range(50)]
    asked = [("a",), ("a", "b"), ("b",), ()]
    wanted = Random(pool).invent(asked, ())
    state = random.getstate()
    assert Random(reversed(pool)).invent(asked[::-1], ())[::-1] == wanted
    assert random.getstate() == state
    assert len({row[0] for row in wanted}) == 4
    assert all(len(row[0]) == 3 and set(row[0]) <= set(pool) for row in wanted)
    assert Random(pool, seed=1).invent(asked, ()) != wanted
    assert {len(row[0]) for row in Random(pool, length=5).invent(asked, ())} == {5}


def test_the_oracle_says_what_follows():
    sentence = ("a", "b", "c", "d")
    future = Oracle(2)
    found = future.invent([sentence[:j] for j in range(5)], [sentence] * 5)
    assert found == [[("a", "b")], [("b", "c")], [("c", "d")], [("d",)], [()]]
    with pytest.raises(InvalidSetting, match="oracle"):
        future.invent([("a",)], ())


def test_nobody_knows_the_future_while_it_is_said():
    for future in (Oracle(), Multi([Fixed(), Oracle()])):
        assert future.sees_future
        policy = PsFuture(0.1, future=future)
        with pytest.raises(InvalidSetting, match="oracle"):
            Session(ToyBackend(), policy)
        with pytest.raises(InvalidSetting, match="oracle"):
            Engine(ToyBackend(), policy)
        with pytest.raises(InvalidSetting, match="oracle"):
            simulate(ToyBackend(), policy, ["the cat"])
        with pytest.raises(InvalidSetting, match="oracle"):
            sweep_traces(ToyBackend(), {"a": PsFuture(), "b": policy}, ["the cat"])
        assert simulate(ToyBackend(), policy, ["the cat sat"], analysis=True)[0].delays
    session = Session(ToyBackend(), held := PsFuture())
    with pytest.raises(InvalidSetting, match="oracle"):
        session.policy = PsFuture(0.1, future=Oracle())
    assert session.policy is held


@given(prefixes)
def test_several_futures_say_one_after_the_other_what_each_says(given_prefixes):
    parts = [Fixed("x y"), Frequent(TEXT), Multi([Ellipsis(), Random(["p", "q"])])]
    several = Multi(parts)
    assert several.count == 4
    each = [part.invent(given_prefixes, ()) for part in parts]
    wanted = [[*a, *b, *c] for a, b, c in zip(*each, strict=True)]
    assert several.invent(given_prefixes, ()) == wanted


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Fixed("  "), "at least one word"),
        (lambda: Frequent(TEXT, length=0), "0 words"),
        (lambda: Frequent(["a b", ""], length=3), "no 3 words"),
        (lambda: Frequent([]), "no 2 words"),
        (lambda: Random([]), "words to draw from"),
        (lambda: Random(["a"], length=0), "length of 1"),
        (lambda: Oracle(0), "0 words"),
        (lambda: Multi([]), "at least one"),
        (lambda: Multi([Fixed(), EndOfSentence()]), "eos"),
    ],
)
def test_what_says_nothing_is_refused(make, match):
    with pytest.raises(InvalidSetting, match=match):
        make()
