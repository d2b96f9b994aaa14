"""A sentence that is typed: the same as if it had been there at once."""

import copy
import functools
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipogram.errors import InvalidSetting
from psfuture.futures import Fixed
from psfuture.policies import AlignAtt, HoldN, Limits, LocalAgreement, Offline, PsFuture, WaitK
from psfuture.session import Session
from psfuture.simulation import LONGEST, simulate
from psfuture.stream import word_delays
from psfuture.units import split

from .toy_backend import Naive, ToyBackend, marian, sentences

POLICIES = {
    "psfuture": PsFuture(0.3),
    "open": PsFuture(0.3, prefix_eos=False),
    "mix": PsFuture(0.4, write_from="mix"),
    "limited": PsFuture(0.1, limits=Limits(2, 2, 2)),
    "eager": PsFuture(1.0),
    "wait": WaitK(2),
    "alignatt": AlignAtt(1),
    "agreement": LocalAgreement(2),
    "agreement open": LocalAgreement(2, prefix_eos=False),
    "hold": HoldN(2),
    "offline": Offline(),
}
LINES = sentences(12, seed=21)


@functools.cache
def at_once(name, unit="word"):
    lines = LINES if unit == "word" else sentences(12, seed=21, unit="char")
    return lines, simulate(ToyBackend(), POLICIES[name], lines, unit=unit)


def pushed(session, words, cuts, joint=" "):
    """Push words in chunks that end at the cuts, the last one as the last."""
    events, edges = [], [0, *sorted({cut for cut in cuts if cut < len(words)}), len(words)]
    for start, stop in itertools.pairwise(edges):
        text = joint.join(words[start:stop])
        events += session.push(f"  {text}\t", last=stop == len(words))
    return events


def same(trace, other):
    held = ("source", "words", "delays", "tokens", "token_delays", "actions")
    return all(getattr(trace, name) == getattr(other, name) for name in held)


@settings(max_examples=60)
@given(
    st.sampled_from(list(POLICIES)),
    st.sampled_from(["word", "char"]),
    st.integers(0, 11),
    st.lists(st.integers(1, 11), max_size=12),
)
def test_a_session_does_what_a_simulation_does(name, unit, line, cuts):
    lines, traces = at_once(name, unit)
    session = Session(ToyBackend(), POLICIES[name], unit=unit)
    words = split(lines[line], unit)
    events = pushed(session, words, cuts, " " if unit == "word" else "")
    assert same(session.trace, traces[line])
    assert session.stream.done
    assert session.text == ToyBackend().target_text(traces[line].tokens)
    writes = [event for event in events if event.kind == "write"]
    assert [event.text for event in writes] == list(session.trace.words)
    if all(cut in cuts for cut in range(1, len(words))):
        assert [event.src_read for event in writes] == list(session.trace.delays)
    reads = [(event.text, event.src_read) for event in events if event.kind == "read"]
    assert reads == [(word, at) for at, word in enumerate(words, 1)]
    assert len(session.trace.compute_ms) == len(words)
    assert all(spent >= 0 for spent in session.trace.compute_ms)


@pytest.mark.parametrize("name", ["psfuture", "wait", "agreement"])
def test_a_model_of_transformers_does_too(name):
    line = "w4 w9 w17 w5 w40 w41"
    session = Session(marian(), POLICIES[name])
    pushed(session, line.split(), [1, 2, 4])
    assert same(session.trace, simulate(marian(), POLICIES[name], [line, "w7 w8"])[0])


@pytest.mark.parametrize("name", POLICIES)
def test_finish_says_that_nothing_follows(name):
    closed = POLICIES[name].prefix_eos and getattr(POLICIES[name], "write_from", "") != "mix"
    lines, traces = at_once(name)
    for line, trace in zip(lines, traces, strict=True):
        session = Session(ToyBackend(), POLICIES[name])
        for word in line.split():
            session.push(word)
        before = session.trace
        session.finish()
        assert session.stream.done
        # The last word was a prefix until the end was said.
        assert session.trace.tokens[: len(before.tokens)] == before.tokens
        if closed:
            assert session.trace.words == trace.words
            assert session.trace.delays == trace.delays
        assert session.finish() == []
        assert len(session.trace.compute_ms) == len(line.split())


