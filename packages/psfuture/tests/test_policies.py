"""Policies by themselves: schedules by hand, prefixes of drafts, and settings out of range."""

import math
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lipogram.errors import InvalidSetting
from psfuture.futures import EndOfSentence, Fixed
from psfuture.policies import (
    AlignAtt,
    DraftPolicy,
    HoldN,
    Limits,
    LocalAgreement,
    Offline,
    PsFuture,
    TokenPolicy,
    View,
    WaitK,
)

TOKEN = (PsFuture(), WaitK(3), AlignAtt(), Offline())
DRAFT = (LocalAgreement(), HoldN())
drafts = st.lists(st.lists(st.integers(1, 3), max_size=6).map(tuple), min_size=1, max_size=5)


def due(policy, word):
    """Source units read when a word may be written."""
    return next(reads for reads in range(1, 100) if policy.write(View(reads, word)))


def test_a_policy_decides_on_tokens_or_on_drafts():
    for policy in TOKEN:
        assert isinstance(policy, TokenPolicy)
        assert not isinstance(policy, DraftPolicy)
    for policy in DRAFT:
        assert isinstance(policy, DraftPolicy)
        assert not isinstance(policy, TokenPolicy)


def test_names_carry_the_knob():
    names = [policy.name for policy in (*TOKEN, *DRAFT)]
    assert names == ["psfuture 0.02", "wait-3", "alignatt-2", "offline", "agreement-2", "hold-4"]
    assert PsFuture(1e-5).name != PsFuture(2e-5).name


@pytest.mark.parametrize(
    ("policy", "schedule"),
    [
        (WaitK(1), [1, 2, 3, 4, 5, 6]),
        (WaitK(3), [3, 4, 5, 6, 7, 8]),
        # Two words of source bring three of target: 1, 3, 4, 6, …
        (WaitK(1, 0.5), [1, 2, 2, 3, 4, 4, 5, 6, 6]),
        (WaitK(3, 1.0), [3, 3, 4, 4, 5, 5]),
        (WaitK(2, 0.2), [2, 3, 4, 5, 6, 6, 7]),
    ],
)
def test_wait_k_follows_its_schedule(policy, schedule):
    assert [due(policy, word) for word in range(1, len(schedule) + 1)] == schedule


@given(st.integers(1, 9), st.integers(0, 200), st.integers(1, 60), st.integers(1, 60))
@example(1, 16, 25, 29)
def test_wait_k_catches_up_exactly(k, percent, reads, word):
    may = word <= (reads - k + 1) * (1 + Fraction(percent, 100))
    assert WaitK(k, percent / 100).write(View(reads, word)) == may


@given(st.floats(0, 1), st.floats(-1, 1))
def test_psfuture_writes_up_to_its_threshold(found, threshold):
    assert PsFuture(threshold).write(View(3, 1, divergence=found)) == (found <= threshold)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 5))
def test_alignatt_keeps_away_from_the_last_words(reads, attended, last):
    held = range(reads - last + 1, reads + 1)
    written = AlignAtt(last).write(View(reads, 1, attended=min(attended, reads)))
    assert written == (min(attended, reads) not in held)


def test_offline_never_writes():
    assert not any(Offline().write(View(reads, 1)) for reads in range(1, 50))


@given(drafts, st.integers(2, 4))
def test_agreement_keeps_what_the_last_drafts_begin_with(given_drafts, n):
    kept = LocalAgreement(n).keep(given_drafts)
    last = given_drafts[-n:]
    assert all(draft[:kept] == last[0][:kept] for draft in last)
    if len(given_drafts) < n:
        assert kept == 0
    else:
        assert any(draft[: kept + 1] != last[0][: kept + 1] for draft in last) or (
            kept == min(map(len, last))
        )


def test_agreement_by_hand():
    assert LocalAgreement(2).keep([(9,), (1, 2, 3), (1, 2, 4, 5)]) == 2
    assert LocalAgreement(2).keep([(1, 2), (1, 2)]) == 2
    assert LocalAgreement(3).keep([(1, 5), (1, 2, 3), (1, 2, 4)]) == 1
    assert LocalAgreement(2).keep([(1, 2)]) == 0
    assert LocalAgreement(2).keep([(), (1,)]) == 0


@given(drafts, st.integers(0, 8))
def test_hold_keeps_all_but_the_last_tokens(given_drafts, n):
    assert HoldN(n).keep(given_drafts) == len(given_drafts[-1][: -n or None])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: WaitK(0), "k >= 1.*0"),
        (lambda: WaitK(1, -0.1), "catchup >= 0.*-0.1"),
        (lambda: WaitK(1, math.nan), "catchup"),
        (lambda: WaitK(1, math.inf), "catchup"),
        (lambda: AlignAtt(0), "1 last word.*0"),
        (lambda: LocalAgreement(1), "2 drafts.*1"),
        (lambda: HoldN(-1), "-1 tokens"),
        (lambda: Limits(min_reads=0), "min_reads is 0"),
        (lambda: Limits(max_consecutive_reads=0), "max_consecutive_reads is 0"),
        (lambda: Limits(max_consecutive_writes=-2), "max_consecutive_writes is -2"),
        (lambda: PsFuture(math.nan), "nan.*cosine"),
        (lambda: PsFuture(1.5), "1.5.*cosine"),
        (lambda: PsFuture(reduce="median"), "median.*mean or max"),
        (lambda: PsFuture(write_from="full"), "full.*partial, pseudo or mix"),
        (lambda: PsFuture(divergence="far"), "far.*cosine"),
        (lambda: PsFuture(future=EndOfSentence()), "prefix_eos"),
    ],
)
def test_a_setting_out_of_range_is_named(make, match):
    with pytest.raises(InvalidSetting, match=match):
        make()


def test_what_is_in_range_is_taken():
    Limits(1, 1, 1)
    PsFuture(-1.0, Fixed("a"), "js", "max", "mix")
    PsFuture(1.0, EndOfSentence(), prefix_eos=False)
    HoldN(0)
