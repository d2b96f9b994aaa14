import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from lipogram.errors import UnsupportedArchitecture
from privacyrestore.row_cache import RowCache, check_cache

from .banks import tiny

LAYERS, HEADS, D = 2, 2, 3


def filled(lengths, start):
    """A cache whose row i, token j holds the number start + 1000·i + j; padding holds −1."""
    cache = RowCache(lengths)
    keys = torch.full((len(lengths), HEADS, cache.width, D), -1.0)
    for i, length in enumerate(lengths):
        for j in range(length):
            keys[i, :, cache.width - length + j] = start + 1000 * i + j
    for layer in range(LAYERS):
        cache.cache.update(keys + 100_000 * layer, -keys, layer)
    return cache


def contents(cache):
    """Each row's tokens by the mask: what a model attends to."""
    mask = cache.mask(torch.device("cpu")).bool()
    found = []
    for i in range(len(cache.lengths)):
        found.append([float(v) for v in cache.cache.layers[0].keys[i, 0, mask[i], 0]])
        for number, layer in enumerate(cache.cache.layers):
            assert layer.keys.shape == (len(cache.lengths), HEADS, cache.width, D)
            rows = layer.keys[i, :, mask[i]] - 100_000 * number
            assert torch.equal(rows, -layer.values[i, :, mask[i]])
            assert (rows == torch.tensor(found[i])[None, :, None]).all()
    return found


@given(
    batches=st.lists(
        st.tuples(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.randoms()),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=60)
def test_rows_that_join_and_leave_in_any_order_keep_their_tokens(batches):
    cache, expected = RowCache([]), []
    for number, (lengths, draw) in enumerate(batches):
        start = 10 * number
        cache.join(filled(lengths, start))
        expected += [
            [start + 1000 * i + j for j in range(length)] for i, length in enumerate(lengths)
        ]
        assert contents(cache) == expected
        stay = [i for i in range(len(expected)) if draw.random() < 0.6] or [0]
        cache.keep(stay)
        expected = [expected[i] for i in stay]
        assert contents(cache) == expected
        assert cache.width == max(map(len, expected))  # no column that nobody needs


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma3", "mistral"])
def test_full_and_sliding_attention_are_taken(model_type):
    check_cache(tiny(model_type))


@pytest.mark.parametrize(
    ("model_type", "settings", "named"),
    [
        ("mamba", {"num_hidden_layers": 1, "state_size": 4}, "LinearAttention"),
        (
            "llama4_text",
            {
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "intermediate_size": 32,
                "intermediate_size_mlp": 32,
                "num_local_experts": 2,
            },
            "chunked_attention",
        ),
    ],
)
def test_other_states_are_refused_by_name(model_type, settings, named):
    config = AutoConfig.for_model(model_type, hidden_size=32, vocab_size=64, **settings)
    with pytest.raises(UnsupportedArchitecture, match=named):
        check_cache(AutoModelForCausalLM.from_config(config))


def test_no_row_may_stay():
    cache = filled([3, 5], 0)
    cache.keep([])
    assert (cache.width, cache.lengths) == (0, [])
    assert all(layer.keys.shape[0] == 0 for layer in cache.cache.layers)
    cache.join(filled([2], 10))
    assert contents(cache) == [[10, 11]]
