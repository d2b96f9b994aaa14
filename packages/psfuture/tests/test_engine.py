"""Caches and memo: what the engine reuses is what a pass from scratch says."""

import zlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipogram import assets
from lipogram.errors import InvalidSetting
from psfuture.engine import Engine, Memo
from psfuture.futures import Fixed
from psfuture.models import load
from psfuture.policies import Limits, LocalAgreement, Offline, PsFuture, WaitK
from psfuture.stream import Answer, Move, Stream, room_for

from .toy_backend import ToyBackend, marian, sentences

NO_LIMITS = Limits()


@dataclass(frozen=True)
class Coin:
    """Writes or reads at random, the same at the same place."""

    seed: int = 0
    future: object = None
    prefix_eos: bool = True
    limits: Limits = NO_LIMITS
    name: str = "coin"

    def write(self, view):
        return zlib.crc32(f"{self.seed} {view}".encode()) % 2 == 0


class Watched:
    """A backend, and every distribution that it gave, with the row's source and target."""

    def __init__(self, backend):
        self.backend, self.given, self._sources = backend, [], {}

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def encode(self, sources):
        found = self.backend.encode(sources)
        self._sources |= {
            id(states): tuple(ids) for states, ids in zip(found, sources, strict=True)
        }
        self._kept = [*getattr(self, "_kept", []), *found]  # so that no id is used twice
        return found

    def begin(self, encodings, targets):
        state, logits = self.backend.begin(encodings, targets)
        rows = [
            (self._sources[id(states)], tuple(target))
            for states, target in zip(encodings, targets, strict=True)
        ]
        return self._noted(state, rows, logits)

    def step(self, state, tokens):
        inner, logits = self.backend.step(state.inner, tokens)
        rows = [(s, (*t, token)) for (s, t), token in zip(state.rows, tokens, strict=True)]
        return self._noted(inner, rows, logits)

    def join(self, states):
        rows = [row for state in states for row in state.rows]
        return WatchedState(self.backend.join([state.inner for state in states]), rows)

    def attention(self, state):
        return self.backend.attention(state.inner)

    def _noted(self, state, rows, logits):
        self.given += list(zip(rows, logits, strict=True))
        return WatchedState(state, rows), logits


@dataclass
class WatchedState:
    inner: object
    rows: list

    def select(self, rows):
        return WatchedState(self.inner.select(rows), [self.rows[row] for row in rows])


def run(backend, policy, lines, **more):
    streams = [Stream(words=line.split(), complete=True) for line in lines]
    Engine(backend, policy, **more).run(streams)
    return streams


def off(backend, given_rows):
    """The largest difference from distributions of single passes."""
    worst = 0.0
    for (source, target), logits in given_rows:
        _, wanted = backend.begin(backend.encode([list(source)]), [list(target)])
        worst = max(worst, float((wanted[0].softmax(-1) - logits.softmax(-1)).abs().max()))
    return worst


@settings(max_examples=5)
@given(st.integers(0, 10**6))
def test_cached_distributions_are_those_of_a_pass_from_scratch(seed):
    rng = np.random.default_rng(seed)
    lines = [" ".join(f"w{i}" for i in rng.integers(4, 60, n)) for n in (1, 3, 5)]
    for policy in (Coin(seed), PsFuture(0.5, Fixed("w9 w8"))):
        watched = Watched(marian())
        streams = run(watched, policy, lines)
        assert off(watched.backend, watched.given) <= 1e-5
        assert sum("RW" in "".join(stream.actions) for stream in streams) > 0


def test_distributions_of_the_embedded_model_are_too():
    if assets.find("bergamot-enpt") is None:
        pytest.skip("no model: `make assets` brings bergamot-enpt")
    watched = Watched(load("enpt", device="cpu"))
    run(watched, Coin(1), ["Click the red button ."])
    run(watched, PsFuture(0.05), ["Click the red button ."])
    assert off(watched.backend, watched.given) <= 1e-5


def test_the_toy_is_fed_what_it_is_said_to_be():
    watched = Watched(ToyBackend())
    run(watched, PsFuture(0.3), sentences(8, seed=2))
    assert off(watched.backend, watched.given) == 0
    assert watched.asked["stepped"] > 0
    assert watched.asked["begun"] > 0


def test_a_write_is_a_step_and_a_read_is_a_replay():
    backend = ToyBackend()
    [stream] = run(backend, Coin(3), ["the cat sat on every second mat"])
    reads, writes = stream.actions.count("R"), stream.actions.count("W")
    assert backend.asked["begun"] == reads
    # Each token but the last of a prefix was stepped over, and `</s>` is no step.
    assert backend.asked["stepped"] == writes
    assert backend.asked["encoded"] == reads
    plain, both = ToyBackend(), ToyBackend()
    run(plain, WaitK(2), ["the cat sat on every second mat"])
    run(both, PsFuture(1.0), ["the cat sat on every second mat"])
    assert both.asked["encoded"] == 2 * reads - 1  # the whole sentence has no future


