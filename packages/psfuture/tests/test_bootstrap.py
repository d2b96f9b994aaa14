"""The bootstrap against sacrebleu, plain loops, and what must be true of any data."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from lipogram.errors import InvalidSetting
from psfuture.bootstrap import bands, bleu_of, bleu_statistics, compare_at, verdict
from psfuture.metrics import corpus_latency
from psfuture.trace import Trace

WORDS = "a casa grande fica na rua de cima e o cão dorme , sim .".split()


def made(source, words, delays, reference):
    return Trace(tuple(source), tuple(words), tuple(delays), reference=reference)


def curve(lags, qualities, *, count=60, seed=0):
    """Points that keep each word of the reference with a chance, `lag` words behind."""
    made_of = {}
    for knob, (lag, quality) in enumerate(zip(lags, qualities, strict=True)):
        traces = []
        for at in range(count):
            draw = random.Random(f"{seed} {at}")
            source = [f"s{at}"] + ["x"] * draw.randint(5, 14)
            reference = draw.choices(WORDS, k=len(source))
            noise = random.Random(f"{seed} {at} {quality}")
            words = [word if noise.random() < quality else "?" for word in reference]
            delays = [min(lag + at, len(source)) for at in range(len(words))]
            traces.append(made(source, words, delays, " ".join(reference)))
        made_of[knob] = traces
    return made_of


BETTER = curve((2, 4, 7), (0.75, 0.85, 0.95))
WORSE = curve((1, 3, 6, 8), (0.5, 0.6, 0.7, 0.8))

texts = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
pairs = st.lists(st.tuples(texts, texts), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(pairs)
def test_bleu_of_the_sums_is_sacrebleus_corpus_bleu(lines):
    outputs, references = map(list, zip(*lines, strict=True))
    ours = bleu_of(bleu_statistics(outputs, references).sum(0))
    assert float(ours) == pytest.approx(BLEU().corpus_score(outputs, [references]).score, abs=1e-10)


def test_bleu_of_long_corpora_and_another_tokeniser():
    traces = BETTER[0]
    outputs, references = [t.text for t in traces], [t.reference for t in traces]
    for tokenize in ("13a", "char", "none"):
        ours = bleu_of(bleu_statistics(outputs, references, tokenizer=tokenize).sum(0))
        theirs = BLEU(tokenize=tokenize).corpus_score(outputs, [references]).score
        assert float(ours) == pytest.approx(theirs, abs=1e-10)


def test_a_point_is_what_metrics_and_sacrebleu_say_of_its_traces():
    for band in bands("AL", BETTER, resamples=10):
        traces = BETTER[band.knob]
        assert band.latency == pytest.approx(corpus_latency(traces).values["AL"], abs=1e-9)
        score = BLEU().corpus_score([t.text for t in traces], [[t.reference for t in traces]])
        assert band.bleu == pytest.approx(score.score, abs=1e-10)
        assert band.low <= band.bleu <= band.high


def test_a_curve_does_not_differ_from_itself():
    for row in compare_at("AL", [2.5, 3.0, 5.0], BETTER, BETTER, resamples=200):
        assert row.difference == row.low == row.high == 0
        assert row.verdict == "not told apart"


def test_both_directions_are_one_comparison():
    there = compare_at("LAAL", [3.0, 5.0], BETTER, WORSE, resamples=200)
    back = compare_at("LAAL", [3.0, 5.0], WORSE, BETTER, resamples=200)
    for one, other in zip(there, back, strict=True):
        assert one.difference == -other.difference
        assert (one.low, one.high) == (-other.high, -other.low)
        assert (one.verdict, other.verdict) == ("higher", "lower")


def test_an_interval_is_that_of_a_plain_loop_over_resamples():
    count = 20
    ours, theirs = curve((2, 5), (0.75, 0.9), count=count), curve((1, 6), (0.5, 0.7), count=count)
    row = compare_at("AL", [4.0], ours, theirs, resamples=60, seed=3)[0]
    keyed, rival = (
        {knob: sorted(ts, key=lambda t: (t.source, t.reference)) for knob, ts in points.items()}
        for points in (ours, theirs)
    )
    found = []
    for weights in np.random.default_rng(3).multinomial(count, [1 / count] * count, size=60):
        chosen = [at for at, often in enumerate(weights) for _ in range(often)]
        ends = []
        for points in (keyed, rival):
            read = []
            for traces in points.values():
                drawn = [traces[at] for at in chosen]
                score = BLEU().corpus_score([t.text for t in drawn], [[t.reference for t in drawn]])
                read.append((corpus_latency(drawn).values["AL"], score.score))
            ends.append(np.interp(4.0, *zip(*sorted(read), strict=True)))
        found.append(ends[0] - ends[1])
    assert row.low == pytest.approx(np.quantile(found, 0.025, method="lower"), abs=1e-9)
    assert row.high == pytest.approx(np.quantile(found, 0.975, method="higher"), abs=1e-9)


def test_the_order_of_sentences_does_not_matter():
    def shuffled(points, seed):
        return {
            knob: random.Random(f"{seed}{knob}").sample(traces, len(traces))
            for knob, traces in points.items()
        }

    straight = compare_at("AL", [3.0, 5.0], BETTER, WORSE, resamples=100)
    assert compare_at("AL", [3.0, 5.0], shuffled(BETTER, 1), shuffled(WORSE, 2), resamples=100) == (
        straight
    )


def test_moving_a_curve_along_the_latency_moves_where_it_is_read_off():
    slower = curve((3, 5, 8), (0.75, 0.85, 0.95))
    row = compare_at("AL", [4.5], BETTER, slower, resamples=200)[0]
    assert row.a > row.b
    assert row.verdict == "higher"


@pytest.mark.parametrize(
    ("at", "names"),
    [(0.2, ["first"]), (7.5, ["first"]), (0.0, ["first", "second"]), (50.0, ["first", "second"])],
)
def test_nothing_is_read_off_beyond_an_end(at, names):
    row = compare_at(
        "AL", [at], BETTER, WORSE, names=("first", "second"), resamples=50, confidence=0.9
    )[0]
    assert (row.difference, row.low, row.high) == (None, None, None)
    assert row.verdict == "not compared"
    for name in names:
        low, high = (
            corpus_latency((BETTER if name == "first" else WORSE)[knob]).values["AL"]
            for knob in (0, 2 if name == "first" else 3)
        )
        assert f"{name} reaches AL {low:.3g} to {high:.3g}" in row.gap


def test_a_latency_at_the_very_end_is_a_gap_where_resamples_fall_outside():
    end = corpus_latency(BETTER[2]).values["AL"]
    row = compare_at("AL", [end - 1e-6], BETTER, WORSE, resamples=200)[0]
    assert row.a is not None
    assert row.difference is None
    assert "resamples" in row.gap


def test_empty_translations_count_in_bleu_and_not_in_latency():
    emptied = {knob: list(traces) for knob, traces in BETTER.items()}
    for knob, traces in emptied.items():
        emptied[knob][0] = made(traces[0].source, [], [], traces[0].reference)
    for before, after in zip(
        bands("AL", BETTER, resamples=5), bands("AL", emptied, resamples=5), strict=True
    ):
        rest = emptied[after.knob][1:]
        assert after.latency == pytest.approx(corpus_latency(rest).values["AL"])
        assert after.bleu < before.bleu


def test_no_win_is_called_over_an_interval_that_covers_zero():
    assert verdict(-0.1, 3.0) == verdict(-3.0, 0.1) == verdict(0.0, 1.0) == "not told apart"
    assert verdict(0.1, 3.0) == "higher"
    assert verdict(-3.0, -0.1) == "lower"
    assert verdict(None, None) == "not compared"


def test_what_cannot_be_paired_is_refused():
    fewer = {knob: traces[:-1] for knob, traces in BETTER.items()}
    blind = {knob: [t.with_reference(None) for t in traces] for knob, traces in BETTER.items()}
    mixed = {0: BETTER[0], 1: BETTER[1][:-1]}
    for other in (fewer, blind, mixed, {}, {0: []}):
        with pytest.raises(InvalidSetting):
            compare_at("AL", [3.0], BETTER, other)
    with pytest.raises(InvalidSetting, match="0 resamples"):
        compare_at("AL", [3.0], BETTER, BETTER, resamples=0)
    with pytest.raises(InvalidSetting, match=r"1\.5"):
        compare_at("AL", [3.0], BETTER, BETTER, confidence=1.5)
    with pytest.raises(InvalidSetting, match="LAG"):
        compare_at("LAG", [3.0], BETTER, BETTER)


@pytest.mark.slow
def test_nineteen_intervals_of_twenty_cover_the_truth():
    def both(count, seed):
        return (
            curve((2, 5), (0.8, 0.9), count=count, seed=seed),
            curve((2, 5), (0.7, 0.85), count=count, seed=seed),
        )

    truth = compare_at("AL", [4.0], *both(4000, -1), resamples=1)[0]
    assert truth.a is not None
    trials = [compare_at("AL", [4.0], *both(80, seed), resamples=300)[0] for seed in range(150)]
    covered = [t.low <= truth.a - truth.b <= t.high for t in trials]
    assert 0.88 <= np.mean(covered) <= 0.99
