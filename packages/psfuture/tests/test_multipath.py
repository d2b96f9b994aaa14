"""What wait-k may look at, by brute force and by what changes when the rest of the source does."""

import random

import pytest
import torch
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from lipogram.errors import InvalidSetting
from psfuture.bergamot import BergamotBackend
from psfuture.bergamot_training import BergamotForTraining
from psfuture.multipath import causal_mask, draw_k, reading, wait_k_mask

from .marian_models import SlowModel, options_of, write_model
from .p2f_models import V, marian

LENGTHS, S, T = (6, 4), 6, 5


def m2m100():
    torch.manual_seed(1)
    settings = {"vocab_size": V, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    widths = {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64}
    return M2M100ForConditionalGeneration(
        M2M100Config(**settings, **heads, **widths, init_std=0.3, decoder_start_token_id=2)
    )


def t5():
    torch.manual_seed(1)
    settings = {"vocab_size": V, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2}
    return T5ForConditionalGeneration(T5Config(**settings, num_heads=2, decoder_start_token_id=0))


class HF:
    def __init__(self, model):
        self.model = model.eval()

    def logits(self, ids, kept, labels, k, unidirectional):
        with reading(self.model, k, unidirectional=unidirectional), torch.no_grad():
            return self.model(input_ids=ids, attention_mask=kept, labels=labels).logits


class Bergamot:
    def __init__(self, folder, kind):
        write_model(folder, kind)
        self.model = BergamotForTraining(BergamotBackend.load(folder))

    def logits(self, ids, kept, labels, k, unidirectional):
        settings = {"wait_k": k, "unidirectional": unidirectional}
        with torch.no_grad():
            return self.model(ids, kept, labels, **settings).logits


@pytest.fixture(params=["marian", "marian eager", "m2m100", "t5", "ssru", "self-attention"])
def reader(request, tmp_path):
    kind = request.param
    if kind.startswith("marian"):
        return HF(marian(attn_implementation="eager" if "eager" in kind else "sdpa"))
    if kind in ("m2m100", "t5"):
        return HF({"m2m100": m2m100, "t5": t5}[kind]())
    return Bergamot(tmp_path, kind)


def some_batch(seed=0):
    drawn = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, V, (2, S), generator=drawn)
    kept = (torch.arange(S) < torch.tensor(LENGTHS)[:, None]).long()
    return ids, kept, torch.randint(4, V, (2, T), generator=drawn)


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_masks_by_brute_force(k):
    _, kept, _ = some_batch()
    cross, own = wait_k_mask(k, T, kept), causal_mask(kept)
    assert cross.shape == (2, 1, T, S)
    assert own.shape == (2, 1, S, S)
    for row, length in enumerate(LENGTHS):
        for i in range(S):
            for t in range(T):
                assert cross[row, 0, t, i] == (i < length and i < k + t)
            for j in range(S):
                assert own[row, 0, j, i] == (i < length and i <= j)


@pytest.mark.parametrize("k", [1, 3])
def test_what_is_not_read_yet_changes_nothing(reader, k):
    """With a unidirectional encoder place t depends on the first k + t source tokens alone."""
    ids, kept, labels = some_batch()
    before = reader.logits(ids, kept, labels, k, True)
    for changed in range(S):
        other = ids.clone()
        other[:, changed] = 4 + (ids[:, changed] - 4 + 7) % (V - 4)
        after = reader.logits(other, kept, labels, k, True)
        differs = (after - before).abs().amax(-1) > 1e-6
        for row, length in enumerate(LENGTHS):
            wanted = [changed < length and changed < k + t for t in range(T)]
            assert differs[row].tolist() == wanted


def test_a_bidirectional_encoder_sees_it_all_and_the_decoder_what_is_read(reader):
    ids, kept, labels = some_batch()
    all_read = reader.logits(ids, kept, labels, S, False)
    torch.testing.assert_close(all_read, reader.logits(ids, kept, labels, 99, False))
    other = ids.clone()
    other[0, 5] = 4 + (ids[0, 5] - 4 + 7) % (V - 4)
    first = reader.logits(other, kept, labels, 1, False) - reader.logits(
        ids, kept, labels, 1, False
    )
    assert first[0, 0].abs().max() > 1e-6


def test_a_marian_decoder_that_reads_word_by_word_is_the_oracle():
    """One token after another with a cache, each with a plain mask of what is read by then."""
    model, (ids, kept, labels) = marian().eval(), some_batch()
    found = HF(model).logits(ids, kept, labels, 2, False)
    start = model.config.decoder_start_token_id
    with torch.no_grad():
        states = model.get_encoder()(input_ids=ids[:1]).last_hidden_state
        cache = None
        for t, token in enumerate([start, *labels[0, :-1].tolist()]):
            step = model.get_decoder()(
                input_ids=torch.tensor([[token]]),
                encoder_hidden_states=states,
                encoder_attention_mask=(torch.arange(S) < 2 + t).long()[None],
                past_key_values=cache,
                use_cache=True,
            )
            cache = step.past_key_values
            logits = model.lm_head(step.last_hidden_state[0, 0]) + model.final_logits_bias[0]
            torch.testing.assert_close(logits, found[0, t], atol=1e-5, rtol=0)


class Waiting(SlowModel):
    """Reads two source tokens before its first, and one more before each other."""

    read, layer = 0, ""

    def attend(self, name, x, seen):
        if "context" in name:
            self.read = 2 if name != self.layer else self.read + 1
            self.layer, seen = name, seen[: self.read]
        return super().attend(name, x, seen)


def test_a_bergamot_decoder_that_reads_word_by_word_is_the_oracle(tmp_path):
    slow = Waiting(write_model(tmp_path, "ssru"), options_of("ssru"))
    model = BergamotForTraining(BergamotBackend.load(tmp_path))
    ids, kept, labels = some_batch()
    found = model(ids, kept, labels, wait_k=2).logits.detach().double()
    for t in range(T):
        slow.layer = ""
        wanted = slow.logits(ids[0].tolist(), labels[0, :t].tolist())
        torch.testing.assert_close(found[0, t], torch.from_numpy(wanted), atol=1e-4, rtol=0)


def test_the_model_is_left_as_it_was():
    model, (ids, kept, labels) = marian().eval(), some_batch()
    inputs = {"input_ids": ids, "attention_mask": kept, "labels": labels}
    before = model(**inputs).logits
    with reading(model, 1, unidirectional=True):
        assert not torch.equal(model(**inputs).logits, before)
        with pytest.raises(IndexError):
            model(**inputs | {"input_ids": ids + V})
    assert torch.equal(model(**inputs).logits, before)


def test_a_kernel_that_takes_no_such_mask_is_refused():
    model = marian()
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(InvalidSetting, match="flash_attention_2"), reading(model, 1):
        pass


def test_k_is_uniform_over_the_longest_source_and_the_same_when_drawn_again():
    ids, kept, _ = some_batch()
    drawn = [draw_k(ids, kept, seed=3, step=step) for step in range(600)]
    assert drawn == [draw_k(ids, kept, seed=3, step=step) for step in range(600)]
    assert set(drawn) == set(range(1, S + 1))
    assert all(abs(drawn.count(k) - 100) < 50 for k in set(drawn))
    others = [
        draw_k(ids.roll(1, 1), kept, seed=3, step=step)
        for step in random.Random(0).sample(range(600), 50)
    ]
    assert len(set(others)) == S