def test_a_second_run_over_one_memo_asks_nothing():
    lines, memo = sentences(8, seed=6), Memo()
    for policy in (PsFuture(0.3), WaitK(2), LocalAgreement(2), Coin(1), Offline()):
        backend = ToyBackend()
        first = run(backend, policy, lines, memo=memo)
        asked, counted = backend.asked.copy(), memo.asked
        assert run(backend, policy, lines, memo=memo) == first
        assert (backend.asked, memo.asked) == (asked, counted)


def test_the_memo_counts_rows_and_replayed_tokens():
    backend, memo = ToyBackend(), Memo()
    [stream] = run(backend, Coin(3), ["the cat sat on every mat"], memo=memo)
    assert memo.asked == backend.asked["begun"] + backend.asked["stepped"]
    actions = "".join(stream.actions)
    at = [i for i, action in enumerate(actions) if action == "R"]
    assert memo.replayed == sum(actions[:i].count("W") for i in at)


def test_a_divergence_of_ones_own_is_asked_for():
    def far(p, q):
        assert p.shape == q.shape
        assert torch.allclose(p.sum(-1), torch.ones(len(p)))
        return (p - q).abs().amax(-1)

    near = run(ToyBackend(), PsFuture(9.0, divergence=far), lines := sentences(6, seed=8))
    assert near == run(ToyBackend(), PsFuture(1.0), lines)


@dataclass(frozen=True)
class Looking(Coin):
    """Notes what it sees."""

    seen: list = None

    def write(self, view):
        self.seen.append(view)
        return super().write(view)


@pytest.mark.parametrize("seed", range(4))
def test_a_view_counts_reads_and_words_begun(seed):
    backend, seen = ToyBackend(), []
    [stream] = run(backend, Looking(seed, seen=seen), ["the cat sat on every second mat"])
    tokens, views, reads = [], iter(seen), 0
    before, told = 0, iter(stream.tokens)
    for action in stream.actions:
        if action == "R":
            reads += 1
            before = len(backend.target_text(tokens).split())
            continue
        token = next(told)
        begun = max(len(backend.target_text([*tokens, token]).split()), 1)
        if reads < len(stream.words):
            view = next(v for v in views if v.reads == reads)
            while not Coin(seed).write(view):
                view = next(views)
            assert (view.reads, view.words, view.burst) == (reads, begun, begun - before)
        tokens.append(token)


def test_a_stream_that_ended_is_left_alone():
    backend = ToyBackend()
    [stream] = run(backend, WaitK(1), ["the cat sat"])
    held, asked = list(stream.tokens), backend.asked.copy()
    Engine(backend, WaitK(1)).run([stream])
    assert (stream.tokens, backend.asked) == (held, asked)


def test_a_stream_that_waits_is_resumed():
    backend, engine = ToyBackend(), Engine(ToyBackend(), WaitK(1))
    one, other = Stream(), Stream(words=["the"])
    engine.run([one, other])
    assert (one.reads, other.reads, other.waiting) == (0, 1, True)
    one.words, other.words = ["on", "every"], ["the", "cat", "sat"]
    one.complete = True
    engine.run([one, other])
    assert one.done
    assert (other.reads, other.done) == (3, False)
    other.complete = True
    engine.run([one, other])
    assert other.done
    for stream in (one, other):
        [wanted] = run(backend, WaitK(1), [" ".join(stream.words)])
        assert (stream.tokens, stream.actions) == (wanted.tokens, wanted.actions)


def test_moves_are_those_of_the_answer():
    stream = Stream(words=["the", "cat"], reads=1, actions=["R"])
    backend = ToyBackend()
    assert stream.move(WaitK(1), Answer(0, None, 1.0), backend, 9) is Move.READ
    assert stream.move(WaitK(1), Answer(1, None, 1.0), backend, 9) is Move.WRITE
    assert stream.tokens == [1]
    assert stream.move(WaitK(1), Answer(2, None, 1.0), backend, 9) is Move.READ
    assert stream.move(WaitK(1), Answer(2, None, 1.0), backend, 1) is Move.READ


@given(st.integers(0, 500))
def test_room_grows_with_the_source_and_ends_at_the_positions(tokens):
    assert room_for(tokens) == tokens * 5 // 2 + 5
    assert room_for(tokens, 100) == min(tokens * 5 // 2 + 5, 96)


def test_units_and_policies_are_checked():
    with pytest.raises(InvalidSetting, match="word nor char"):
        Engine(ToyBackend(), WaitK(1), unit="x")
