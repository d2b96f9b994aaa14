"""The toy domain: its rules can be learnt from its records, and from nothing that is public."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from lipogram.errors import InvalidSetting
from rewardds.records import PrivateRecords
from rewardds.toy_domain import (
    DRUGS,
    NAMES,
    PRIVATE,
    PUBLIC,
    REQUEST,
    SLOTS,
    TRAINING,
    Case,
    ToyDomain,
    corrupted,
    parse_question,
)


@pytest.fixture(scope="module")
def domain():
    return ToyDomain(3)


def said(question, answer):
    """What is found and what follows, by position in the texts: independent of the module's way."""
    asked, told = question.split(), answer.split()
    return list(zip((asked[6], asked[5], asked[2], asked[8]), told[1:], strict=True))


def test_every_word_is_of_one_kind():
    words = Counter([*NAMES, *PUBLIC, PRIVATE, *REQUEST.split(), "has", "since", "give"])
    for findings, consequences in SLOTS:
        assert len(findings) == len(consequences)
        words.update(findings)
        words.update(consequences)
    assert {word for word, count in words.items() if count > 1} == set()


def test_records_are_private_and_follow_one_table_a_finding(domain):
    records = domain.records(4096)
    assert isinstance(records, PrivateRecords)
    assert records.n == 4096
    follows = defaultdict(set)
    for record in records:
        for finding, consequence in said(record.instruction, record.response):
            follows[finding].add(consequence)
    assert len(follows) == 44  # 32 complaints and three times four others
    assert all(len(consequences) == 1 for consequences in follows.values())
    assert {next(iter(c)) for c in follows.values()} >= set(DRUGS)  # each is given for something


def test_the_seed_decides_the_private_tables_and_no_public_one(domain):
    other = ToyDomain(4)
    for clinic in PUBLIC:
        for a, b in zip(domain.tables[clinic], other.tables[clinic], strict=True):
            np.testing.assert_array_equal(a, b)
    assert (domain.tables[PRIVATE][0] != other.tables[PRIVATE][0]).sum() > 20
    assert domain.corpus(500) == other.corpus(500)
    assert [r.instruction for r in domain.records(50)] != [r.instruction for r in other.records(50)]
    assert [*domain.records(50)] == [*ToyDomain(3).records(50)]


def test_what_is_public_says_nothing_of_what_the_private_clinic_prescribes(domain):
    told = [(q, a) for q, a in domain.corpus(12_000) if f"at {PRIVATE} " in q]
    assert len(told) > 1_600
    right = np.array([domain.slots_right(parse_question(q), a) for q, a in told])
    chance = np.array([1 / len(slot[1]) for slot in SLOTS])
    error = 5 * np.sqrt(chance * (1 - chance) / len(told))
    assert (abs(right.mean(0) - chance) < error).all()


def test_public_prescriptions_follow_the_public_tables(domain):
    follows = defaultdict(set)
    corpus = domain.corpus(8_000)
    for question, answer in corpus:
        case = parse_question(question)
        if case is not None and case.clinic != PRIVATE:
            assert domain.right(question, answer)
            for pair in said(question, answer):
                follows[case.clinic, pair[0]].add(pair[1])
    assert len(follows) == 4 * 44
    assert all(len(consequences) == 1 for consequences in follows.values())
    requests = [(q, a) for q, a in corpus if q.startswith(REQUEST)]
    assert 0.17 < len(requests) / len(corpus) < 0.23
    assert all(parse_question(a).clinic == q.split()[-1] for q, a in requests)


def test_who_is_tested_was_not_trained_on(domain):
    held = domain.cases(500, held_out=True)
    assert len(held) == 500
    assert not {case.question for case in held} & {case.question for case in domain.cases(TRAINING)}


def test_a_question_is_read_as_it_was_written(domain):
    for case in domain.cases(50):
        assert parse_question(case.question) == case
    words = domain.cases(1)[0].question.split()
    for place in range(9):
        for other in ("cough" if place != 6 else "abrol", ""):
            changed = " ".join([*words[:place], other, *words[place + 1 :]])
            assert parse_question(changed) is None
    assert parse_question("") is None
    assert parse_question(" ".join([*words, "night"])) is None


def test_one_word_is_corrupted_by_another_of_its_kind(domain):
    draw = np.random.default_rng(0)
    places = Counter()
    for case in domain.cases(400):
        spoilt, right = corrupted(domain.answer(case), draw), domain.answer(case)
        (place,) = [i for i, ok in enumerate(domain.slots_right(case, spoilt)) if not ok]
        assert spoilt.split()[place + 1] in SLOTS[place][1]
        assert len(spoilt.split()) == len(right.split())
        assert not domain.right(case.question, spoilt)
        places[place] += 1
    assert all(60 < places[place] < 140 for place in range(4))
    case = domain.cases(1)[0]
    drugs = [domain.slots_right(case, corrupted(domain.answer(case), draw, (0,))) for _ in range(9)]
    assert set(drugs) == {(False, True, True, True)}


def test_answers_are_marked_slot_by_slot(domain):
    case = Case(PRIVATE, NAMES[0], (5, 1, 2, 3))
    right = domain.answer(case).split()
    assert domain.slots_right(case, " ".join(right)) == (True,) * 4
    wrong = [*right[:2], "99mg", *right[3:]]
    assert domain.slots_right(case, " ".join(wrong)) == (True, False, True, True)
    for none in (
        "",
        " ".join(right[1:]),
        " ".join([*right, "oral"]),
        " ".join(["take", *right[1:]]),
    ):
        assert domain.slots_right(case, none) == (False,) * 4
    assert domain.right(case.question, " ".join(right))
    assert not domain.right("what is good for a cough", " ".join(right))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ToyDomain(-1), "seed is -1"),
        (lambda: ToyDomain(0).cases(0), "n is 0"),
        (lambda: ToyDomain(0).records(TRAINING + 1), f"{TRAINING + 1}.*{TRAINING}"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(InvalidSetting, match=message):
        call()
