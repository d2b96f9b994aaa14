import pytest
import torch

from lipogram.errors import InvalidSetting
from lipogram.llm.text import Encoded, pad
from lipogram.llm.tiny import EOS, PAD, tiny_random
from privacyrestore.errors import BankMismatch, InvalidPayload
from privacyrestore.restoration import restored
from privacyrestore.steered_model import SteeredModel

from .banks import loose_identity, random_bank, tiny_bank

DRAW = torch.Generator().manual_seed(3)
PROMPTS = [torch.randint(0, 256, (n,), generator=DRAW).tolist() for n in (4, 11, 7)]
N_NEW = 8


def steered(model_type="llama", **settings):
    loaded = tiny_random(model_type)
    return SteeredModel(loaded.model, loaded.tokenizer, tiny_bank(loaded.model, **settings))


def only(model):
    (bank,) = model.banks.values()
    return bank


def without_cache(model, bank, prompt, vector):
    """Greedy tokens by whole forward passes over one row, no cache and no padding."""
    ids = list(prompt)
    with torch.no_grad(), restored(model, bank, vector[None]):
        while len(ids) < len(prompt) + N_NEW and ids[-1] != EOS:
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def generated(model, prompts, meta, **options):
    """Greedy tokens of a left-padded batch."""
    batch = pad([Encoded(prompt, []) for prompt in prompts], PAD)
    out = model.generate(
        batch.input_ids,
        batch.attention_mask,
        meta,
        max_new_tokens=N_NEW,
        do_sample=False,
        **options,
    )
    rows = out[:, batch.input_ids.shape[1] :].tolist()
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]


@pytest.mark.parametrize("rule", ["additive", "quadratic"])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gpt_neox", "qwen3"])
def test_a_padded_batch_is_restored_as_whole_passes_over_each_row_are(model_type, rule):
    model = steered(model_type, rule=rule, gamma=2.0)
    bank = only(model)
    meta = torch.stack([bank.signal([0]), torch.zeros(bank.n), bank.signal([1, 3])]).float()
    expected = [
        without_cache(model.model, bank, prompt, vector)
        for prompt, vector in zip(PROMPTS, meta, strict=True)
    ]
    assert generated(model, PROMPTS, meta) == expected
    assert generated(model, PROMPTS, [meta[0], None, meta[2]]) == expected
    assert generated(model, PROMPTS, None) != expected


def test_a_vector_may_come_in_three_shapes():
    model = steered()
    bank = only(model)
    vector = bank.signal([0, 4]).float()
    shapes = [vector, bank.coordinates(vector), bank.sites_of(vector)]
    assert {len(shape.flatten()) for shape in shapes} == {bank.n, bank.rank}
    for shape in shapes:
        torch.testing.assert_close(model.vector(shape), vector, rtol=0, atol=1e-6)
    one = generated(model, PROMPTS[:1], vector[None])
    assert generated(model, PROMPTS[:1], shapes[1][None]) == one
    assert generated(model, PROMPTS[:1], shapes[2][None]) == one


def test_beams_and_samples_keep_the_vector_of_their_prompt():
    model = steered(gamma=2.0)
    bank = only(model)
    meta = torch.stack([bank.signal([0]), bank.signal([1])]).float()
    both = generated(model, PROMPTS[:2], meta, num_beams=3)
    for row in range(2):
        assert generated(model, [PROMPTS[row]], meta[row : row + 1], num_beams=3) == [both[row]]


def test_banks_of_other_sites_and_rules_share_a_pass():
    loaded = tiny_random("llama")
    few = tiny_bank(loaded.model, every=5, rule="quadratic", gamma=3.0)
    many = tiny_bank(loaded.model, every=2, seed=1, gamma=1.0)
    both = SteeredModel(loaded.model, loaded.tokenizer, [few, many])
    meta = [few.signal([1]).float(), None, many.signal([2]).float()]
    names = [few.sha256, None, many.sha256]
    expected = [
        without_cache(loaded.model, few, PROMPTS[0], meta[0]),
        without_cache(loaded.model, few, PROMPTS[1], torch.zeros(few.n)),
        without_cache(loaded.model, many, PROMPTS[2], meta[2]),
    ]
    assert generated(both, PROMPTS, meta, banks=names) == expected
    for wrong in (None, "0" * 64):
        with pytest.raises(BankMismatch, match="2 banks"):
            generated(both, PROMPTS[:1], meta[:1], banks=[wrong])
    with pytest.raises(InvalidSetting, match="twice"):
        SteeredModel(loaded.model, loaded.tokenizer, [few, few])


def test_from_pretrained_takes_the_bank_of_that_model_only():
    ours = tiny_bank(tiny_random("llama").model)
    model = SteeredModel.from_pretrained("tiny-random:llama", ours)
    assert list(model.banks) == [ours.sha256]
    assert generated(model, PROMPTS[:1], None) == generated(steered(), PROMPTS[:1], None)
    for other in (
        tiny_bank(tiny_random("llama", layers=2).model),
        tiny_bank(tiny_random("gpt2").model),
    ):
        with pytest.raises(BankMismatch):
            SteeredModel.from_pretrained("tiny-random:llama", other)
    foreign = random_bank(loose_identity(3, 4, 16), [(0, 1)], 3)
    with pytest.raises(BankMismatch, match="head_dim"):
        SteeredModel.from_pretrained("tiny-random:llama", foreign)


def test_bad_vectors_are_refused_and_leave_the_model_as_it_was():
    model = steered()
    bank = only(model)
    good = bank.signal([2]).float()
    before = generated(model, PROMPTS[:1], good[None])
    plain = model.model(torch.tensor([PROMPTS[0]])).logits
    for bad in (good[:-1], good.new_zeros(2, 2), good * float("nan"), good / 0.0):
        with pytest.raises(InvalidPayload):
            generated(model, PROMPTS[:1], [bad])
    with pytest.raises(InvalidSetting, match="1 rows with 2 vectors"):
        generated(model, PROMPTS[:1], [good, good])
    with pytest.raises(InvalidSetting, match="3 banks"):
        generated(model, PROMPTS[:1], [good], banks=[None] * 3)
    with pytest.raises(ValueError, match="no_such_option"):
        generated(model, PROMPTS[:1], [good], no_such_option=1)
    assert torch.equal(model.model(torch.tensor([PROMPTS[0]])).logits, plain)  # no hook is left
    assert generated(model, PROMPTS[:1], good[None]) == before
