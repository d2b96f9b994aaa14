"""After the release nothing private comes in: not by its type, nor as the text of a seed."""

import collections
import dataclasses
import functools
import importlib
import itertools
import random
import stat

import numpy as np
import pytest
import torch
from torch import nn

from lipogram.errors import CorruptState, InvalidSetting, MissingAsset
from lipogram.llm.tiny import byte_tokenizer
from rewardds import taint
from rewardds.baselines import NonPrivateBound
from rewardds.cached_features import CachedReward
from rewardds.canaries import make_canaries
from rewardds.clipped_gradients import Tally
from rewardds.domains import DomainData
from rewardds.dreaddit import Dreaddit, Post
from rewardds.errors import PrivateObject, PrivateText
from rewardds.generation_proxy import generation_rows
from rewardds.privacy_units import privacy_units
from rewardds.private_ngrams import PrivateNgrams
from rewardds.prompts import Prompts
from rewardds.records import PrivateRecord, PrivateRecords, PublicRecords, Record
from rewardds.rows import collate
from rewardds.sampling import Sampler, SamplingSettings
from rewardds.synthetic import SyntheticRow
from rewardds.taint import ReleaseGate
from rewardds.text_overlap import PrivateGrams

KEY = b"0123456789abcdef"
LONG = "the grey heron stands beside the old mill pond and waits for small fish at dawn"
SHORT = "seven lazy otters sleep"
TINY = "quiet otter"
PRIVATE = PrivateRecords([Record("r1", LONG, SHORT), Record("r2", TINY, "yes")], KEY)
PUBLIC = PublicRecords([Record("p1", "What is a pond?", "Still water.")])
NGRAMS = PrivateNgrams.of(PRIVATE, KEY)


@dataclasses.dataclass
class Holder:
    value: object


class Slots:
    __slots__ = ("held",)

    def __init__(self, value):
        self.held = value


class Slotless:
    def __init__(self, value):
        self.hidden = value

    def method(self):
        return self.hidden


def closure(value):
    return lambda: value


def deep(value):
    for _ in range(2000):
        value = [value]
    return value


HIDDEN = {
    "itself": lambda v: v,
    "a list": lambda v: [1, v],
    "a dict": lambda v: {"a": {"b": v}},
    "a key": lambda v: {("a", v): 1},
    "a tuple": lambda v: ("x", (v,)),
    "the values of a dict": lambda v: {"a": v}.values(),
    "the items of a dict": lambda v: {"a": v}.items(),
    "a queue": lambda v: collections.deque([v]),
    "an array": lambda v: np.array([[None, Holder(v)]], dtype=object),
    "a field": Holder,
    "a slot": Slots,
    "an attribute": Slotless,
    "a bound method": lambda v: Slotless(v).method,
    "a closure": closure,
    "an argument": lambda v: functools.partial(print, v),
    "a keyword": lambda v: functools.partial(print, end=v),
    "two thousand lists": deep,
}


@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize(
    "private",
    [PRIVATE, PRIVATE[0], PRIVATE[:1], PrivateRecords, NGRAMS],
    ids=["records", "record", "slice", "type", "n-grams"],
)
def test_private_objects_are_found_wherever_they_hang(hide, private):
    gate = ReleaseGate()
    value = hide(private) if hide is not HIDDEN["a key"] or private is not PRIVATE else [private]
    with pytest.raises(PrivateObject, match=r"filtering was given .*rows.* private type Private"):
        gate.admit("filtering", settings={"a": 1}, rows=value)


def test_what_is_made_of_private_records_is_private_too():
    for made in (privacy_units(PRIVATE), privacy_units(PRIVATE).units, iter_of_records()):
        with pytest.raises(PrivateObject):
            ReleaseGate().admit("refining", rows=made)


def made_of_private_records():
    (row,) = generation_rows(
        privacy_units(PRIVATE[:1]).units, byte_tokenizer(), Prompts(), max_length=64
    ).rows
    grams = PrivateGrams(PRIVATE)
    found = grams.scan([("a place", LONG)])
    canaries = make_canaries(4, seed=0)
    return {
        "grams": (grams, "PrivateGrams"),
        "a finding": (found, "TextOverlap"),
        "a hit": (found.hits[0], "Hit"),
        "canaries": (canaries, "Canaries"),
        "a row": (row, "Row"),
        "its tokens": (row.sequences[0], "Sequence"),
        "a batch": (collate([row], pad_id=0), "PackedBatch"),
        "what a base said": (CachedReward(torch.zeros(2, 3), nn.Linear(3, 1)), "CachedReward"),
        "what a trainer saw": (Tally(records=3), "Tally"),
        "what a model learnt": (NonPrivateBound(None), "NonPrivateBound"),
        "posts": (Post(PRIVATE[0]), "PrivateRecord"),
        "both halves of them": (Dreaddit((Post(PRIVATE[0]),), (), frozenset()), "PrivateRecord"),
        "a domain": (DomainData("code", PRIVATE, PRIVATE, frozenset()), "PrivateRecords"),
    }


