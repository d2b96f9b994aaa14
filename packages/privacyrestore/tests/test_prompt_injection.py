"""The attack on a tiny random model: what it computes row by row, and a telltale bank."""

import pytest
import torch

from lipogram.errors import InvalidProbes, InvalidSetting
from lipogram.llm import answer_logprobs, generate
from lipogram.llm.tiny import tiny_random
from privacyrestore.prompt_injection import ASK, _raised, _written, prompt_injection
from privacyrestore.restoration import restored
from privacyrestore.restoration_bank import RestorationBank, identify
from privacyrestore.training_rows import PromptTemplate

from .banks import tiny_bank

LOADED = tiny_random("llama", layers=2, max_position_embeddings=1024)
TEXT = PromptTemplate("{question} Answer:")
ASKED = "{question} Which of {spans}?"


def queries(bank, n=6):
    sets = [(i % len(bank.vocabulary),) for i in range(n)]
    texts = ["x" * (1 + 3 * i) for i in range(n)]  # of different lengths: rows are reordered
    return torch.stack([bank.signal(s) for s in sets]).float(), texts, sets


def ask(bank, meta, texts, sets, **settings):
    return prompt_injection(
        LOADED.model,
        LOADED.tokenizer,
        bank,
        meta,
        texts,
        sets,
        **{"ask": ASKED, "template": TEXT, "max_new_tokens": 6, **settings},
    )


def test_without_a_vector_nothing_is_raised():
    bank = tiny_bank(LOADED.model, gamma=2.0)
    zero = torch.zeros(1, bank.n)
    raised = _raised(LOADED.model, LOADED.tokenizer, bank, zero, "a prompt", True)
    assert raised.abs().max() < 1e-5
    steered = _raised(
        LOADED.model, LOADED.tokenizer, bank, bank.signal([1])[None].float(), "a prompt", True
    )
    assert steered.abs().max() > 1e-3


def test_candidates_are_scored_under_the_querys_own_vector():
    bank = tiny_bank(LOADED.model, gamma=2.0)
    row = bank.signal([2])[None].float()
    ours = _raised(LOADED.model, LOADED.tokenizer, bank, row, "a prompt", True)
    for number, name in enumerate(bank.vocabulary):
        with restored(LOADED.model, bank, row):
            (with_it,) = answer_logprobs(
                LOADED.model, LOADED.tokenizer, ["a prompt"], [f" {name}"], reduction="mean"
            )
        (plain,) = answer_logprobs(
            LOADED.model, LOADED.tokenizer, ["a prompt"], [f" {name}"], reduction="mean"
        )
        assert float(ours[number]) == pytest.approx(with_it - plain, abs=1e-4)


def test_free_answers_are_those_of_each_row_alone():
    bank = tiny_bank(LOADED.model, gamma=2.0)
    meta, texts, _ = queries(bank)
    together = _written(LOADED.model, LOADED.tokenizer, bank, meta, texts, True, 8)
    for row, text in enumerate(texts):
        with restored(LOADED.model, bank, meta[row : row + 1]):
            (alone,) = generate(LOADED.model, LOADED.tokenizer, [text], max_new_tokens=8)
        assert together[row] == alone.text


def test_a_bank_whose_vectors_make_the_model_say_the_span_is_found_out():
    """Span types of one letter, and vectors trained to raise it."""
    identity = identify(LOADED.model)
    sites = [(layer, head) for layer in range(2) for head in range(4)]
    letters = ("a", "k", "q", "z")
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(4, len(sites), identity.head_dim, generator=draw).requires_grad_()
    held = RestorationBank.build(vectors, sites, letters, identity, gamma=1.0)
    prompt = TEXT.prompt(LOADED.tokenizer, ASKED.format(question="x", spans=", ".join(letters)))
    ids = torch.tensor([LOADED.tokenizer(prompt + " ")["input_ids"]] * 4)
    wanted = torch.tensor([LOADED.tokenizer(letter)["input_ids"][-1] for letter in letters])
    current = vectors
    for _ in range(60):
        meta = torch.nn.functional.normalize(current.flatten(1), dim=1)
        with restored(LOADED.model, held, meta, detach=False):
            scores = LOADED.model(input_ids=ids).logits[:, -1].log_softmax(-1)[:, wanted]
        loss = torch.nn.functional.cross_entropy(4 * scores, torch.arange(4))
        (slope,) = torch.autograd.grad(loss, current)
        step = 0.3 * current.detach().norm() / slope.norm().clamp_min(1e-9)
        current = (current - step * slope).detach().requires_grad_()
    bank = held.with_vectors(current.detach())
    sets = [(i,) for i in range(4)] * 2
    meta = torch.stack([bank.signal(s) for s in sets]).float()
    found = ask(bank, meta, ["x"] * 8, sets)
    nothing = ask(bank, torch.zeros_like(meta), ["x"] * 8, sets)
    assert found.by_likelihood.recall.value >= 0.75
    assert nothing.by_likelihood.recall.value <= 0.5


def test_scores_are_of_the_known_shape():
    bank = tiny_bank(LOADED.model)
    found = ask(bank, *queries(bank))
    for scores in (found.by_likelihood, found.by_text):
        assert 0 <= scores.recall.value <= 1
        assert 0 <= scores.chance["recall"] <= 1
    assert 0 <= found.rouge_l.value <= 1


def test_what_does_not_fit_is_refused():
    bank = tiny_bank(LOADED.model)
    meta, texts, sets = queries(bank)
    with pytest.raises(InvalidSetting, match="vectors"):
        ask(bank, meta[:2], texts, sets)
    with pytest.raises(InvalidSetting, match="question"):
        ask(bank, meta, texts, sets, ask="{spans}?")
    with pytest.raises(InvalidProbes):
        ask(bank, meta, texts, [*sets[:-1], ()])
    with pytest.raises(InvalidProbes):
        ask(bank, meta, ["x" * 2000] * len(texts), sets)
    assert "{question}" in ASK
    assert "{spans}" in ASK