@pytest.mark.parametrize("name", POLICIES)
def test_nothing_is_taken_back(name):
    for line in LINES:
        session, shown, tokens = Session(ToyBackend(), POLICIES[name]), [], ()
        for at, word in enumerate(words := line.split(), 1):
            new = session.push(word, last=at == len(words))
            shown += [event.text for event in new if event.kind == "write"]
            assert session.trace.tokens[: len(tokens)] == tokens
            tokens = session.trace.tokens
            assert shown == session.text.split()[: len(shown)]
            assert len(shown) in (len(session.text.split()), len(session.text.split()) - 1)
            if at < len(words):
                assert not session.stream.done
        assert shown == list(session.trace.words)


@pytest.mark.parametrize(
    "name", ["psfuture", "open", "mix", "limited", "eager", "wait", "alignatt"]
)
def test_decisions_are_those_of_the_actions(name):
    for line in LINES:
        decisions = []
        backend = ToyBackend()
        session = Session(backend, POLICIES[name], on_decision=decisions.append)
        pushed(session, line.split(), [1, 2, 3, 5, 8])
        actions = session.trace.actions
        told = "".join("RW"[decision.wrote] for decision in decisions)
        early = [delay for delay in session.trace.token_delays if delay < len(line.split())]
        assert ("R" + told if line else "") == actions[: len(told) + 1]
        assert told.count("W") == len(early)
        assert set(actions[len(told) + 1 :]) <= {"W"}
        for at, decision in enumerate(decisions):
            assert decision.reads == actions[: at + 1].count("R")
            assert (decision.divergence is None) == (name in ("wait", "alignatt"))
            assert decision.threshold == getattr(POLICIES[name], "threshold", None)
        text = "".join(decision.text for decision in decisions if decision.wrote)
        assert text == backend.target_text(session.trace.tokens[: len(early)])


def test_divergences_that_are_told_are_those_of_the_distributions():
    decisions, backend = [], ToyBackend()
    session = Session(backend, PsFuture(0.3), on_decision=decisions.append)
    line = "the cat sat on every second mat"
    session.push(line, last=True)
    naive, tokens = Naive(backend.logits, backend), iter(session.trace.tokens)
    said = []
    for decision in decisions:
        wanted, _ = naive.compared(
            line.split()[: decision.reads], tuple(said), [("and", "so", "on.")]
        )
        assert decision.divergence == pytest.approx(wanted, abs=1e-6)
        if decision.wrote:
            said.append(next(tokens))
    assert len({decision.wrote for decision in decisions}) == 2


def test_an_empty_sentence_is_done_at_once():
    for text in ("", "  \t\n"):
        session = Session(ToyBackend(), PsFuture(0.3))
        assert session.push(text) == []
        assert not session.stream.done
        assert session.finish() == []
        assert session.stream.done
        assert same(session.trace, simulate(ToyBackend(), PsFuture(0.3), [text])[0])
        last = Session(ToyBackend(), PsFuture(0.3))
        assert last.push(text, last=True) == []
        assert last.stream.done


