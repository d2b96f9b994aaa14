"""What the package claims of its real model, on Debian's handbook (specification, section 10)."""

from itertools import pairwise

import pytest
import torch

from lipogram import assets
from psfuture.debian_text import evaluation_split
from psfuture.metrics import score
from psfuture.models import load
from psfuture.policies import Offline, PsFuture, WaitK
from psfuture.session import Session
from psfuture.simulation import simulate, sweep_traces

NEEDED = ("bergamot-enpt", "debian-handbook", "libreoffice-help-en-us", "libreoffice-help-pt-br")
LADDER = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)


@pytest.fixture(scope="module")
def model():
    lacking = [name for name in NEEDED if assets.find(name) is None]
    if lacking:
        pytest.skip(f"no {lacking[0]} here: `psfuture demo` brings it")
    torch.set_num_threads(1)
    return load("enpt")


def sentences(count):
    text = evaluation_split("pt-br").pilot.sample(count, seed=3)
    return list(text.sources), list(text.targets)


def check_ends(model, count):
    sources, references = sentences(count)
    offline = simulate(model, Offline(), sources, references)
    longest = max(len(trace.source) for trace in offline)
    for policy in (PsFuture(-1.0), WaitK(longest)):
        traces = simulate(model, policy, sources, references)
        assert [t.text for t in traces] == [t.text for t in offline]
        assert all(set(t.delays) <= {len(t.source)} for t in traces)


def check_ladder(model, count):
    sources, references = sentences(count)
    policies = {f"{x:g}": PsFuture(x) for x in LADDER}
    scores = [score(t) for t in sweep_traces(model, policies, sources, references).values()]
    lags = [found["AL"] for found in scores]
    assert all(later >= earlier - 0.1 for earlier, later in pairwise(lags)), lags
    assert scores[-1]["BLEU"] >= scores[0]["BLEU"] + 5


def check_stream(model, count):
    sources, references = sentences(count)
    policy = PsFuture(0.02)
    traces = simulate(model, policy, sources, references)
    differing = 0
    for source, trace in zip(sources, traces, strict=True):
        near = []
        session = Session(
            model,
            policy,
            on_decision=lambda d, near=near: near.append(abs(d.divergence - policy.threshold)),
        )
        for at, word in enumerate(source.split()):
            session.push(word, last=at == len(source.split()) - 1)
        alone = session.trace
        if (alone.words, alone.delays) != (trace.words, trace.delays):
            differing += 1
            assert min(near) < 1e-4
    assert differing <= count // 100


def test_the_ends_of_every_curve_are_the_offline_translation(model):
    check_ends(model, 4)


def test_a_smaller_threshold_reads_more_and_translates_better(model):
    check_ladder(model, 8)


def test_a_stream_is_translated_as_in_the_simulation(model):
    check_stream(model, 4)


@pytest.mark.slow
def test_all_of_it_on_a_hundred_sentences(model):
    check_ends(model, 100)
    check_ladder(model, 100)
    check_stream(model, 100)
