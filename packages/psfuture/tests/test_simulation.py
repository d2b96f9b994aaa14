"""Whole test sets: against a loop without caches, in any order, batch and company."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipogram import assets
from lipogram.errors import InvalidSetting, NotFinite
from psfuture.futures import Ellipsis, EndOfSentence, Fixed, Multi, Oracle, Random
from psfuture.models import load
from psfuture.policies import (
    AlignAtt,
    HoldN,
    Limits,
    LocalAgreement,
    Offline,
    PsFuture,
    WaitK,
)
from psfuture.simulation import LONGEST, simulate, sweep_traces
from psfuture.units import split

from .toy_backend import Naive, ToyBackend, marian, sentences

SEVERAL = Multi([Fixed(), Ellipsis(), Random(["cat", "rain", "slowly"])])
POLICIES = {
    "cosine": PsFuture(0.1),
    "open": PsFuture(0.3, prefix_eos=False),
    "eos": PsFuture(0.2, EndOfSentence(), prefix_eos=False),
    "mean": PsFuture(0.3, SEVERAL),
    "max": PsFuture(0.85, SEVERAL, reduce="max"),
    "pseudo": PsFuture(0.5, write_from="pseudo"),
    "mix": PsFuture(0.4, SEVERAL, write_from="mix", prefix_eos=False),
    "limited": PsFuture(0.2, limits=Limits(2, 3, 2)),
    "paced": PsFuture(0.9, limits=Limits(max_words_per_read=1)),
    "paced wait": WaitK(1, 1.0, limits=Limits(max_words_per_read=2)),
    "oracle": PsFuture(0.2, Oracle(3)),
    "wait": WaitK(2),
    "wait open": WaitK(1, 0.5, prefix_eos=False),
    "wait limited": WaitK(4, limits=Limits(1, 2, 1)),
    "alignatt": AlignAtt(1),
    "alignatt open": AlignAtt(2, prefix_eos=False),
    "offline": Offline(),
    "agreement": LocalAgreement(2),
    "agreement open": LocalAgreement(2, prefix_eos=False),
    "hold": HoldN(2),
}


def by_hand(naive, policy, units, weights=None):
    """What the policy should do, by the definitions and nothing else."""
    closed = policy.prefix_eos
    if isinstance(policy, LocalAgreement):

        def keep(drafts):
            last = drafts[-policy.n :]
            if len(last) < policy.n:
                return 0
            kept = 0
            while all(kept < len(d) and d[kept] == last[0][kept] for d in last):
                kept += 1
            return kept

        return naive.drafts(units, keep, closed=closed)
    if isinstance(policy, HoldN):
        return naive.drafts(units, lambda drafts: len(drafts[-1]) - policy.n, closed=closed)

    def wanted(j, tokens, token, told):
        if isinstance(policy, Offline):
            return False, token
        if isinstance(policy, WaitK):
            word = max(naive.shown([*tokens, token]), 1)
            return word <= (j - policy.k + 1) * (1 + policy.catchup) + 1e-9, token
        if isinstance(policy, AlignAtt):
            source = naive.ids(units[:j], closed=closed)
            ends = [len(naive.ids(units[: i + 1], closed=False)) for i in range(j)]
            attended = int(weights(source, tokens)[: ends[-1]].argmax())
            unit = 1 + next(i for i, end in enumerate(ends) if attended < end)
            return unit <= j - policy.last, token
        suffixes = policy.future.invent([tuple(units[:j])], [tuple(units)])[0]
        reduce = max if policy.reduce == "max" else np.mean
        found, token = naive.compared(
            units[:j],
            tokens,
            suffixes,
            closed=closed,
            reduce=reduce,
            write_from=policy.write_from,
        )
        told.divergences.append(float(found))
        return found <= policy.threshold, token

    def decide(units, j, tokens, token, told):
        want, token = wanted(j, tokens, token, told)
        limits = policy.limits
        last = told.actions[-1]
        run = len(told.actions) - len(told.actions.rstrip(last))
        if j < limits.min_reads or (last == "W" and run == limits.max_consecutive_writes):
            return False, token
        if last == "R" and run == limits.max_consecutive_reads:
            return True, token
        if limits.max_words_per_read is not None:
            here = sum(delay == j for delay in told.delays)
            begun = max(naive.shown([*tokens, token]), 1)
            want &= begun - naive.shown(tokens[: len(tokens) - here]) <= limits.max_words_per_read
        return want, token

    return naive.run(units, decide, closed=closed)


def from_scratch(backend):
    """Logits of one source and target by a single pass."""

    def logits(source, target):
        encoding = backend.encode([list(source)])
        return backend.begin(encoding, [list(target)])[1][0].numpy()

    return logits


def told(trace):
    return trace.tokens, trace.token_delays, trace.actions


@pytest.mark.parametrize("unit", ["word", "char"])
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_does_what_its_definition_says(name, unit):
    policy, backend = POLICIES[name], ToyBackend()
    lines = sentences(9, seed=5, unit=unit)
    naive = Naive(backend.logits, backend, unit)
    found = simulate(backend, policy, lines, unit=unit, batch_size=5, analysis=True)
    early = 0
    for line, trace in zip(lines, found, strict=True):
        wanted = by_hand(naive, policy, split(line, unit), backend.weights)
        assert told(trace) == (tuple(wanted.tokens), tuple(wanted.delays), wanted.actions)
        assert trace.source == split(line, unit)
        early += sum(delay < len(trace.source) for delay in trace.token_delays)
    assert (early > 0) == (name != "offline")


@pytest.mark.parametrize("name", ["cosine", "mix", "wait open", "agreement"])
def test_a_model_of_transformers_does_it_too(name):
    policy, backend = POLICIES[name], marian()
    rng = np.random.default_rng(2)
    lines = [" ".join(f"w{i}" for i in rng.integers(4, 60, n)) for n in (1, 3, 4, 6)]
    naive = Naive(from_scratch(backend), backend)
    for line, trace in zip(lines, simulate(backend, policy, lines), strict=True):
        wanted = by_hand(naive, policy, line.split())
        assert told(trace) == (tuple(wanted.tokens), tuple(wanted.delays), wanted.actions)


@pytest.mark.parametrize("prefix_eos", [True, False])
@pytest.mark.parametrize(
    "policy", [PsFuture(-0.001), PsFuture(-1, SEVERAL), WaitK(12), WaitK(99, 0.3), Offline()]
)
def test_who_waits_for_the_end_translates_offline(policy, prefix_eos):
    policy = replace(policy, prefix_eos=prefix_eos)
    backend, lines = ToyBackend(), sentences(20, seed=7)
    naive = Naive(backend.logits, backend)
    for line, trace in zip(lines, simulate(backend, policy, lines), strict=True):
        n = len(line.split())
        assert list(trace.tokens) == naive.greedy(line.split()) if n else trace.tokens == ()
        assert set(trace.delays) | set(trace.token_delays) <= {n}
        assert trace.actions == "R" * n + "W" * len(trace.tokens)
        assert trace.text == backend.target_text(trace.tokens)


@pytest.mark.parametrize("prefix_eos", [True, False])
def test_who_writes_all_reads_only_at_the_end_of_what_the_model_says(prefix_eos):
    backend, lines = ToyBackend(), sentences(20, seed=8)
    naive = Naive(backend.logits, backend)
    for trace in simulate(backend, PsFuture(1.0, prefix_eos=prefix_eos), lines):
        tokens, reads = [], 0
        for action in trace.actions:
            if action == "W":
                tokens.append(trace.tokens[len(tokens)])
                continue
            if reads:
                source = naive.ids(trace.source[:reads], closed=prefix_eos)
                ended = len(tokens) == int(2.5 * len(source)) + 5
                assert ended or backend.logits(source, tuple(tokens)).argmax() == backend.eos
            reads += 1


def test_a_higher_threshold_reads_less():
    backend, lines = ToyBackend(), sentences(60, seed=9)
    policies = {str(at): PsFuture(at) for at in (-1, 0.05, 0.2, 0.4, 0.7, 1)}
    found = sweep_traces(backend, policies, lines)
    means = [np.mean([d for t in traces for d in t.token_delays]) for traces in found.values()]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1] + 2


@functools.cache
def one_by_one(name):
    return [simulate(ToyBackend(), POLICIES[name], [line])[0] for line in sentences(9, seed=3)]


@settings(max_examples=15)
@given(
    st.permutations(range(9)),
    st.integers(1, 9),
    st.sampled_from([name for name in POLICIES if name != "oracle"]),
)
def test_neither_order_nor_batch_nor_neighbours_matter(order, batch_size, name):
    lines = sentences(9, seed=3)
    alone = one_by_one(name)
    found = simulate(
        ToyBackend(), POLICIES[name], [lines[at] for at in order], batch_size=batch_size
    )
    assert found == [alone[at] for at in order]


def test_a_sweep_gives_what_each_policy_gives_alone():
    lines, references = sentences(7, seed=4), [f"r{i}" for i in range(7)]
    found = sweep_traces(ToyBackend(), POLICIES, lines, references, analysis=True, batch_size=4)
    assert list(found) == list(POLICIES)
    for name, policy in POLICIES.items():
        assert found[name] == simulate(ToyBackend(), policy, lines, references, analysis=True)
        assert [trace.reference for trace in found[name]] == references


def test_a_sweep_of_a_model_of_transformers_gives_it_too():
    rng = np.random.default_rng(4)
    lines = [" ".join(f"w{i}" for i in rng.integers(4, 60, n)) for n in (0, 2, 5, 7, 3)]
    policies = {name: POLICIES[name] for name in ("cosine", "open", "max", "wait", "agreement")}
    found = sweep_traces(marian(), policies, lines)
    for name, policy in policies.items():
        assert found[name] == simulate(marian(), policy, lines, batch_size=1)


def test_what_was_answered_once_is_not_asked_again():
    lines = sentences(10, seed=11)
    one, two = ToyBackend(), ToyBackend()
    sweep_traces(one, {"a": PsFuture(0.2)}, lines)
    sweep_traces(two, {"a": PsFuture(0.2), "b": PsFuture(0.2), "c": WaitK(2)}, lines)
    sweep_traces(three := ToyBackend(), {"a": PsFuture(0.2), "b": PsFuture(0.2)}, lines)
    held = PsFuture(0.2)
    sweep_traces(four := ToyBackend(), {"a": held, "b": replace(held, threshold=0.2)}, lines)
    assert four.asked == one.asked
    assert three.asked["encoded"] == one.asked["encoded"]  # another future of the same words
    assert one.asked["rows"] < three.asked["rows"] <= 2 * one.asked["rows"]
    sweep_traces(five := ToyBackend(), {"c": WaitK(2)}, lines)
    assert two.asked["rows"] < three.asked["rows"] + five.asked["rows"]


def test_one_policy_asks_about_each_place_once():
    for policy in (PsFuture(0.2), WaitK(2), LocalAgreement(2), AlignAtt(1), Offline()):
        backend = ToyBackend()
        simulate(backend, policy, ["the cat sat on every second mat"])
        assert max(backend.seen.values()) == 1


def test_thresholds_of_a_sweep_share_most_of_the_work():
    lines, future = sentences(10, seed=12), Fixed()
    policies = {str(at): PsFuture(at, future) for at in (0.1, 0.11, 0.12, 0.13)}
    shared = ToyBackend()
    sweep_traces(shared, policies, lines)
    rows = 0
    for policy in policies.values():
        simulate(alone := ToyBackend(), policy, lines)
        rows += alone.asked["rows"]
    assert shared.asked["rows"] < 0.6 * rows


def test_empty_lines_stay_empty():
    lines = ["", "the cat", "  \t ", "a b c"]
    for policy in POLICIES.values():
        found = simulate(ToyBackend(), policy, lines, analysis=True)
        for trace in (found[0], found[2]):
            assert (trace.source, trace.words, trace.delays, told(trace)) == (
                (),
                (),
                (),
                ((), (), ""),
            )
        assert found[1] == simulate(ToyBackend(), policy, lines[1:2], analysis=True)[0]
    assert simulate(ToyBackend(), Offline(), []) == []


@pytest.mark.parametrize("unit", ["word", "char"])
def test_words_are_shown_once_the_next_one_begins(unit):
    backend, lines = ToyBackend(), sentences(25, seed=13, unit=unit)
    naive = Naive(backend.logits, backend, unit)
    for trace in simulate(backend, PsFuture(0.5), lines, unit=unit):
        assert trace.words == split(backend.target_text(trace.tokens), unit)
        assert len(trace.delays) == len(trace.words)
        for at, delay in enumerate(trace.delays[:-1]):
            begun = [naive.shown(trace.tokens[: t + 1]) > at + 1 for t in range(len(trace.tokens))]
            assert delay == trace.token_delays[begun.index(True)]
        assert trace.delays[-1:] == (len(trace.source),) * bool(trace.words)


class Endless(ToyBackend):
    """Never says that it is done."""

    def logits(self, source, target):
        value = super().logits(source, target).copy()
        value[0] = -99
        return value


@pytest.mark.parametrize("policy", [PsFuture(1.0), WaitK(1), LocalAgreement(2), HoldN(1)])
def test_a_model_that_never_ends_is_ended(policy):
    backend = Endless()
    [trace] = simulate(backend, policy, ["the cat sat"])
    assert len(trace.tokens) == int(2.5 * len(backend.source_ids(trace.source, closed=True))) + 5
    for reads in (1, 2):
        held = sum(delay <= reads for delay in trace.token_delays)
        source = backend.source_ids(trace.source[:reads], closed=True)
        assert held <= int(2.5 * len(source)) + 5


def test_a_target_keeps_to_the_positions_of_the_model():
    backend = marian()
    line = " ".join(f"w{i}" for i in range(4, 44))
    never = backend._never_at
    backend._never_at = torch.cat([never, torch.tensor([backend.eos])])
    try:
        [trace] = simulate(backend, WaitK(1), [line])
    finally:
        backend._never_at = never
    assert 50 < len(trace.tokens) <= 64


def test_a_future_is_cut_to_the_positions_of_the_model():
    line = "the cat sat on every mat"
    most = len(ToyBackend().source_ids(line.split(), closed=True))
    policy = PsFuture(0.3, Fixed("and so it goes on and on"))

    class Cut:
        def invent(self, prefixes, sentences):
            [prefix] = prefixes
            for n in range(len(policy.future.words), -1, -1):
                suffix = policy.future.words[:n]
                if len(ToyBackend().source_ids([*prefix, *suffix], closed=True)) <= most:
                    return [[suffix]]
            raise AssertionError

    backend = ToyBackend(max_source=most)
    [trace] = simulate(backend, policy, [line])
    cut = replace(policy)
    object.__setattr__(cut, "future", Cut())
    wanted = by_hand(Naive(backend.logits, backend), cut, line.split())
    assert told(trace) == (tuple(wanted.tokens), tuple(wanted.delays), wanted.actions)
    assert told(trace) != told(simulate(ToyBackend(), policy, [line])[0])


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["the cat", "a b c d e f g h i j k l m"], "sentence 2 has 14 tokens.*12 positions"),
        (["x" * 60], "sentence 1 has 21 tokens.*12"),
        (["a", "", "b " * (LONGEST + 1)], f"sentence 3 has {LONGEST + 1} units.*{LONGEST}"),
    ],
)
def test_a_sentence_that_is_too_long_is_refused_before_anything_runs(lines, match):
    backend = ToyBackend(max_source=12)
    with pytest.raises(InvalidSetting, match=match):
        simulate(backend, WaitK(1), lines)
    assert not backend.asked


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"references": ["a"]}, "2 sources and 1 references"),
        ({"batch_size": 0}, "batch of 0"),
        ({"unit": "line"}, "line.*word nor char"),
    ],
)
def test_a_wrong_call_runs_nothing(more, match):
    backend = ToyBackend()
    with pytest.raises(InvalidSetting, match=match):
        simulate(backend, WaitK(1), ["the cat", "sat"], **more)
    assert not backend.asked


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("policy", [PsFuture(1.0), WaitK(1), LocalAgreement(2)])
def test_logits_that_are_not_finite_name_the_sentence_and_the_step(policy, wrong):
    lines = ["the cat sat down", "every second mat"]
    bad = tuple(ToyBackend().source_ids(["every", "second"], closed=True))

    def broken(source, target):
        return wrong if source == bad and len(target) >= 1 else None

    with pytest.raises(NotFinite, match=r"after 2 units of 'every second mat'… and [0-9]+ target"):
        simulate(ToyBackend(broken=broken), policy, lines)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_an_invented_future_that_is_not_finite_is_told_too(wrong):
    on = ToyBackend().source_ids(["on."], closed=False)[0]

    def broken(source, target):
        return wrong if on in source else None

    with pytest.raises(NotFinite, match="1 units of 'the cat sat'"):
        simulate(ToyBackend(broken=broken), PsFuture(0.3), ["the cat sat"])
    simulate(ToyBackend(broken=broken), WaitK(1), ["the cat sat"])


def test_a_token_that_is_never_said_breaks_nothing():
    backend = ToyBackend(broken=lambda source, target: -np.inf)
    for policy in POLICIES.values():
        for trace in simulate(backend, policy, sentences(5, seed=1), analysis=True):
            assert 3 not in trace.tokens


def test_progress_counts_sentences():
    seen = []
    simulate(ToyBackend(), WaitK(1), sentences(7), batch_size=3, progress=seen.append)
    assert seen == [3, 6, 7]


def test_alignatt_needs_attention():
    backend = ToyBackend(attends=False)
    with pytest.raises(InvalidSetting, match="toy lacks"):
        simulate(backend, AlignAtt(2), ["the cat"])


def test_the_embedded_model_agrees_with_a_loop_without_caches():
    if assets.find("bergamot-enpt") is None:
        pytest.skip("no model: `make assets` brings bergamot-enpt")
    backend = load("enpt", device="cpu")
    lines = ["Click the red button .", ""]
    naive = Naive(from_scratch(backend), backend)
    policies = {name: POLICIES[name] for name in ("cosine", "wait", "agreement")}
    found = sweep_traces(backend, policies | {"never": PsFuture(-1)}, lines)
    for name, policy in policies.items():
        for line, trace in zip(lines, found[name], strict=True):
            wanted = by_hand(naive, policy, line.split())
            assert told(trace) == (tuple(wanted.tokens), tuple(wanted.delays), wanted.actions)
            assert trace.delays == word_delays_again(backend, trace)
    for line, trace in zip(lines, found["never"], strict=True):
        assert list(trace.tokens) == (naive.greedy(line.split()) if line else [])
        assert set(trace.delays) <= {len(line.split())}


def word_delays_again(backend, trace):
    """Delays from texts of growing targets."""
    texts = [backend.target_text(trace.tokens[: n + 1]).split() for n in range(len(trace.tokens))]
    return tuple(
        next(
            (d for text, d in zip(texts, trace.token_delays, strict=True) if len(text) > at + 1),
            len(trace.source),
        )
        for at in range(len(trace.words))
    )