def test_white_space_after_the_words_ends_them():
    one, two = Session(ToyBackend(), WaitK(2)), Session(ToyBackend(), WaitK(2))
    for session in (one, two):
        session.push("the cat sat")
    one.push("  ", last=True)
    two.finish()
    assert same(one.trace, two.trace)
    assert one.stream.done


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("text", ["x" * 40, "on every second mat " * 4, "a " * LONGEST])
def test_a_push_that_is_refused_changes_nothing(name, text):
    backend = ToyBackend(max_source=12) if text[0] != "a" else ToyBackend()
    refused, never = (Session(backend, POLICIES[name]) for _ in range(2))
    for session in (refused, never):
        session.push("the cat")
    before = copy.deepcopy(vars(refused.stream))
    held, spent = copy.deepcopy(refused.trace), backend.asked.copy()
    with pytest.raises(InvalidSetting, match="split it"):
        refused.push(text)
    with pytest.raises(InvalidSetting, match="split it"):
        refused.push(text, last=True)
    assert vars(refused.stream) == before
    assert refused.trace == held
    assert backend.asked == spent
    for session in (refused, never):
        session.push("sat", last=True)
    assert same(refused.trace, never.trace)


def test_nothing_can_be_pushed_after_the_end():
    session = Session(ToyBackend(), PsFuture(0.3))
    session.push("the cat")
    session.finish()
    held = copy.deepcopy(session.trace)
    for last in (True, False):
        with pytest.raises(InvalidSetting, match=r"finished.*another session"):
            session.push("sat", last=last)
    with pytest.raises(InvalidSetting, match="finished"):
        session.push("")
    assert session.trace == held


@settings(max_examples=30)
@given(st.integers(0, 11), st.integers(1, 6))
def test_a_new_policy_holds_from_the_next_decision_on(line, cut):
    words = LINES[line].split()
    backend, later = ToyBackend(), PsFuture(1.0, Fixed("..."))
    session = Session(backend, Offline())
    for at, word in enumerate(words, 1):
        session.push(word, last=at == len(words))
        if at == cut:
            session.policy = later
    assert session.policy == (later if cut <= len(words) else session.policy)

    def decide(units, j, tokens, token, told):
        return j > cut, token

    wanted = Naive(backend.logits, backend).run(words, decide)
    assert session.trace.actions == wanted.actions
    assert list(session.trace.tokens) == wanted.tokens


@settings(max_examples=30)
@given(st.integers(0, 11), st.integers(1, 6), st.sampled_from(["agreement", "hold", "eager"]))
def test_the_last_decision_is_thought_over_when_asked_to(line, cut, name):
    words = LINES[line].split()
    backend = ToyBackend()
    session, shown = Session(backend, Offline()), []
    for at, word in enumerate(words, 1):
        shown += session.push(word, last=at == len(words))
        if at == cut:
            session.policy = POLICIES[name]
            shown += session.decide()
            assert session.decide() == []
    assert len(session.trace.compute_ms) == len(words)
    assert [e.text for e in shown if e.kind == "write"] == list(session.trace.words)
    if name == "eager":

        def decide(units, j, tokens, token, told):
            return j >= cut, token

        wanted = Naive(backend.logits, backend).run(words, decide)
        assert session.trace.actions == wanted.actions
    if name == "hold" and cut < len(words):

        def keep(drafts):
            return len(drafts[-1]) - 2 if len(drafts) >= cut else 0

        wanted = Naive(backend.logits, backend).drafts(words, keep)
        assert session.trace.actions == wanted.actions


def test_delays_of_a_session_are_those_of_its_stream():
    session = Session(ToyBackend(), PsFuture(0.5))
    session.push("the cat sat on")
    words, delays = word_delays(session.backend, session.stream)
    assert (session.trace.words, session.trace.delays) == (words, delays)


def test_settings_of_a_session_are_checked():
    with pytest.raises(InvalidSetting, match=r"line.*word nor char"):
        Session(ToyBackend(), PsFuture(), unit="line")
    plain = ToyBackend(attends=False)
    with pytest.raises(InvalidSetting, match="toy lacks"):
        Session(plain, AlignAtt())
    session = Session(plain, WaitK(1))
    with pytest.raises(InvalidSetting, match="toy lacks"):
        session.policy = AlignAtt()
    assert session.policy == WaitK(1)
    session.push("the cat", last=True)
