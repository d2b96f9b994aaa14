import itertools
import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftunlearn.kolmogorov_smirnov import ks_two_sample
from ftunlearn.probes import Probe
from ftunlearn.tofu_metrics import (
    TofuScores,
    extraction_strength,
    forget_quality,
    harmonic_mean,
    model_utility,
    tofu_scores,
    truth_ratio_forget,
    truth_ratio_retain,
)
from lipogram.errors import InvalidProbes
from lipogram.llm.tiny import tiny_random

PROBES = [
    Probe("a", "Who writes?", " Ann does", (), "forget", " It is Ann", (" Bo does", " Cy did it")),
    Probe("b", "What colour is a leaf, mostly?", " Green", (), "forget", None, (" Red",)),
    Probe("c", "?", " Yes, of course, and more than that", (), "forget"),
]


def rows_of(model, tokenizer, prompt, answer):
    """Log-probabilities and greediness of the answer's tokens, one forward each, in float64."""
    ids = tokenizer(prompt)["input_ids"]
    found = []
    for token in tokenizer(answer)["input_ids"]:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].double()
        found.append((float(logits.log_softmax(-1)[token]), int(logits.argmax()) == token))
        ids.append(token)
    return found


def says(model, tokenizer, prompt, n):
    ids = tokenizer(prompt)["input_ids"]
    for _ in range(n):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(ids[len(tokenizer(prompt)["input_ids"]) :], skip_special_tokens=True)


def recall(text, answer):
    """Longest common subsequence of words by trying all choices, over the answer's length."""
    words, wanted = (re.findall("[a-z0-9]+", one.lower()) for one in (text, answer))
    for length in range(len(wanted), 0, -1):
        for chosen in itertools.combinations(wanted, length):
            rest = iter(words)
            if all(word in rest for word in chosen):
                return length / len(wanted)
    return 0.0


def test_scores_equal_a_loop():
    loaded = tiny_random("llama", seed=3)
    model, tokenizer = loaded.model, loaded.tokenizer
    own = "z " + says(model, tokenizer, "qq", 6) + " y"  # an answer with words that it says
    probes = [*PROBES, Probe("d", "qq", own)]
    scores = tofu_scores(model, tokenizer, probes, max_new_tokens=6)
    assert scores.ids == ("a", "b", "c", "d")

    def mean(prompt, text):
        return np.mean([logprob for logprob, _ in rows_of(model, tokenizer, prompt, text)])

    said = [says(model, tokenizer, probe.prompt, 6) for probe in probes]
    for i, probe in enumerate(probes):
        assert scores.rouge_l[i] == pytest.approx(recall(said[i], probe.answer))
        rows = rows_of(model, tokenizer, probe.prompt, probe.answer)
        own = math.exp(np.mean([logprob for logprob, _ in rows]))
        assert scores.probability[i] == pytest.approx(own, rel=1e-5)
        assert scores.exact_memorization[i] == np.mean([greedy for _, greedy in rows])
        if not probe.perturbed_answers:
            assert np.isnan(scores.truth_ratio[i])
            assert np.isnan(scores.relative_probability[i])
            continue
        wrong = [mean(probe.prompt, text) for text in probe.perturbed_answers]
        right = mean(probe.prompt, probe.paraphrased_answer or probe.answer)
        ratio = math.exp(np.mean(wrong)) / math.exp(right)
        assert scores.truth_ratio[i] == pytest.approx(ratio, rel=1e-5)
        relative = own / (own + sum(math.exp(one) for one in wrong))
        assert scores.relative_probability[i] == pytest.approx(relative, rel=1e-5)


def test_what_the_model_says_itself_is_memorised():
    loaded = tiny_random("gpt2", seed=1)
    prompt, ids = "Once", loaded.tokenizer("Once")["input_ids"]
    for _ in range(8):
        with torch.no_grad():
            ids.append(int(loaded.model(torch.tensor([ids])).logits[0, -1, :128].argmax()))
    said = loaded.tokenizer.decode(ids)[len(prompt) :]
    scores = tofu_scores(loaded.model, loaded.tokenizer, [Probe("a", prompt, said)])
    greedy = [hit for _, hit in rows_of(loaded.model, loaded.tokenizer, prompt, said)]
    assert scores.exact_memorization[0] == np.mean(greedy)
    assert scores.extraction_strength[0] == extraction_strength(greedy)


