import math

import pytest
import torch

from lipogram.errors import PatchMismatch
from lipogram.llm import describe
from privacyrestore.errors import BankMismatch
from privacyrestore.restoration import Restoration, check_model, restored

from .banks import tiny, tiny_bank

ARCHITECTURES = ["llama", "gpt2", "gpt_neox", "qwen3", "phi", "gemma2", "opt"]


def reference(x, y, rule, gamma, n_sites):
    """The rule for one head, as the paper writes it: x and y are [D]."""
    norm = math.sqrt(sum(float(v) ** 2 for v in x))
    if rule == "additive":
        return x + gamma * math.sqrt(n_sites) * norm * y
    return x + gamma * norm * float(x @ y) * y


def head_inputs(model, layer, ids, **inputs):
    """What the output projection of a layer really receives, [b, t, H·D]."""
    seen = []
    module, _ = describe(model).module("head_in", layer)
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    with torch.no_grad():
        model(ids, **inputs)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("rule", ["additive", "quadratic"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_the_rule_is_its_reference_at_every_head_and_position(model_type, rule):
    model = tiny(model_type)
    bank = tiny_bank(model, rule=rule, gamma=0.7)
    ids = torch.randint(0, 256, (2, 5), generator=torch.Generator().manual_seed(1))
    first = min(layer for layer, _ in bank.sites)
    plain = head_inputs(model, first, ids)
    meta = torch.stack([bank.signal([0, 2]), bank.signal([4])]).float()
    with restored(model, bank, meta):
        found = head_inputs(model, first, ids)
    d = bank.model.head_dim
    for row in range(2):
        y = bank.sites_of(meta)[row]
        for position in range(5):
            for head in range(bank.model.n_heads):
                x = plain[row, position, head * d : (head + 1) * d]
                if (first, head) in bank.sites:
                    vector = y[bank.sites.index((first, head))]
                    x = reference(x, vector, rule, 0.7, len(bank.sites))
                theirs = found[row, position, head * d : (head + 1) * d]
                assert (theirs - x).norm() <= 1e-6 * x.norm()


@pytest.mark.parametrize("rule", ["additive", "quadratic"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_zero_vector_is_bit_equal_to_the_plain_model(model_type, rule):
    model = tiny(model_type)
    bank = tiny_bank(model, rule=rule)
    ids = torch.randint(0, 256, (3, 6), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        plain = model(ids).logits
        with restored(model, bank, torch.zeros(3, bank.n)):
            none = model(ids).logits
        meta = torch.zeros(3, bank.n)
        meta[1] = bank.signal([1]).float()
        with restored(model, bank, meta):
            mixed = model(ids).logits
        after = model(ids).logits
    assert torch.equal(plain, none)
    assert torch.equal(plain, after)
    assert torch.equal(plain[[0, 2]], mixed[[0, 2]])
    assert (plain[1] - mixed[1]).abs().max() > 1e-2


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gpt_neox", "qwen3"])
def test_a_batch_says_what_its_rows_say_alone(model_type):
    model = tiny(model_type)
    bank = tiny_bank(model, gamma=0.4)
    draw = torch.Generator().manual_seed(3)
    lengths = [9, 4, 7, 1, 5, 9, 3, 6]
    rows = [torch.randint(0, 256, (length,), generator=draw) for length in lengths]
    meta = torch.stack([bank.signal([i % 5, (i + 2) % 5]) for i in range(8)]).float()
    meta[[2, 5]] = 0
    ids = torch.full((8, 9), 256)
    mask = torch.zeros(8, 9, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, 9 - len(row) :], mask[i, 9 - len(row) :] = row, 1
    options = {"max_new_tokens": 6, "do_sample": False, "min_new_tokens": 6}
    with restored(model, bank, meta) as restoration:
        together = model.generate(ids, attention_mask=mask, **options)[:, 9:]
        position = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            logits = model(ids, attention_mask=mask, position_ids=position).logits[:, -1]
        for i, row in enumerate(rows):
            restoration.set(meta[i : i + 1])
            alone = model.generate(row[None], attention_mask=torch.ones_like(row[None]), **options)
            assert torch.equal(alone[0, len(row) :], together[i])
            with torch.no_grad():
                own = model(row[None]).logits[0, -1]
            assert (own - logits[i]).abs().max() <= 1e-4


def test_every_generated_token_is_restored():
    model = tiny()
    bank = tiny_bank(model, gamma=0.4)
    ids = torch.randint(0, 256, (1, 4), generator=torch.Generator().manual_seed(4))
    meta = bank.signal([3])[None].float()
    with restored(model, bank, meta):
        cached = model.generate(ids, max_new_tokens=8, do_sample=False, min_new_tokens=8)
        for end in range(4, 12):  # without a cache, so that each token is a prompt's last
            with torch.no_grad():
                logits = model(cached[:, :end], use_cache=False).logits[0, -1]
            logits[258] = -math.inf
            assert logits.argmax() == cached[0, end]


def test_rows_of_different_banks_and_rules_share_a_forward_pass():
    model = tiny()
    one = tiny_bank(model, rule="additive", gamma=0.4)
    other = tiny_bank(model, rule="quadratic", gamma=3.0, every=2, seed=5)
    assert other.n != one.n
    ids = torch.randint(0, 256, (3, 6), generator=torch.Generator().manual_seed(6))
    meta = torch.zeros(3, max(one.n, other.n))
    meta[0, : one.n], meta[2, : other.n] = one.signal([1]).float(), other.signal([2]).float()
    restoration = Restoration(model, [one, other])
    restoration.set(meta, [0, None, 1])
    with torch.no_grad(), restoration.attach():
        mixed = model(ids).logits
    with torch.no_grad():
        assert torch.equal(mixed[1], model(ids).logits[1])
        for row, bank in ((0, one), (2, other)):
            with restored(model, bank, meta[row : row + 1, : bank.n]):
                alone = model(ids[row : row + 1]).logits[0]
            assert (alone - mixed[row]).abs().max() < 1e-4


def test_coordinates_in_the_basis_are_the_same_vector():
    model = tiny("gpt2")
    bank = tiny_bank(model)
    ids = torch.tensor([[1, 2, 3]])
    meta = bank.signal([0, 1])[None].float()
    found = []
    for given in (meta, bank.coordinates(meta).float(), bank.sites_of(meta)):
        with torch.no_grad(), restored(model, bank, given):
            found.append(model(ids).logits)
    assert (found[0] - found[1]).abs().max() < 1e-4
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("rule", ["additive", "quadratic"])
def test_the_whole_derivative_is_that_of_finite_differences(rule):
    model = tiny("gpt2", width=16).double()  # Llama's norms compute in float32 whatever comes in
    bank = tiny_bank(model, rule=rule)
    ids = torch.tensor([[5, 6, 7, 8]])

    def loss(meta):
        restoration = Restoration(model, bank, detach=False)
        restoration.set(meta)
        with restoration.attach():
            return model(ids).logits[0, -1].logsumexp(0)

    meta = bank.signal([0, 1])[None].requires_grad_()
    assert torch.autograd.gradcheck(loss, (meta,), eps=1e-6, atol=1e-5)


def test_detached_the_last_factor_alone_has_a_gradient():
    model = tiny(layers=1)
    bank = tiny_bank(model, rule="quadratic", gamma=2.0, every=1)
    ids = torch.tensor([[5, 6, 7]])
    d = bank.model.head_dim
    x = head_inputs(model, 0, ids).unflatten(-1, (-1, d))
    meta = bank.signal([0, 1])[None].float().requires_grad_()
    captured = []
    module, _ = describe(model).module("head_in", 0)
    restoration = Restoration(model, bank)
    restoration.set(meta)
    with restoration.attach():
        handle = module.register_forward_pre_hook(lambda _, args: captured.append(args[0]))
        model(ids)
        handle.remove()
    draw = torch.randn(captured[0].shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((captured[0] * draw).sum(), meta)
    y = bank.sites_of(meta.detach())[0]
    coefficient = 2.0 * x[0].norm(dim=-1) * torch.einsum("thd,hd->th", x[0], y)
    ours = torch.einsum("th,thd->hd", coefficient, draw[0].unflatten(-1, (-1, d)))
    assert torch.allclose(gradient.view_as(ours), ours, atol=1e-5)


def test_beams_and_samples_repeat_their_prompts_vector():
    model = tiny()
    bank = tiny_bank(model, gamma=0.4)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    meta = torch.stack([bank.signal([0]), bank.signal([1])]).float()
    with restored(model, bank, meta):
        twice = model.generate(
            ids, max_new_tokens=3, do_sample=False, num_beams=2, num_return_sequences=2
        )
    for row in range(2):
        with restored(model, bank, meta[row : row + 1]):
            alone = model.generate(
                ids[row : row + 1],
                max_new_tokens=3,
                do_sample=False,
                num_beams=2,
                num_return_sequences=2,
            )
        assert torch.equal(alone, twice[2 * row : 2 * row + 2, : alone.shape[1]])


def test_half_precision_and_adapters():
    from peft import get_peft_model

    from lipogram.llm import lora_config

    model = tiny()
    bank = tiny_bank(model, gamma=0.4)
    ids = torch.tensor([[1, 2, 3]])
    meta = bank.signal([0])[None].float()
    with torch.no_grad(), restored(model, bank, meta):
        plain = model(ids).logits
    adapted = get_peft_model(model, lora_config(model))
    with torch.no_grad(), restored(adapted, bank, meta):
        assert torch.equal(adapted(ids).logits, plain)  # a fresh adapter adds nothing
    half = tiny().to(torch.bfloat16)
    with torch.no_grad(), restored(half, bank, meta):
        assert half(ids).logits.dtype == torch.bfloat16


def test_vectors_that_do_not_fit():
    model = tiny()
    bank = tiny_bank(model)
    for shape in ((2, bank.n + 1), (2, 3, 3), (bank.n,)):
        with pytest.raises(PatchMismatch, match="must be"):
            Restoration(model, bank).set(torch.zeros(shape))
    with pytest.raises(PatchMismatch, match="banks are named"):
        Restoration(model, bank).set(torch.zeros(2, bank.n), [0])
    with pytest.raises(PatchMismatch, match="vectors for 2 rows"):
        with restored(model, bank, torch.zeros(2, bank.n)), torch.no_grad():
            model(torch.tensor([[1, 2]] * 3))
    assert not describe(model).module("head_in", 0)[0]._forward_pre_hooks


def test_a_bank_of_another_model_is_refused():
    bank = tiny_bank(tiny(layers=3))
    with pytest.raises(BankMismatch, match="3 layers"):
        Restoration(tiny(layers=2), bank)
    other = tiny(layers=3, rms_norm_eps=1e-3)
    Restoration(other, bank)
    with pytest.raises(BankMismatch, match="config_sha256"):
        check_model(other, bank)
    check_model(tiny(layers=3, seed=9), bank)