@pytest.mark.parametrize("held", made_of_private_records().values(), ids=made_of_private_records())
def test_what_holds_texts_tokens_or_hashes_of_records_is_private(held):
    private, named = held
    for value in (private, [private], type(private) if named in str(type(private)) else private):
        with pytest.raises(PrivateObject, match=rf"private type {named}:"):
            ReleaseGate().admit("sampling", value=value)


def test_every_private_type_is_there_and_its_subclasses_are_private():
    for module, names in taint._PRIVATE.items():
        for name in names:
            kind = getattr(importlib.import_module(module), name)
            assert kind.__module__ == module
            with pytest.raises(PrivateObject):
                ReleaseGate().admit("sampling", value=type("Mine", (kind,), {}))


SECRET = 99


class Fresh(collections.abc.Mapping):
    """Its value is made anew whenever it is asked for, and gone when it was looked at."""

    def __init__(self, number):
        self.number = number

    def __getitem__(self, key):
        return Holder(PRIVATE if self.number == SECRET else self.number)

    def __iter__(self):
        return iter("a")

    def __len__(self):
        return 1


@pytest.mark.parametrize("place", range(6))
def test_a_value_at_the_address_of_a_freed_one_is_looked_at(place):
    rows = [Fresh(SECRET if number == place else number) for number in range(6)]
    with pytest.raises(PrivateObject):
        ReleaseGate().admit("sampling", rows=rows)


def iter_of_records():
    return [dataclasses.replace(record, id=f"n{i}") for i, record in enumerate(PRIVATE)]


def test_a_function_that_names_the_private_set_is_private():
    with pytest.raises(PrivateObject, match="a variable of"):
        ReleaseGate().admit("filtering", keep=lambda row: row in PRIVATE)


def test_public_things_pass():
    cyclic: list[object] = [PUBLIC, SyntheticRow("q", "Q", ("a",)), np.zeros(3), None, 1.5, "text"]
    cyclic.append(cyclic)
    gate = ReleaseGate(NGRAMS)
    gate.admit(
        "sampling", rows=cyclic, how=SamplingSettings(), prompts=Prompts(), f=closure(PUBLIC)
    )
    assert gate.seeds(PUBLIC.texts()) == ("What is a pond?", "Still water.")


def test_a_message_never_tells_a_text():
    for refused in ({"a": PRIVATE}, [PRIVATE[1]], SHORT):
        with pytest.raises((PrivateObject, PrivateText)) as told:
            ReleaseGate(NGRAMS).seeds(refused if not isinstance(refused, str) else [refused])
        said = str(told.value).lower()
        assert not any(word in said for word in ("heron", "otter", "lazy"))


class Never:
    """A backend that must not be reached."""

    def generate(self, prompts, n=1, drawing=None):
        raise AssertionError("something was drawn")


@pytest.mark.parametrize(
    ("seeds", "error"),
    [
        (PRIVATE, PrivateObject),
        ([PRIVATE[0]], PrivateObject),
        (PRIVATE.texts, PrivateObject),
        (PRIVATE.texts(), PrivateText),
        (["Are ponds deep?", f"So: {SHORT.upper()}!"], PrivateText),
    ],
)
def test_sampling_draws_nothing_for_private_seeds(tmp_path, seeds, error):
    folder = tmp_path / "shards"
    with pytest.raises(error):
        Sampler(Never(), Prompts(), seeds=seeds, gate=ReleaseGate(NGRAMS), folder=folder)
    assert not folder.exists()


def test_nothing_private_is_answered(tmp_path):
    sampler = Sampler(Never(), Prompts(), gate=ReleaseGate(NGRAMS), folder=tmp_path)
    for asked, error in ((PRIVATE, PrivateObject), (["Why is it so?", SHORT], PrivateText)):
        with pytest.raises(error):
            sampler.rows_of(asked)
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["shards.json"]


def test_a_gate_without_ngrams_still_knows_the_type():
    gate = ReleaseGate()
    assert gate.seeds([LONG]) == (LONG,)  # a server cannot know
    with pytest.raises(PrivateObject):
        gate.seeds([PRIVATE[0]])