def test_probes_without_an_answer_are_refused():
    loaded = tiny_random()
    with pytest.raises(InvalidProbes, match="'x' has no answer"):
        tofu_scores(loaded.model, loaded.tokenizer, [Probe("x", "p")])
    with pytest.raises(InvalidProbes, match="no probes"):
        tofu_scores(loaded.model, loaded.tokenizer, [])


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_extraction_strength_equals_its_definition(greedy):
    n = len(greedy)
    k = next(k for k in range(n + 1) if all(greedy[k:]))
    assert extraction_strength(greedy) == pytest.approx(1 - k / n)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8))
def test_truth_ratios_and_harmonic_mean_equal_loops(ratios):
    n = len(ratios)
    assert truth_ratio_forget(ratios) == pytest.approx(sum(min(r, 1 / r) for r in ratios) / n)
    assert truth_ratio_retain(ratios) == pytest.approx(sum(max(0, 1 - r) for r in ratios) / n)
    assert harmonic_mean(ratios) == pytest.approx(n / sum(1 / r for r in ratios))
    assert truth_ratio_forget([*ratios, np.nan]) == pytest.approx(truth_ratio_forget(ratios))
    assert harmonic_mean([*ratios, 0.0]) == 0
    assert truth_ratio_forget([0.0]) == 0


def test_model_utility_is_the_harmonic_mean_of_nine():
    def scores(probability, relative, rouge, ratio):
        columns = [np.asarray([value, value]) for value in (probability, relative, rouge, ratio)]
        return TofuScores(("a", "b"), *columns, np.zeros(2), np.zeros(2))

    sets = scores(0.9, 0.1, 0.8, 0.3), scores(0.2, 0.6, 0.5, 0.4), scores(0.1, 0.7, 0.9, 0.2)
    nine = [0.9, 0.8, 0.7, 0.6, 0.5, 0.6, 0.7, 0.9, 0.8]
    assert model_utility(*sets) == pytest.approx(9 / sum(1 / x for x in nine))
    with pytest.raises(InvalidProbes, match="no perturbed answers"):
        model_utility(*sets[:2], scores(0.5, np.nan, 0.5, np.nan))


def exact_p(n, m, reached):
    """Share of the orders of n and m values whose statistic is at least `reached`, by counting."""
    counts = {(0, 0): 1}  # orders that have stayed below so far
    for i in range(n + 1):
        for j in range(m + 1):
            if i or j:
                inside = abs(Fraction(i, n) - Fraction(j, m)) < reached
                ways = counts.get((i - 1, j), 0) + counts.get((i, j - 1), 0)
                counts[i, j] = ways if inside else 0
    return 1 - Fraction(counts[n, m], math.comb(n + m, n))


@given(st.permutations(range(13)), st.integers(1, 12))
def test_the_exact_p_value_counts_orders(order, n):
    a, b = order[:n], order[n:]
    statistic, p = ks_two_sample(a, b)
    points = range(-1, 14)
    true = max(
        abs(Fraction(sum(x <= t for x in a), n) - Fraction(sum(x <= t for x in b), 13 - n))
        for t in points
    )
    assert statistic == pytest.approx(float(true))
    assert p == pytest.approx(float(exact_p(n, 13 - n, true)), rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(5, 7), (40, 400), (400, 400), (1200, 1500)])
def test_the_ks_test_equals_scipy(n, m):
    stats = pytest.importorskip("scipy.stats", reason="pip install scipy")
    generator = np.random.default_rng(n)
    for shift in (0.0, 0.3, 1.0):
        a, b = generator.normal(size=n), generator.normal(shift, size=m)
        exact = n * m <= 1_000_000
        wanted = stats.ks_2samp(a, b, method="exact" if exact else "asymp")
        statistic, p = ks_two_sample(a, b)
        assert statistic == pytest.approx(wanted.statistic, rel=1e-12)
        if exact:
            assert p == pytest.approx(wanted.pvalue, rel=1e-9)
            assert forget_quality(a, b) == p
        else:  # another limit there, of the same order
            assert p == pytest.approx(wanted.pvalue, rel=0.1, abs=1e-12)


def test_equal_samples_are_from_one_distribution():
    assert ks_two_sample([1, 2, 2, 3], [3, 2, 1, 2]) == (0.0, 1.0)
    assert ks_two_sample([0.0], [1.0]) == (1.0, 1.0)
    for broken in ([], [math.nan]):
        with pytest.raises(InvalidProbes):
            ks_two_sample(broken, [1.0])