@pytest.mark.parametrize("seeds", ["one text", ["ok then", ""], ["ok then", 3], ["ok then", None]])
def test_seeds_are_texts(seeds):
    with pytest.raises(InvalidSetting):
        ReleaseGate().seeds(seeds)


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        (LONG, 8),
        (LONG.upper().replace(" ", " - "), 8),
        (f"Tell me: {LONG[:60]}", 8),
        ("the grey heron stands beside the old mill", 8),
        ("the grey heron stands beside the old", 7),  # a part, with nothing else
        ("grey heron stands beside", 4),
        ("grey heron stands", 0),
        ("once the grey heron stands beside the old water wheel", 0),  # 7 words among others
        ("see how seven lazy otters sleep all day", 4),  # a whole private text
        ("seven lazy otters", 0),
        (TINY, 2),
        ("Quiet, otter!", 2),
        ("one quiet otter", 0),  # as a part, so few words say nothing
        ("yes", 1),
        ("yes it is", 0),
        ("", 0),
        ("the gray heron stands beside the very old mill pond", 0),
        ("se\u200bven lazy otters sle\u00adep", 4),
    ],
)
def test_shared_words(text, shared):
    assert NGRAMS.shared(text) == shared


def test_shared_words_are_those_of_a_scan_of_plain_texts():
    draw = random.Random(3)
    texts = [" ".join(draw.choices("abcd", k=draw.randint(0, 14))) for _ in range(40)]
    texts = list(dict.fromkeys(texts))
    ngrams = PrivateNgrams.of(
        PrivateRecords(
            [Record(str(i), t, "") for i, t in enumerate(texts)],
            KEY,
        ),
        KEY,
    )
    private = [text.split() for text in texts]

    def runs(of, k):
        return {tuple(of[i : i + k]) for i in range(len(of) - k + 1)}

    met = []
    for _ in range(400):
        asked = draw.choices("abcd", k=draw.randint(0, 12))
        n = len(asked)
        expected = 0
        if n < 4:
            expected = n if n and asked in private else 0
        elif n < 8 and any(tuple(asked) in runs(of, n) for of in private):
            expected = n
        elif any(runs(asked, 8) & runs(of, 8) for of in private):
            expected = 8
        else:
            wholes = [
                len(of) for of in private if 4 <= len(of) < 8 and tuple(of) in runs(asked, len(of))
            ]
            expected = max(wholes, default=0)
        assert ngrams.shared(" ".join(asked)) == expected
        met.append(expected)
    assert {0, 4, 5, 8} <= set(met)


JOINED = {
    "underscores": "_".join(LONG.split()),
    "a file": "/".join(LONG.split()) + ".txt",
    "wide underscores": "\uff3f".join(LONG.upper().split()),
    "some": "_".join(LONG.split()[:9]) + " and more",
    "points": ".".join(LONG.split()),
    "marks": " ".join("\u200b".join(word) for word in LONG.split()),
}


@pytest.mark.parametrize("text", JOINED.values(), ids=JOINED)
def test_what_the_scan_finds_the_gate_refuses(text):
    assert not PrivateGrams(PRIVATE).scan([("seed", text)]).clean
    with pytest.raises(PrivateText, match="seed 0 shares 8 words"):
        ReleaseGate(NGRAMS).seeds([text])


def test_scan_and_gate_agree_on_any_text():
    draw, grams = random.Random(5), PrivateGrams(PRIVATE)
    found = 0
    for _ in range(300):
        start = draw.randrange(10)
        taken = LONG.split()[start : start + draw.randint(5, 12)]
        text = "".join(word + draw.choice([" ", "_", "__", ", ", "-"]) for word in taken)
        scanned = not grams.scan([("seed", text)]).clean
        assert scanned == (NGRAMS.shared(text) == 8)
        found += scanned
    assert 30 < found < 270


def test_ngrams_are_kept_by_the_client_and_say_nothing_without_the_key(tmp_path):
    path = tmp_path / "ngrams.safetensors"
    NGRAMS.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    held = path.read_bytes()
    assert KEY not in held
    assert b"otter" not in held
    again = PrivateNgrams.load(path, KEY)
    asked = [LONG, SHORT, TINY, "a pond"]
    assert [again.shared(text) for text in asked] == [NGRAMS.shared(text) for text in asked]
    other = PrivateNgrams.of(PRIVATE, KEY[::-1])
    assert not set(other._runs.tolist()) & set(NGRAMS._runs.tolist())
    with pytest.raises(CorruptState, match="another key"):
        PrivateNgrams.load(path, KEY[::-1])
    for cut, content in itertools.product((10, len(held) - 3), (held,)):
        path.write_bytes(content[:cut])
        with pytest.raises(CorruptState, match="n-grams"):
            PrivateNgrams.load(path, KEY)
    with pytest.raises(MissingAsset):
        PrivateNgrams.load(tmp_path / "absent", KEY)


def test_ngrams_are_of_a_private_set_and_a_key():
    with pytest.raises(InvalidSetting, match="PublicRecords"):
        PrivateNgrams.of(PUBLIC, KEY)
    for key in (b"short", "0123456789abcdef", b"x" * 65):
        with pytest.raises(InvalidSetting, match="16 to 64"):
            PrivateNgrams.of(PRIVATE, key)


def test_a_public_copy_of_a_private_record_keeps_its_type():
    copied = dataclasses.replace(PRIVATE[0], instruction="other")
    assert isinstance(copied, PrivateRecord)
